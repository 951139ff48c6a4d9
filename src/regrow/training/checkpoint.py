"""Checkpoints that are whole or not there.

A checkpoint is a directory ``step-00000012`` with ``model.safetensors``, ``optimizer.safetensors``
(not in the last one of a run) and ``state.json``. It is written under a hidden name, forced to
disk and renamed, so what bears the name is complete; older ones go only after that.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from regrow.errors import UserError
from regrow.files import save_tensors, sync_directory

_NAME = re.compile(r"step-(\d{8})")
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: where it lies and what ``state.json`` says."""

    path: Path
    state: dict[str, Any]


def save_checkpoint(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer] | None,
    state: dict[str, Any],
) -> None:
    """Writes a checkpoint and removes all older ones.

    Raises:
        UserError: it cannot be written, as on a full disk; older ones stay.
    """
    final = directory / f"step-{step:08d}"
    partial = directory / f"{_PARTIAL}{final.name}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _clear_partial(directory)
        partial.mkdir()
        save_tensors(_model_tensors(model), partial / "model.safetensors")
        if optimizers is not None:
            save_tensors(_optimizer_tensors(model, optimizers), partial / "optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps(state, indent=1))
        for path in [*partial.iterdir(), partial]:
            sync_directory(path)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        sync_directory(directory)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{final}: cannot be written: {error.strerror or error}") from error
        raise
    for path in _complete(directory):
        if path != final:
            shutil.rmtree(path)


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
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer] | None,
) -> None:
    """Puts the weights, and the state of the optimisers where they are given, back in place.

    Raises:
        UserError: the checkpoint belongs to another model, or its files are damaged.
    """
    path = checkpoint.path / "model.safetensors"
    saved, current = _read(path), _model_tensors(model)
    if saved.keys() != current.keys() or any(
        saved[name].shape != tensor.shape for name, tensor in current.items()
    ):
        raise UserError(
            f"{path}: a checkpoint of another model; remove {checkpoint.path.parent} "
            "or name another directory"
        )
    for name, tensor in current.items():
        tensor.copy_(saved[name])
    if optimizers is None:
        return
    moments = _read(checkpoint.path / "optimizer.safetensors")
    by_name = dict(model.named_parameters())
    restored: dict[str, dict[str, Tensor]] = {}
    for key, tensor in moments.items():
        kind, name = key.split("/", 1)
        restored.setdefault(name, {})[kind] = tensor
    for name, values in restored.items():
        parameter = by_name[name]
        _owner(parameter, optimizers).state[parameter] = {
            kind: value.to(parameter.device) for kind, value in values.items()
        }


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and saved buffer once, tied ones under their first name."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def _optimizer_tensors(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    return {
        f"{kind}/{name}": value
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _owner(parameter: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    return next(
        optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        if any(parameter is theirs for theirs in group["params"])
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(_broken(path, error)) from None


def _broken(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path}: cannot be read ({reason}); remove {path.parent} to start from before it"


def _complete(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _clear_partial(directory: Path) -> None:
    for path in directory.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path)
