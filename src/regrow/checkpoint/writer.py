"""Write a model directory: complete, checked and synced to the disk, or not at all.

Every writer of a model fills a temporary directory beside the target and publishes it::

    with partial_directory(out) as partial:
        ...  # write the weight files into `partial`
        publish(partial, out, weights, small_files(config, files, weights))

If writing ends before `publish`, nothing is left behind.
"""

import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from regrow.checkpoint.companions import write_files
from regrow.checkpoint.header import SAFETENSORS_NAMES, TensorSpec, read_header
from regrow.checkpoint.reader import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, WEIGHTS_KEY
from regrow.common import publishing
from regrow.common.errors import UserError
from regrow.common.files import json_bytes
from regrow.common.publishing import workplace
from regrow.models.networks import with_own_code

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class WeightFile(NamedTuple):
    """One safetensors file of a model, and the tensors that it must hold."""

    name: str
    tensors: tuple[TensorSpec, ...]


@contextmanager
def partial_directory(out: Path, place: Path | None = None) -> Iterator[Path]:
    """Context manager: a hidden directory beside `out`, for the files of a model.

    It is removed at the end, and what killed processes left of `out` is removed first. File modes
    follow the umask. `place`: the workplace of `out` (`regrow.common.publishing`), if the caller
    has one already.

    Raises UserError if another process writes `out`, and OSError if it cannot be made.
    """
    with workplace(out) if place is None else nullcontext(place) as own:
        partial = own / "model"
        partial.mkdir()
        yield partial


def publish(
    partial: Path, out: Path, weights: Sequence[WeightFile], files: Mapping[str, bytes]
) -> None:
    """Add the small files to a partial directory, and rename it to `out`.

    Before the rename, the headers of the weight files are read back and compared with `weights`,
    and all files are synced to the disk. So every tensor that was to be written is there, once.
    `files`: as :func:`small_files` gives them. `out` must not exist, or must be an empty directory.

    Raises UserError if a weight file differs from `weights`, or if `weights` names a file or a
    tensor twice; and OSError if the disk is full or `out` is not empty.
    """
    _check_weights(partial, out, weights)
    write_files(partial, files)
    mode = stat.S_IMODE(partial.stat().st_mode)
    for path in partial.rglob("*"):
        if path.is_file():
            path.chmod(mode & 0o666)  # safetensors makes its files 0600
    publishing.publish(partial, out)


def small_files(
    config: Mapping[str, Any],
    files: Mapping[str, bytes],
    weights: Sequence[WeightFile],
    indent: int = 2,
) -> dict[str, bytes]:
    """All files beside the weights: `files`, the network's own code, the index, the config.

    The config comes last, since a directory without it does not look like a model. `indent`: of
    config.json, in spaces.
    """
    config, small = with_own_code(config, files)
    config.pop(WEIGHTS_KEY, None)  # the weights have names of their own here
    if [file.name for file in weights] != [SINGLE_FILE]:
        small[INDEX_FILE] = json_bytes(_index(weights))
    small[CONFIG_FILE] = json_bytes(config, indent)
    return small


def library_weights(model: "PreTrainedModel", directory: Path) -> list[WeightFile]:
    """The weight files that `model.save_pretrained(directory)` must have written, for `publish`.

    Call it after `save_pretrained`. The files tell which of them holds a tensor; names, dtypes and
    shapes come from the model. If transformers converts names or tensors of this architecture on
    saving, a name that the model does not have is taken as it was written, and the number of
    values is compared instead.

    Raises UserError if the files hold another number of values than the model.
    """
    not_saved = set(model._keys_to_ignore_on_save or ())
    state = {name: t for name, t in model.state_dict().items() if name not in not_saved}
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
    else:
        distinct = {tensor.data_ptr(): tensor.numel() for tensor in state.values()}
        expected, found = (
            sum(distinct.values()),
            sum(prod(spec.shape) for specs in files.values() for spec in specs),
        )
        if found != expected:
            raise UserError(
                f"{directory}: transformers wrote {found:,} values of a model that has "
                f"{expected:,}, so nothing is kept"
            )
    return [WeightFile(name, tuple(specs)) for name, specs in files.items()]


def _spec(name: str, tensor: "Tensor") -> TensorSpec:
    dtype = SAFETENSORS_NAMES[str(tensor.dtype).removeprefix("torch.")]
    return TensorSpec(name, dtype, tuple(tensor.shape))


def _index(weights: Sequence[WeightFile]) -> dict[str, Any]:
    placed = [(spec, file.name) for file in weights for spec in file.tensors]
    return {
        "metadata": {"total_size": sum(spec.nbytes for spec, _ in placed)},
        "weight_map": {spec.name: name for spec, name in placed},
    }


def _check_weights(partial: Path, out: Path, weights: Sequence[WeightFile]) -> None:
    planned = _planned_tensors(out, weights)
    found = (path.relative_to(partial).as_posix() for path in partial.rglob("*.safetensors"))
    names = sorted({*planned, *found})
    for name in names:
        try:
            written = {info.name: info.spec for info in read_header(partial / name)}
        except UserError as error:
            raise UserError(
                f"{out / name}: was written incomplete, so nothing is kept; check the disk and run "
                "again"
            ) from error
        expected = planned.get(name, {})
        for tensor in {**expected, **written}:
            if expected.get(tensor) != written.get(tensor):
                raise UserError(
                    f"{out / name}: {tensor}: {_describe(written.get(tensor))} was written, not "
                    f"{_describe(expected.get(tensor))}, so nothing is kept; check the disk and "
                    "run again"
                )


def _planned_tensors(out: Path, weights: Sequence[WeightFile]) -> dict[str, dict[str, TensorSpec]]:
    """The tensors of each file, by name.

    Raises UserError if two files have one name, since the second would replace the first, or if a
    tensor is in two files.
    """
    planned: dict[str, dict[str, TensorSpec]] = {}
    place: dict[str, str] = {}
    for file in weights:
        if file.name in planned or Path(file.name).name != file.name:
            raise UserError(
                f"{out}: two weight files would be written as {file.name}, or one in a folder, so "
                "nothing is kept; rename the weight files of the model"
            )
        planned[file.name] = {}
        for spec in file.tensors:
            if spec.name in place:
                raise UserError(
                    f"{out}: {spec.name} would be written twice, to {place[spec.name]} and to "
                    f"{file.name}, so nothing is kept"
                )
            place[spec.name] = file.name
            planned[file.name][spec.name] = spec
    return planned


def _describe(spec: TensorSpec | None) -> str:
    return "nothing" if spec is None else f"{spec.dtype} {list(spec.shape)}"
