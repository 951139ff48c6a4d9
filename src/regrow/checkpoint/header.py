"""One safetensors file: parse and check its header, and read at byte offsets.

The format is that of https://github.com/huggingface/safetensors (section "Format").
"""

import errno
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from regrow.common.errors import UserError
from regrow.common.files import parse_json_object

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
TORCH_NAMES: Mapping[str, str] = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "F16": "float16",
    "BF16": "bfloat16", "U32": "uint32", "I32": "int32", "F32": "float32", "U64": "uint64",
    "I64": "int64", "F64": "float64", "C64": "complex64",
}  # fmt: skip
"""Name of a dtype in PyTorch by its name in safetensors."""
SAFETENSORS_NAMES: Mapping[str, str] = {
    torch_name: name for name, torch_name in TORCH_NAMES.items()
}
_PACKED_DTYPES = ("F4", "F6_E2M3", "F6_E3M2")
QUANTISED_REFUSAL = "quantised checkpoints cannot be cut, start from the unquantised model"
_MAX_SIZE = 2**63 - 1
_MAX_DIMENSIONS = 64  # NumPy's and PyTorch's own limit


class TensorSpec(NamedTuple):
    """Name, dtype and shape of a tensor; `dtype` by its safetensors name ("BF16", "F32")."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor is stored on disk, row-major and little-endian.

    `dtype`: its safetensors name ("BF16", "F32"). `start`: the absolute offset in `file`, in bytes.
    `nbytes`: the length of the stored values, in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    nbytes: int

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, self.shape)


def read_header(file: Path) -> list[TensorInfo]:
    """The tensors of one file, sorted by offset.

    Raises UserError if the header is invalid, or if the tensors leave a hole or overlap.
    """
    with os_errors(file):
        try:
            status = file.stat()
        except FileNotFoundError as error:
            raise UserError(f"{file}: missing; fetch the model again") from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{file}: is not a regular file")
        descriptor = os.open(file, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        if size < 8:
            raise UserError(f"{file}: {size:,} bytes are too few for a safetensors file")
        prefix = bytearray(8)
        read_into(descriptor, prefix, 0, file)
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise UserError(
                f"{file}: claims a header of {length:,} bytes (file: {size:,} bytes, limit: "
                f"{MAX_HEADER_BYTES:,}); truncated or not safetensors, fetch it again"
            )
        raw = bytearray(length)
        read_into(descriptor, raw, 8, file)
    finally:
        os.close(descriptor)

    try:
        entries = parse_json_object(bytes(raw), f"{file}: the header")
    except UserError as error:
        raise UserError(f"{error}; fetch the file again") from None
    _check_metadata(file, entries.pop("__metadata__", {}))
    infos = [_parse_entry(file, name, entry, 8 + length) for name, entry in entries.items()]
    infos.sort(key=lambda info: (info.start, info.nbytes))
    end = 8 + length
    for info in infos:
        if info.start != end:
            fault = "overlaps" if info.start < end else "leaves a hole after"
            raise UserError(
                f"{file}: {info.name!r} begins at byte {info.start:,} and {fault} what ends at "
                f"{end:,}; fetch the file again"
            )
        end += info.nbytes
    if end != size:
        fault = "truncated" if size < end else "has bytes that no tensor owns"
        raise UserError(
            f"{file}: {size:,} bytes where its header needs {end:,} ({fault}); fetch it again"
        )
    return infos


def header_bytes(tensors: Iterable[TensorSpec]) -> bytes:
    """The first bytes of a file with these tensors in this order: header length, then header.

    The header is padded so that the first tensor begins at a multiple of 8 bytes.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in tensors:
        end = offset + spec.nbytes
        entries[spec.name] = {
            "dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _check_metadata(file: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or any(not isinstance(v, str) for v in metadata.values()):
        raise UserError(f"{file}: __metadata__ in the header must map names to strings")


def _parse_entry(file: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    where = f"{file}: {name!r} in the header"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"{where} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype in _PACKED_DTYPES:
        raise UserError(f"{where} has the packed dtype {dtype}; {QUANTISED_REFUSAL}")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise UserError(f"{where} has the unknown dtype {dtype!r}; known: {', '.join(DTYPE_BYTES)}")
    if not _are_sizes(shape):
        raise UserError(f"{where}: shape must be a list of sizes, not {shape!r:.80}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise UserError(f"{where}: data_offsets must be [begin, end], not {offsets!r:.80}")
    nbytes = offsets[1] - offsets[0]
    if math.prod(shape) * DTYPE_BYTES[dtype] != nbytes:
        raise UserError(
            f"{where}: {nbytes:,} bytes do not fit dtype {dtype} and shape {shape!r:.80}"
        )
    return TensorInfo(name, dtype, tuple(shape), file, data_start + offsets[0], nbytes)


def _are_sizes(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return False
    return all(type(item) is int and 0 <= item <= _MAX_SIZE for item in value)


def read_into(descriptor: int, buffer: bytearray | memoryview, offset: int, file: Path) -> None:
    """Fill `buffer` with bytes from `offset` (bytes) on; `file` is named in errors.

    The position of the descriptor neither matters nor changes.

    Raises UserError if the file cannot be read or ends too early.
    """
    view = memoryview(buffer)
    while view:
        with os_errors(file):
            count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise UserError(f"{file}: ends at byte {offset}, before its tensors do; fetch it again")
        view, offset = view[count:], offset + count


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Context manager: turn an OSError into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise UserError(f"{path}: no such file") from error
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
