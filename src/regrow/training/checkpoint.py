"""Checkpoints that are whole or not there.

A checkpoint is a directory ``step-00000012`` with safetensors files and ``state.json``, which names
them. One process writes ``model.safetensors`` and ``optimizer.safetensors`` (not in the last one of
a run); of several, each writes its own part of both in a file (torch.distributed.checkpoint). Any
number of processes reads either. A checkpoint is written under a hidden name, forced to disk and
renamed, so what bears the name is complete; older ones go only after that.
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from regrow.errors import UserError
from regrow.files import save_tensors, sync_directory
from regrow.training.processes import Processes

_NAME = re.compile(r"step-(\d{8})")
_PARTIAL = ".partial-"
_FILES = "files"

Optimizers = Sequence[torch.optim.Optimizer]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: where it lies and what ``state.json`` says."""

    path: Path
    state: dict[str, Any]


def save_checkpoint(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizers: Optimizers | None,
    state: dict[str, Any],
    processes: Processes,
) -> None:
    """Writes a checkpoint and removes all older ones; called by all processes alike.

    Raises:
        UserError: it cannot be written, as on a full disk; older ones stay.
    """
    final = directory / f"step-{step:08d}"
    partial = directory / f"{_PARTIAL}{final.name}"

    def begin() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        _clear_partial(directory)
        partial.mkdir()

    def finish() -> None:
        files = sorted(path.name for path in partial.iterdir())
        (partial / "state.json").write_text(json.dumps({**state, _FILES: files}, indent=1))
        for path in [*partial.iterdir(), partial]:
            sync_directory(path)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        sync_directory(directory)

    try:
        processes.in_first(lambda: _written(final, begin))
        _write(partial, model, optimizers, processes)
        processes.in_first(lambda: _written(final, finish))
    except BaseException:
        if processes.first:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if processes.first:
        for path in _complete(directory):
            if path != final:
                shutil.rmtree(path)


def _written(path: Path, work: Callable[[], None]) -> None:
    try:
        work()
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write(
    partial: Path, model: nn.Module, optimizers: Optimizers | None, processes: Processes
) -> None:
    weights = _model_tensors(model)
    moments = _optimizer_tensors(model, optimizers or ())
    if processes.count == 1:
        save_tensors(weights, partial / "model.safetensors")
        if optimizers is not None:
            save_tensors(moments, partial / "optimizer.safetensors")
        return
    try:
        save(
            {**weights, **moments},
            storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True),
        )
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise UserError(f"{partial}: cannot be written: {reason}") from error


def last_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest complete checkpoint in a directory, if any; clears what was left half-written."""
    if not directory.is_dir():
        return None
    _clear_partial(directory)
    paths = _complete(directory)
    if not paths:
        return None
    try:
        state = json.loads((paths[-1] / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(_broken(paths[-1] / "state.json", error)) from None
    return Checkpoint(paths[-1], state)


@torch.no_grad()
def load_checkpoint(
    checkpoint: Checkpoint, model: nn.Module, optimizers: Optimizers | None
) -> None:
    """Puts the weights, and the state of the optimisers where they are given, back in place.

    Raises:
        UserError: the checkpoint belongs to another model, or its files are damaged.
    """
    saved = _shapes(checkpoint)
    wanted = _model_tensors(model)
    weights = {name: shape for name, shape in saved.items() if "/" not in name}
    if weights != {name: tensor.shape for name, tensor in wanted.items()}:
        raise UserError(
            f"{checkpoint.path}: a checkpoint of another model; remove {checkpoint.path.parent} "
            "or name another directory"
        )
    if optimizers is not None:
        _make_room(model, optimizers, saved)
        wanted |= _optimizer_tensors(model, optimizers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        load(wanted, storage_reader=HuggingFaceStorageReader(str(checkpoint.path)))


def _shapes(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    """Of all tensors, put together from their parts. Raises UserError where a file is damaged."""
    for name in checkpoint.state[_FILES]:
        path = checkpoint.path / name
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(_broken(path, error)) from None
    metadata = HuggingFaceStorageReader(str(checkpoint.path)).read_metadata()
    found: dict[str, Any] = metadata.state_dict_metadata
    return {name: entry.size for name, entry in found.items()}


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and saved buffer once, tied ones under their first name."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def _optimizer_tensors(model: nn.Module, optimizers: Optimizers) -> dict[str, Tensor]:
    """``moment/parameter``; a single number as a vector of one, since parts have a first entry."""
    return {
        f"{kind}/{name}": value if value.ndim else value.view(1)
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _make_room(model: nn.Module, optimizers: Optimizers, saved: Iterable[str]) -> None:
    """State of the optimisers under the names of `saved`, for values to be read into."""
    by_name = dict(model.named_parameters())
    owner = {
        id(parameter): optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for key in saved:
        kind, is_moment, name = key.partition("/")
        if is_moment:
            parameter = by_name[name]
            owner[id(parameter)].state[parameter][kind] = (
                torch.zeros((), device=parameter.device)
                if kind == "step"
                else torch.zeros_like(parameter)
            )


def _broken(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path}: cannot be read ({reason}); remove {path.parent} to start from before it"


def _complete(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _clear_partial(directory: Path) -> None:
    for path in directory.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path)
