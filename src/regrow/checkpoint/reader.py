"""Open a Hugging Face directory of safetensors by reading only its headers.

Everything is checked here, before any work: a returned `Checkpoint` is complete and consistent.
Weights are read by plain `pread` and never mapped, since mapped pages count as resident memory.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.checkpoint.companions import check_place
from regrow.checkpoint.header import (
    QUANTISED_REFUSAL,
    TensorInfo,
    os_errors,
    read_header,
    read_into,
)
from regrow.common.errors import UserError
from regrow.common.files import read_json_object

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
WEIGHTS_KEY = "transformers_weights"
"""By this key of a config, transformers loads a file of another name."""
SAMPLE_BYTES = 4096
_BLOCK_BYTES = 1 << 22

_NUMPY_DTYPES: Mapping[str, str] = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4",
    "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
_QUANTISED_SUFFIXES = (".qweight", ".qzeros", ".weight_packed", ".weight.absmax", ".SCB")


@dataclass(frozen=True)
class Checkpoint:
    """A checked model directory.

    `tensors`: by name, in the order of the files and then of the offsets.
    """

    directory: Path
    config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    files: tuple[Path, ...]

    @cached_property
    def fingerprint(self) -> str:
        """The result of `fingerprint(self)`, computed once."""
        return fingerprint(self)

    @cached_property
    def weights_sha256(self) -> str:
        """As `fingerprint`, but of all bytes, which takes as long as to read them."""
        return fingerprint(self, whole=True)


def open_checkpoint(directory: Path) -> Checkpoint:
    """Read config, index and headers of `directory`, but no weights.

    If both `model.safetensors` and an index exist, the single file is used, as in transformers.

    Raises:
        UserError: the directory is not a complete, unquantised safetensors checkpoint.
    """
    with os_errors(Path(directory)):
        return _open(Path(directory))


def _open(directory: Path) -> Checkpoint:
    if not directory.is_dir():
        kind = "is a file, not a directory" if directory.exists() else "does not exist"
        raise UserError(f"{directory}: {kind}; give the directory that holds config.json")
    if (directory / "adapter_config.json").exists():
        raise UserError(
            f"{directory}: holds an adapter (adapter_config.json), not a whole model; merge it "
            f"first: {_merge_command(directory)}"
        )
    check_place(directory, directory / CONFIG_FILE)
    if not (directory / CONFIG_FILE).exists():
        raise no_config_error(directory)
    config = read_json_object(directory / CONFIG_FILE)
    _refuse_quantised_config(directory / CONFIG_FILE, config)

    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if single.exists() or single.is_symlink():
        files: tuple[Path, ...] = (single,)
        weight_map = None
    elif index.exists() or index.is_symlink():
        weight_map = _read_weight_map(index)
        files = tuple(directory / name for name in sorted(set(weight_map.values())))
    else:
        raise UserError(_no_weights(directory, config))
    _refuse_other_weights(directory, config, SINGLE_FILE if weight_map is None else INDEX_FILE)

    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for info in read_header(file):
            if info.name in tensors:
                raise UserError(
                    f"{file}: tensor {info.name!r} is also in {tensors[info.name].file.name}; "
                    f"each tensor must be in one shard only"
                )
            tensors[info.name] = info
    if weight_map is not None:
        _check_index(directory, weight_map, tensors)
    if not tensors:
        raise UserError(f"{files[0]}: holds no tensors; a model's weights were expected")
    for info in tensors.values():
        _refuse_quantised_tensor(info)
    return Checkpoint(directory, config, tensors, files)


def no_config_error(directory: Path) -> UserError:
    """The error to raise for a directory without a config."""
    inside = [directory / "model", *sorted(directory.glob("*.gguf"))]
    found = next((p for p in inside if p.is_file() or (p / CONFIG_FILE).is_file()), None)
    advice = f"did you mean {found}?" if found else "give the directory of a model"
    return UserError(f"{directory}: holds no {CONFIG_FILE}, so it is no model; {advice}")


def fingerprint(checkpoint: Checkpoint, *, whole: bool = False) -> str:
    """Hash of names, dtypes, shapes and sampled bytes: 'sha256:' and 64 hex digits.

    Of each tensor, 4 KiB at the start, in the middle and at the end are read, or the whole tensor
    if it has at most 4 KiB. A change elsewhere in a large tensor is not detected, unless `whole`
    asks for all bytes. The hash does not depend on which file holds a tensor, nor on the order of
    the tensors.
    """
    digest = hashlib.sha256()
    descriptors: dict[Path, int] = {}
    try:
        for name in sorted(checkpoint.tensors):
            info = checkpoint.tensors[name]
            head = json.dumps([name, info.dtype, list(info.shape)]).encode()
            digest.update(len(head).to_bytes(8, "little") + head)
            with os_errors(info.file):
                if info.file not in descriptors:
                    descriptors[info.file] = os.open(info.file, os.O_RDONLY)
            for offset, length in (_blocks if whole else _samples)(info.nbytes):
                buffer = bytearray(length)
                read_into(descriptors[info.file], buffer, info.start + offset, info.file)
                digest.update(buffer)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    return f"sha256:{digest.hexdigest()}"


def read_bytes(info: TensorInfo, start_row: int = 0, rows: int | None = None) -> bytearray:
    """The stored bytes of some rows along the first dimension.

    `rows`: how many rows, from `start_row` on; None reads all that follow.

    Raises:
        ValueError: the rows lie outside the tensor.
        UserError: the file cannot be read, or is shorter than when it was opened.
    """
    height = info.shape[0] if info.shape else 1
    count = height - start_row if rows is None else rows
    if start_row < 0 or count < 0 or start_row + count > height:
        raise ValueError(f"{info.name}: rows {start_row}+{count} of {height}")
    row_bytes = info.nbytes // height if height else 0
    buffer = bytearray(count * row_bytes)
    with os_errors(info.file):
        descriptor = os.open(info.file, os.O_RDONLY)
    try:
        read_into(descriptor, buffer, info.start + start_row * row_bytes, info.file)
    finally:
        os.close(descriptor)
    return buffer


def read_tensor(info: TensorInfo, start_row: int = 0, rows: int | None = None) -> NDArray[Any]:
    """The values of some rows, a writable array [rows, *shape[1:]]; a scalar has shape [].

    Arguments and errors are those of `read_bytes`. NumPy has no bfloat16: BF16 is returned as
    float32, which represents each of its values exactly.
    """
    buffer = read_bytes(info, start_row, rows)
    shape = info.shape
    if shape:  # reshape cannot infer the number of rows if a row has no values
        shape = (shape[0] - start_row if rows is None else rows, *shape[1:])
    if info.dtype == "BF16":
        widened = np.frombuffer(buffer, "<u2").astype("<u4") << 16
        return widened.view("<f4").reshape(shape)
    return np.frombuffer(buffer, _NUMPY_DTYPES[info.dtype]).reshape(shape)


def _samples(nbytes: int) -> list[tuple[int, int]]:
    """The ranges of a tensor that are hashed, as (offset, length), in bytes."""
    if nbytes <= SAMPLE_BYTES:
        return [(0, nbytes)]
    last = nbytes - SAMPLE_BYTES
    return [(offset, SAMPLE_BYTES) for offset in (0, last // 2, last)]


def _blocks(nbytes: int) -> Iterator[tuple[int, int]]:
    """All ranges of a tensor, as `_samples`."""
    for offset in range(0, nbytes, _BLOCK_BYTES):
        yield offset, min(_BLOCK_BYTES, nbytes - offset)


def _read_weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: weight_map must be an object of tensor names to shard names")
    for name, shard in weight_map.items():
        where = f"{index}: weight_map[{name!r}]"
        if not isinstance(shard, str):
            raise UserError(f"{where} must be a shard's file name, not {shard!r}")
        path = PurePosixPath(shard)
        outside = path.is_absolute() or ".." in path.parts or "\\" in shard or "\0" in shard
        if outside or not shard.isprintable():
            raise UserError(
                f"{where} is {shard!r}, a path outside the directory; name a file in it"
            )
        if len(path.parts) > 1:
            raise UserError(
                f"{where} is {shard!r}, in a folder; move the file beside the index, under a name "
                f"that no other weight file has"
            )
        if path.suffix != ".safetensors":
            raise UserError(f"{where} is {shard!r}; a .safetensors file was expected")
    return weight_map


def _check_index(
    directory: Path, weight_map: dict[str, str], tensors: dict[str, TensorInfo]
) -> None:
    index = directory / INDEX_FILE
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].file != directory / shard:
            place = f"; it is in {tensors[name].file.name}" if name in tensors else ""
            raise UserError(f"{index}: weight_map[{name!r}] is {shard}, without that tensor{place}")
    for info in tensors.values():
        if info.name not in weight_map:
            raise UserError(
                f"{index}: weight_map leaves out {info.name!r}, held by {info.file.name}"
            )


def _refuse_other_weights(directory: Path, config: dict[str, Any], read: str) -> None:
    """Raise UserError if transformers would load other weights than the file `read`."""
    if config.get(WEIGHTS_KEY) not in (None, read):
        raise UserError(
            f"{directory / CONFIG_FILE}: {WEIGHTS_KEY} is {config[WEIGHTS_KEY]!r:.100}, but "
            f"{read} is read; remove the key, or the weights that are not meant"
        )


def _refuse_quantised_config(path: Path, config: dict[str, Any]) -> None:
    for key in ("quantization_config", "compression_config"):
        settings = config.get(key)
        if settings:
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise UserError(f"{path}: {key} (method: {method or 'unnamed'}): {QUANTISED_REFUSAL}")


def _refuse_quantised_tensor(info: TensorInfo) -> None:
    # Old checkpoints store causal masks, [1, 1, n, n], as bytes. These are not weights.
    mask = len(info.shape) < 2 or info.shape[:2] == (1, 1)
    packed = info.dtype in ("I8", "U8") and not mask
    if packed or info.dtype.startswith("F8") or info.name.endswith(_QUANTISED_SUFFIXES):
        raise UserError(f"{info.file}: {info.name!r} is {info.dtype}: {QUANTISED_REFUSAL}")


def _no_weights(directory: Path, config: dict[str, Any]) -> str:
    pickles = sorted(
        path.name
        for pattern in ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt")
        for path in directory.glob(pattern)
        if path.name not in ("training_args.bin", "optimizer.pt", "scheduler.pt")
    )
    if pickles:
        return (
            f"{directory / pickles[0]}: pickled weights can run code when they are loaded; convert "
            f"a copy that you trust: {_convert_command(directory, config)}"
        )
    return f"{directory}: no {SINGLE_FILE} and no {INDEX_FILE}; a safetensors model was expected"


def _convert_command(directory: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or not name.isidentifier():
        seq2seq = config.get("is_encoder_decoder") is True
        name = "AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM"
    source, target = str(directory), f"{directory.resolve()}-safetensors"
    code = (
        f"import transformers as t; s, o = {source!r}, {target!r}; "
        f"t.{name}.from_pretrained(s, dtype='auto').save_pretrained(o); "
        f"t.AutoTokenizer.from_pretrained(s).save_pretrained(o)"
    )
    return f"python -c {shlex.quote(code)}"


def _merge_command(directory: Path) -> str:
    source, target = str(directory), f"{directory.resolve()}-merged"
    code = (
        f"import peft, transformers as t; s, o = {source!r}, {target!r}; "
        f"peft.AutoPeftModel.from_pretrained(s).merge_and_unload().save_pretrained(o); "
        f"t.AutoTokenizer.from_pretrained(s).save_pretrained(o)"
    )
    return f"python -c {shlex.quote(code)}"
