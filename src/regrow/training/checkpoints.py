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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from regrow.common.errors import UserError
from regrow.common.files import save_tensors, sync_directory
from regrow.training.distributed.processes import Processes

_NAME = re.compile(r"step-(\d{8})")
_PARTIAL = ".partial-"
_FILES = "files"

Optimizers = Sequence[torch.optim.Optimizer]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: where it lies and what ``state.json`` says."""

    path: Path
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of a training that are written to a directory, one after another.

    In the background, where that is wanted: of a copy in the CPU's memory, while training goes on.
    """

    def __init__(self, directory: Path, processes: Processes, *, background: bool = False) -> None:
        self.directory, self.processes = directory, processes
        self._background = background
        self._pending: tuple[_Place, Future[Any], dict[str, Any]] | None = None
        self._group: distributed.ProcessGroup | None = None

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizers: Optimizers | None,
        state: dict[str, Any],
        *,
        wait: bool = True,
    ) -> None:
        """Write a checkpoint and remove all older ones; called by all processes alike.

        `wait`: until it is there; else, in the background, it may be so only after `finish`. One
        that is still being written comes first.

        Raises:
            UserError: it, or the one before it, cannot be written, as on a full disk; older ones
                stay.
        """
        self.finish()
        place = _Place(self.directory, f"step-{step:08d}")
        weights = _model_tensors(model)
        moments = None if optimizers is None else _optimizer_tensors(model, optimizers)
        with self._cleared(place):
            self.processes.in_first(lambda: _written(place.final, place.begin))
            if self._background and not wait:
                # Both lists of losses in it and weights change meanwhile.
                self._pending = (place, self._begun(place, weights, moments), deepcopy(state))
                return
            self.processes.in_all(lambda: _write(place, weights, moments, self.processes))
            self.processes.in_first(lambda: _written(place.final, lambda: place.finish(state)))

    def written(self) -> bool:
        """Whether one is being written in the background, of which this process has done all."""
        return self._pending is not None and self._pending[1].done()

    def finish(self) -> None:
        """Wait for what is written in the background; called by all processes alike.

        Raises UserError as `save` does.
        """
        if self._pending is None:
            return
        (place, writing, state), self._pending = self._pending, None
        with self._cleared(place):
            self.processes.in_all(lambda: _done(place, writing))
            self.processes.in_first(lambda: _written(place.final, lambda: place.finish(state)))

    def abandon(self) -> None:
        """Where training fails: nobody waits for the others, who may be no more."""
        if self._pending is not None and self.processes.count == 1:
            (place, writing, _), self._pending = self._pending, None
            writing.exception()
            shutil.rmtree(place.partial, ignore_errors=True)

    def _begun(
        self, place: "_Place", weights: dict[str, Tensor], moments: dict[str, Tensor] | None
    ) -> "Future[Any]":
        """Begin to write a copy."""
        if self.processes.count > 1:
            if self._group is None:
                # Collectives of its own, since those of the training go on meanwhile.
                self._group = distributed.new_group(backend="gloo")
            begun = async_save(
                {**weights, **(moments or {})},
                storage_writer=_writer(place),
                process_group=self._group,
            )
            assert isinstance(begun, Future)
            return begun
        executor = ThreadPoolExecutor(1)
        writing = executor.submit(
            _write, place, _copied(weights), None if moments is None else _copied(moments),
            self.processes,
        )  # fmt: skip
        executor.shutdown(wait=False)
        return writing

    @contextmanager
    def _cleared(self, place: "_Place") -> Iterator[None]:
        """Inside, a failure leaves nothing half-written."""
        try:
            yield
        except BaseException:
            if self.processes.first:
                shutil.rmtree(place.partial, ignore_errors=True)
            raise


@dataclass(frozen=True)
class _Place:
    """Where a checkpoint comes to lie."""

    directory: Path
    name: str

    @property
    def final(self) -> Path:
        return self.directory / self.name

    @property
    def partial(self) -> Path:
        return self.directory / f"{_PARTIAL}{self.name}"

    def begin(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        _clear_partial(self.directory)
        self.partial.mkdir()

    def finish(self, state: dict[str, Any]) -> None:
        """All parts are there: give it its name, and take away what came before."""
        files = sorted(path.name for path in self.partial.iterdir())
        (self.partial / "state.json").write_text(json.dumps({**state, _FILES: files}, indent=1))
        for path in [*self.partial.iterdir(), self.partial]:
            sync_directory(path)
        if self.final.exists():
            shutil.rmtree(self.final)
        self.partial.rename(self.final)
        sync_directory(self.directory)
        for path in _complete(self.directory):
            if path != self.final:
                shutil.rmtree(path)


def _written(path: Path, work: Callable[[], None]) -> None:
    try:
        work()
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}


def _write(
    place: _Place,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor] | None,
    processes: Processes,
) -> None:
    if processes.count == 1:
        save_tensors(weights, place.partial / "model.safetensors")
        if moments is not None:
            save_tensors(moments, place.partial / "optimizer.safetensors")
        return
    with _said(place):
        save({**weights, **(moments or {})}, storage_writer=_writer(place))


def _writer(place: _Place) -> HuggingFaceStorageWriter:
    return HuggingFaceStorageWriter(str(place.partial), save_distributed=True)


def _done(place: _Place, writing: "Future[Any]") -> None:
    with _said(place):
        writing.result()


@contextmanager
def _said(place: _Place) -> Iterator[None]:
    """Turns what one of several processes could not write into a UserError."""
    try:
        yield
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise UserError(f"{place.partial}: cannot be written: {reason}") from error


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
