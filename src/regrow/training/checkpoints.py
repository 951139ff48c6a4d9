"""Write and read checkpoints; a checkpoint is complete or does not exist.

A checkpoint is a directory such as ``step-00000012``, with safetensors files and ``state.json``,
which lists them. A single process writes ``model.safetensors`` and ``optimizer.safetensors`` (the
last checkpoint of a training has no optimiser state). Of several processes, each writes its own
part of both in one file (torch.distributed.checkpoint). Any number of processes can read both
forms. A checkpoint is written under a hidden name, synced to disk and renamed. Older checkpoints
are removed only after that.
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
from regrow.common.files import parse_json_object, save_tensors, sync_directory
from regrow.training.distributed.processes import Processes

_NAME = re.compile(r"step-(\d{8})")
_PARTIAL = ".partial-"
_FILES = "files"

Optimizers = Sequence[torch.optim.Optimizer]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its path and the content of ``state.json``."""

    path: Path
    state: dict[str, Any]


class Checkpoints:
    """Writes the checkpoints of a training to a directory, one after another.

    `background`: write a copy in the CPU's memory while training continues.
    """

    def __init__(self, directory: Path, processes: Processes, *, background: bool = False) -> None:
        self.directory, self.processes = directory, processes
        self._background = background
        self._pending: tuple[_Destination, Future[Any], dict[str, Any]] | None = None
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
        """Write a checkpoint and remove all older ones; every process must call this.

        It first waits for a checkpoint that is still being written. `wait`: return when this one is
        complete. Otherwise, and if checkpoints are written in the background, it is complete only
        after `finish`.

        Raises:
            UserError: this checkpoint, or the one before it, cannot be written, for example
                because the disk is full; older checkpoints stay.
        """
        self.finish()
        place = _Destination(self.directory, f"step-{step:08d}")
        weights = _model_tensors(model)
        moments = None if optimizers is None else _optimizer_tensors(model, optimizers)
        with self._removed_on_error(place):
            self.processes.in_first(lambda: _with_user_error(place.final, place.begin))
            if self._background and not wait:
                # The lists in `state` and the weights change while the copy is written.
                self._pending = (
                    place,
                    self._start_writing(place, weights, moments),
                    deepcopy(state),
                )
                return
            self.processes.in_all(lambda: _write(place, weights, moments, self.processes))
            self.processes.in_first(
                lambda: _with_user_error(place.final, lambda: place.finish(state))
            )

    def is_written(self) -> bool:
        """Whether this process has written all of its part of the pending checkpoint."""
        return self._pending is not None and self._pending[1].done()

    def finish(self) -> None:
        """Wait for the checkpoint that is written in the background; every process must call this.

        Raises UserError as `save` does.
        """
        if self._pending is None:
            return
        (place, writing, state), self._pending = self._pending, None
        with self._removed_on_error(place):
            self.processes.in_all(lambda: _wait_for(place, writing))
            self.processes.in_first(
                lambda: _with_user_error(place.final, lambda: place.finish(state))
            )

    def abandon(self) -> None:
        """Drop the pending checkpoint, after an error in the training.

        With several processes this does nothing, since the others may have ended.
        """
        if self._pending is not None and self.processes.count == 1:
            (place, writing, _), self._pending = self._pending, None
            writing.exception()
            shutil.rmtree(place.partial, ignore_errors=True)

    def _start_writing(
        self, place: "_Destination", weights: dict[str, Tensor], moments: dict[str, Tensor] | None
    ) -> "Future[Any]":
        """Start to write a copy in the background."""
        if self.processes.count > 1:
            if self._group is None:
                # A separate group, since the collectives of the training continue meanwhile.
                self._group = distributed.new_group(backend="gloo")
            writing = async_save(
                {**weights, **(moments or {})},
                storage_writer=_writer(place),
                process_group=self._group,
            )
            assert isinstance(writing, Future)
            return writing
        copies = (_copied_to_cpu(weights), None if moments is None else _copied_to_cpu(moments))
        executor = ThreadPoolExecutor(1)
        writing = executor.submit(_write, place, *copies, self.processes)
        executor.shutdown(wait=False)
        return writing

    @contextmanager
    def _removed_on_error(self, place: "_Destination") -> Iterator[None]:
        """Context manager: an error removes the partial checkpoint."""
        try:
            yield
        except BaseException:
            if self.processes.first:
                shutil.rmtree(place.partial, ignore_errors=True)
            raise


@dataclass(frozen=True)
class _Destination:
    """The paths of a checkpoint that is being written."""

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
        _remove_partial(self.directory)
        self.partial.mkdir()

    def finish(self, state: dict[str, Any]) -> None:
        """Complete the checkpoint, rename it, and remove all older ones."""
        files = sorted(path.name for path in self.partial.iterdir())
        (self.partial / "state.json").write_text(json.dumps({**state, _FILES: files}, indent=1))
        for path in [*self.partial.iterdir(), self.partial]:
            sync_directory(path)
        if self.final.exists():
            shutil.rmtree(self.final)
        self.partial.rename(self.final)
        sync_directory(self.directory)
        for path in _complete_checkpoints(self.directory):
            if path != self.final:
                shutil.rmtree(path)


def _with_user_error(path: Path, work: Callable[[], None]) -> None:
    """Run `work`; an OSError becomes a UserError."""
    try:
        work()
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _copied_to_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}


def _write(
    place: _Destination,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor] | None,
    processes: Processes,
) -> None:
    if processes.count == 1:
        save_tensors(weights, place.partial / "model.safetensors")
        if moments is not None:
            save_tensors(moments, place.partial / "optimizer.safetensors")
        return
    with _checkpoint_errors(place):
        save({**weights, **(moments or {})}, storage_writer=_writer(place))


def _writer(place: _Destination) -> HuggingFaceStorageWriter:
    return HuggingFaceStorageWriter(str(place.partial), save_distributed=True)


def _wait_for(place: _Destination, writing: "Future[Any]") -> None:
    with _checkpoint_errors(place):
        writing.result()


@contextmanager
def _checkpoint_errors(place: _Destination) -> Iterator[None]:
    """Context manager: turn a CheckpointException of several processes into a UserError."""
    try:
        yield
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise UserError(f"{place.partial}: cannot be written: {reason}") from error


def last_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a directory, if any; removes partial ones.

    Raises UserError if its ``state.json`` cannot be read.
    """
    if not directory.is_dir():
        return None
    _remove_partial(directory)
    paths = _complete_checkpoints(directory)
    if not paths:
        return None
    path = paths[-1] / "state.json"
    try:
        state = parse_json_object(path.read_bytes(), "its text")
        names = state[_FILES]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError(f"{_FILES} are no names of files")
    except KeyError as error:
        raise UserError(_unreadable(path, ValueError(f"has no {error}"))) from None
    except (OSError, UserError, ValueError, TypeError) as error:
        raise UserError(_unreadable(path, error)) from None
    return Checkpoint(paths[-1], state)


@torch.no_grad()
def load_checkpoint(
    checkpoint: Checkpoint, model: nn.Module, optimizers: Optimizers | None
) -> None:
    """Load the weights into the model, and the optimiser state into `optimizers` if given.

    Raises UserError if the checkpoint belongs to another model, or its files are damaged.
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
        _allocate_optimizer_state(model, optimizers, saved)
        wanted |= _optimizer_tensors(model, optimizers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        load(wanted, storage_reader=HuggingFaceStorageReader(str(checkpoint.path)))


def _shapes(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    """The full shape of each tensor, by name. Raises UserError if a file is damaged."""
    for name in checkpoint.state[_FILES]:
        path = checkpoint.path / name
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(_unreadable(path, error)) from None
    metadata = HuggingFaceStorageReader(str(checkpoint.path)).read_metadata()
    found: dict[str, Any] = metadata.state_dict_metadata
    return {name: entry.size for name, entry in found.items()}


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Each parameter and persistent buffer once, by name; tied ones under their first name."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def _optimizer_tensors(model: nn.Module, optimizers: Optimizers) -> dict[str, Tensor]:
    """The optimiser state under names ``moment/parameter``.

    A scalar becomes a vector of one element, since torch.distributed.checkpoint slices tensors.
    """
    return {
        f"{kind}/{name}": value if value.ndim else value.view(1)
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _allocate_optimizer_state(
    model: nn.Module, optimizers: Optimizers, saved: Iterable[str]
) -> None:
    """Create optimiser state for the names in `saved`, so that values can be read into it."""
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


def _unreadable(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path}: cannot be read ({reason}); remove {path.parent} to start from before it"


def _complete_checkpoints(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _remove_partial(directory: Path) -> None:
    for path in directory.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path)
