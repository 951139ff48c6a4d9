"""Write and read checkpoints; a checkpoint is complete or does not exist.

A checkpoint is a directory such as ``step-00000012``, with safetensors files and ``state.json``,
which lists them with their sizes. A single process writes ``model.safetensors`` and
``optimizer.safetensors`` (the last checkpoint of a training has no optimiser state). Of several
processes, each writes its own part of both in one file (torch.distributed.checkpoint). Any number
of processes can read both forms. A checkpoint is written under a hidden name, synced to disk and
renamed. The one before stays until the next one begins. So if the newest is damaged, there is
another.
"""

import json
import logging
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
from regrow.common.files import parse_json_object, remove, save_tensors
from regrow.common.publishing import (
    is_durable,
    make_directory,
    partial_place,
    publish,
    remove_all_strays,
)
from regrow.training.distributed.processes import Processes

_NAME = re.compile(r"step-(\d{8})")
_STATE = "state.json"
_FILES = "files"
"""In the state: the bytes of each other file, by name."""
_log = logging.getLogger(__name__)

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
        """Write a checkpoint; only the one before stays. Every process must call this.

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
        return partial_place(self.final)

    def begin(self) -> None:
        """Make the directory for the files, and remove all checkpoints but the newest."""
        make_directory(self.directory)
        remove_all_strays(self.directory)
        remove(*_complete_checkpoints(self.directory)[:-1])
        self.partial.mkdir()

    def finish(self, state: dict[str, Any]) -> None:
        """Complete the checkpoint and rename it.

        The one before stays until the next begins, or until the training is complete: it is needed
        if the files of this one are damaged.
        """
        files = {path.name: path.stat().st_size for path in sorted(self.partial.iterdir())}
        state_text = json.dumps({**state, _FILES: files}, indent=1)
        (self.partial / _STATE).write_text(state_text)
        if self.final.exists():
            shutil.rmtree(self.final)
        publish(self.partial, self.final)


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
    writer = HuggingFaceStorageWriter(str(place.partial), save_distributed=True)
    writer.sync_files = is_durable()
    return writer


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


def last_checkpoint(
    directory: Path, check: Callable[[Checkpoint], object] = lambda _: None
) -> Checkpoint | None:
    """The newest checkpoint of a directory whose files are all there and whole; None without one.

    What a killed process left, and damaged checkpoints that are newer, are removed; a warning names
    each of these.

    `check`: raises UserError if the state of a checkpoint is damaged.

    Raises UserError if there are checkpoints, and all are damaged or one cannot be read.
    """
    if not directory.is_dir():
        return None
    remove_all_strays(directory)
    damaged: dict[Path, str] = {}
    for path in reversed(_complete_checkpoints(directory)):
        try:
            found = _read_checkpoint(path)
            check(found)
        except (
            FileNotFoundError,
            NotADirectoryError,
            ValueError,
            UserError,
            SafetensorError,
        ) as error:
            damaged[path] = str(error).splitlines()[0] if str(error) else type(error).__name__
            continue
        except OSError as error:  # of the disk or the network, which may pass
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
        for other, reason in damaged.items():
            _log.warning("%s: damaged (%s); going on from %s", other, reason, path.name)
            remove(other)
        return found
    for path, reason in damaged.items():
        raise UserError(
            f"{path}: damaged ({reason}), and no older checkpoint is whole; remove {directory} to "
            "train from the beginning"
        )
    return None


def _read_checkpoint(path: Path) -> Checkpoint:
    """Read the state of a checkpoint, and compare its files with it.

    Raises OSError, ValueError, UserError or SafetensorError if a file is missing or damaged.
    """
    state = parse_json_object((path / _STATE).read_bytes(), _STATE)
    files = state.get(_FILES)
    if not isinstance(files, dict) or any(
        Path(name).name != name or type(size) is not int for name, size in files.items()
    ):
        raise ValueError(f"{_STATE} does not list the files and their sizes")
    for name, size in files.items():
        found = (path / name).stat().st_size
        if found != size:
            raise ValueError(f"{name} has {found:,} bytes, not {size:,}")
        with safe_open(path / name, "pt"):
            pass
    return Checkpoint(path, state)


@torch.no_grad()
def load_checkpoint(
    checkpoint: Checkpoint, model: nn.Module, optimizers: Optimizers | None
) -> None:
    """Load the weights into the model, and the optimiser state into `optimizers` if given.

    Raises UserError if the checkpoint belongs to another model.
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
    """The full shape of each tensor, by name."""
    metadata = HuggingFaceStorageReader(str(checkpoint.path)).read_metadata()
    found: dict[str, Any] = metadata.state_dict_metadata
    return {name: entry.size for name, entry in found.items()}


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Each trained parameter and persistent buffer once, by name; tied ones under their first name.

    Frozen parameters are as the model was loaded with them.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        is_frozen = isinstance(tensor, nn.Parameter) and not tensor.requires_grad
        if id(tensor) not in seen and not is_frozen:
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


def _complete_checkpoints(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
