"""The one way to write a model directory: complete, checked and on the disk, or not at all.

A caller fills a temporary directory beside the target and publishes it::

    with partial_directory(out) as partial:
        ...  # write the weight files into `partial`
        publish(partial, out, weights, small_files(config, files, weights))

What ends before it is published leaves nothing behind.
"""

import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from regrow.checkpoint.companions import write_files
from regrow.checkpoint.header import TORCH_DTYPES, TensorSpec, read_header
from regrow.checkpoint.reader import CONFIG_FILE, INDEX_FILE, SINGLE_FILE
from regrow.common.errors import UserError
from regrow.common.files import sync_directory
from regrow.models.networks import with_own_code

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class WeightFile(NamedTuple):
    """One safetensors file of a model, and the tensors that it is to hold."""

    name: str
    tensors: tuple[TensorSpec, ...]


@contextmanager
def partial_directory(out: Path) -> Iterator[Path]:
    """A temporary directory `.NAME.*.partial` beside `out`, removed at the end.

    What killed processes left under such a name is removed first. A directory that is being filled
    is locked, and a lock ends with its process. Modes follow the umask.

    Raises OSError where it cannot be made.
    """
    for left in out.parent.glob(f".{escape(out.name)}.*.partial"):
        with _locked(left) as locked:
            if locked:
                shutil.rmtree(left, ignore_errors=True)
    partial = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    partial.mkdir()
    with _locked(partial):
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def publish(
    partial: Path, out: Path, weights: Sequence[WeightFile], files: Mapping[str, bytes]
) -> None:
    """Add the small files to a partial directory, and give it the name `out`.

    Before that the headers of its weight files are read back and compared with `weights`, and all
    is synced to the disk. `files`: as :func:`small_files` gives them. `out` must not exist or be an
    empty directory.

    Raises UserError where a weight file does not hold what was meant, and OSError where the disk
    is full or `out` holds something.
    """
    _check_weights(partial, out, weights)
    write_files(partial, files)
    mode = stat.S_IMODE(partial.stat().st_mode)
    for path in partial.rglob("*"):
        if path.is_file():
            path.chmod(mode & 0o666)  # safetensors makes its files 0600
        sync_directory(path)
    sync_directory(partial)
    partial.rename(out)
    sync_directory(out.parent)


def small_files(
    config: Mapping[str, Any],
    files: Mapping[str, bytes],
    weights: Sequence[WeightFile],
    indent: int = 2,
) -> dict[str, bytes]:
    """All files beside the weights: `files`, the network's own code, the index, the config.

    `indent`: of config.json. The config comes last: a directory without it is not taken for a
    model.
    """
    config, small = with_own_code(config, files)
    if [file.name for file in weights] != [SINGLE_FILE]:
        small[INDEX_FILE] = json_bytes(_index(weights))
    small[CONFIG_FILE] = json_bytes(config, indent)
    return small


def json_bytes(value: Any, indent: int | None = 2) -> bytes:
    """JSON in UTF-8, with a line end."""
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode()


def library_weights(model: "PreTrainedModel", directory: Path) -> list[WeightFile]:
    """What `model.save_pretrained(directory)`, which was called before, was to write.

    Which file holds a tensor is read from the files. Types and shapes are the model's own, and so
    is the list of names, unless transformers converts names or tensors of this architecture when
    it saves them: a name that the model does not have is taken as it was written.
    """
    left_out = set(model._keys_to_ignore_on_save or ())
    state = {name: t for name, t in model.state_dict().items() if name not in left_out}
    files: dict[str, list[TensorSpec]] = {}
    for file in sorted(directory.glob("*.safetensors")) or [directory / SINGLE_FILE]:
        specs = [info.spec for info in read_header(file)]
        files[file.name] = [_spec(s.name, state[s.name]) if s.name in state else s for s in specs]
    written = {spec.name for specs in files.values() for spec in specs}
    if written <= state.keys():
        stored = {state[name].data_ptr() for name in written}  # tied tensors are stored once
        next(iter(files.values())).extend(
            _spec(name, tensor)
            for name, tensor in state.items()
            if name not in written and tensor.numel() and tensor.data_ptr() not in stored
        )
    return [WeightFile(name, tuple(specs)) for name, specs in files.items()]


def _spec(name: str, tensor: "Tensor") -> TensorSpec:
    dtype = TORCH_DTYPES[str(tensor.dtype).removeprefix("torch.")]
    return TensorSpec(name, dtype, tuple(tensor.shape))


def _index(weights: Sequence[WeightFile]) -> dict[str, Any]:
    placed = [(spec, file.name) for file in weights for spec in file.tensors]
    return {
        "metadata": {"total_size": sum(spec.nbytes for spec, _ in placed)},
        "weight_map": {spec.name: name for spec, name in placed},
    }


def _check_weights(partial: Path, out: Path, weights: Sequence[WeightFile]) -> None:
    meant = {file.name: {spec.name: spec for spec in file.tensors} for file in weights}
    found = sorted({*meant, *(path.name for path in partial.glob("*.safetensors"))})
    for name in found:
        try:
            written = {info.name: info.spec for info in read_header(partial / name)}
        except UserError as error:
            raise UserError(
                f"{out / name}: was written incomplete, so nothing is kept; check the disk and run "
                "again"
            ) from error
        wanted = meant.get(name, {})
        for tensor in {**wanted, **written}:
            if wanted.get(tensor) != written.get(tensor):
                raise UserError(
                    f"{out / name}: {tensor}: {_words(written.get(tensor))} was written, not "
                    f"{_words(wanted.get(tensor))}, so nothing is kept; check the disk and run "
                    "again"
                )


def _words(spec: TensorSpec | None) -> str:
    return "nothing" if spec is None else f"{spec.dtype} {list(spec.shape)}"


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Whether this process holds the lock of the directory: not where another process does, the
    directory is gone, or the file system has no locks."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(descriptor)
