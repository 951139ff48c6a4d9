"""Read the kept elements of one stored tensor, as a stream of byte blocks in the new order.

If no index is dropped, the bytes are copied unchanged. The only arithmetic is the scaling of a
fold. Values are otherwise only checked to be finite.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.checkpoint.header import TensorInfo, os_errors, read_into
from regrow.common.errors import UserError
from regrow.cuts.kept import Scaling

Indices = NDArray[np.int64]

_INFINITY: dict[str, tuple[str, int, int]] = {
    "F64": ("8", 0x7FF0_0000_0000_0000, 0xFFF0_0000_0000_0000),
    "F32": ("4", 0x7F80_0000, 0xFF80_0000),
    "F16": ("2", 0x7C00, 0xFC00),
    "BF16": ("2", 0x7F80, 0xFF80),
}
"""By dtype: bytes of a value, and the bit patterns of infinity and of minus infinity.

Among the patterns of one sign, only those of NaN are larger.
"""

_GAP_BYTES = 32 << 10  # reading these takes about as long as another system call
_MAX_PIECES = os.sysconf("SC_IOV_MAX")

_NUMPY = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
FLOATS = frozenset({*_NUMPY, "BF16"})
"""The dtypes, by their safetensors names, in which computed values can be stored."""


@dataclass(frozen=True)
class Selection:
    """The part of one stored tensor to read.

    `keep`: kept indices for each dimension, None for all. `scaling`: applied to the values read.
    """

    info: TensorInfo
    keep: tuple[Indices | None, ...]
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        for size, keep in zip(self.info.shape, self.keep, strict=True):
            if keep is not None and len(keep) and (keep.min() < 0 or keep.max() >= size):
                raise ValueError(f"{self.info.name}: an index lies outside 0 to {size - 1}")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(
            size if keep is None else len(keep)
            for size, keep in zip(self.info.shape, self.keep, strict=True)
        )

    @property
    def item_bytes(self) -> int:
        return self.info.nbytes // max(1, prod(self.info.shape))

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.item_bytes


def stream(
    selection: Selection, descriptor: int, buffers: Iterator[bytearray]
) -> Iterator[memoryview]:
    """The selected bytes, in blocks, each inside a buffer taken from `buffers`.

    `descriptor`: of the open file that holds the tensor. Memory is bounded by a few buffers, or by
    a few rows if one row is larger than a buffer. A block is valid until the next one is taken and
    `buffers` gives its buffer again.

    Raises UserError if a value is not finite or the file ends early.
    """
    info = selection.info
    blocks = _copied if all(keep is None for keep in selection.keep[1:]) else _gathered
    for block in blocks(selection, descriptor, buffers):
        if selection.scaling is not None:
            with np.errstate(over="ignore"):  # an overflow gives infinity, which the check finds
                _scale(selection, block)
        if not all_finite(block, info.dtype):
            raise UserError(
                f"{info.file}: {info.name}: a weight is NaN or infinite, the model is damaged"
            )
        yield block


def _copied(
    selection: Selection, descriptor: int, buffers: Iterator[bytearray]
) -> Iterator[memoryview]:
    """Blocks of whole rows, copied as byte ranges; short ranges share a buffer."""
    info = selection.info
    view: memoryview | None = None
    filled, ranges = 0, list[Range]()
    for offset, length in _byte_runs(selection):
        while length:
            if view is None:
                view, filled, ranges = memoryview(next(buffers)), 0, []
            size = min(length, len(view) - filled)
            ranges.append((offset, size))
            filled, offset, length = filled + size, offset + size, length - size
            if filled == len(view):
                _read_ranges(descriptor, view, ranges, info.file)
                yield view
                view = None
    if view is not None:
        _read_ranges(descriptor, view, ranges, info.file)
        yield view[:filled]


def _gathered(
    selection: Selection, descriptor: int, buffers: Iterator[bytearray]
) -> Iterator[memoryview]:
    """Blocks of whole rows are read, then gathered along the inner dimensions."""
    info, item = selection.info, selection.item_bytes
    row_bytes = info.nbytes // info.shape[0]
    out_row_bytes = selection.nbytes // selection.shape[0]
    rows = selection.keep[0]
    if rows is None:
        rows = np.arange(info.shape[0], dtype=np.int64)
    buffer = next(buffers)
    block_rows = max(1, len(buffer) // row_bytes)
    source = bytearray(block_rows * row_bytes)
    gathers = _gathers(selection)
    for start in range(0, len(rows), block_rows):
        part = rows[start : start + block_rows]
        ranges = [
            (info.start + first * row_bytes, count * row_bytes) for first, count in _runs(part)
        ]
        _read_ranges(descriptor, memoryview(source), ranges, info.file)
        words = np.frombuffer(source, f"u{item}", len(part) * row_bytes // item)
        size = len(part) * out_row_bytes
        if size > len(buffer):
            buffer = bytearray(size)
        out = np.frombuffer(buffer, words.dtype, size // item)
        _gather(words, info.shape[1:], gathers, out)
        yield memoryview(buffer)[:size]
        if start + block_rows < len(rows):
            buffer = next(buffers)


Gather = tuple[int, Indices, int]
"""A dimension, the kept groups of neighbouring indices along it, and the size of a group."""


def _gathers(selection: Selection) -> list[Gather]:
    """The gathers along the inner dimensions, numbered from 0, with the largest groups possible."""
    gathers = []
    for axis, keep in enumerate(selection.keep[1:]):
        if keep is not None:
            starts = np.flatnonzero(np.diff(keep, prepend=-2) != 1)
            ends = [len(keep), selection.info.shape[axis + 1]]
            group = int(np.gcd.reduce(np.concatenate((starts, keep[starts], ends))))
            gathers.append((axis, keep[::group] // group, group))
    return gathers


def _gather(
    words: NDArray[Any], shape: tuple[int, ...], gathers: list[Gather], out: NDArray[Any]
) -> None:
    """Gather along the inner dimensions and write to `out`; `shape`: of one row of `words`."""
    for axis, keep, group in gathers:
        inner = prod(shape[axis + 1 :])
        # Copying whole heads is 10 times as fast as copying one index at a time.
        grouped = words.reshape(-1, shape[axis] // group, group * inner)
        last = axis == gathers[-1][0]
        # Selection has checked the indices, so "clip" changes none; "raise" would buffer `out`.
        into = out.reshape(-1, len(keep), group * inner) if last else None
        words = np.take(grouped, keep, axis=1, out=into, mode="clip")
        shape = (*shape[:axis], len(keep) * group, *shape[axis + 1 :])


Range = tuple[int, int]
"""Absolute offset in a file and length, in bytes."""


def _read_ranges(descriptor: int, into: memoryview, ranges: list[Range], file: Path) -> None:
    """Read byte ranges, one after another, into the start of `into`.

    Short gaps between ranges are read too and discarded. One system call for some hundred ranges
    takes half the time of a call for each.
    """
    discarded = memoryview(bytearray(_GAP_BYTES))
    pieces: list[memoryview] = []
    begin = end = filled = 0
    for offset, length in ranges:
        gap = offset - end
        if pieces and (not 0 <= gap <= _GAP_BYTES or len(pieces) > _MAX_PIECES - 2):
            _read_pieces(descriptor, pieces, begin, file)
            pieces = []
        if not pieces:
            begin = offset
        elif gap:
            pieces.append(discarded[:gap])
        pieces.append(into[filled : filled + length])
        filled, end = filled + length, offset + length
    _read_pieces(descriptor, pieces, begin, file)


def _read_pieces(descriptor: int, pieces: list[memoryview], offset: int, file: Path) -> None:
    with os_errors(file):
        count = os.preadv(descriptor, pieces, offset)
    for piece in pieces:
        if count < len(piece):  # a short read: read the rest, an error at the end of the file
            read_into(descriptor, piece[count:], offset + count, file)
        count, offset = max(0, count - len(piece)), offset + len(piece)


def _byte_runs(selection: Selection) -> list[Range]:
    """The byte ranges of the kept rows, in order; neighbouring rows form one range."""
    info = selection.info
    if not selection.keep or selection.keep[0] is None:
        return [(info.start, info.nbytes)]
    row_bytes = info.nbytes // info.shape[0]
    return [
        (info.start + first * row_bytes, count * row_bytes)
        for first, count in _runs(selection.keep[0])
    ]


def _runs(indices: Indices) -> list[tuple[int, int]]:
    """Runs of consecutive indices, as (first, count), in order."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    starts = np.concatenate(([0], breaks))
    counts = np.diff(np.concatenate((starts, [len(indices)])))
    return list(zip(indices[starts].tolist(), counts.tolist(), strict=True))


def all_finite(block: memoryview, dtype: str) -> bool:
    """Whether no stored value is NaN or infinite."""
    if dtype not in _INFINITY:
        return True
    size, infinity, minus_infinity = _INFINITY[dtype]
    # Two maxima allocate no memory, and are 2.5 times as fast as masking the exponents.
    positive = int(np.frombuffer(block, f"i{size}").max(initial=0))
    negative = int(np.frombuffer(block, f"u{size}").max(initial=0))
    return positive < infinity and negative < minus_infinity


def encode(values: NDArray[np.floating[Any]], dtype: str, into: memoryview) -> None:
    """Write values in a stored dtype, rounded to nearest even; bfloat16 is rounded from float32.

    `dtype`: one of `FLOATS`. `into`: as many bytes as the values need. Values beyond the range of
    the dtype become infinite.
    """
    flat = values.reshape(-1)
    if dtype == "BF16":
        wide = flat.astype(np.float32).view(np.uint32)
        np.frombuffer(into, np.uint16)[:] = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16
    else:
        np.frombuffer(into, _NUMPY[dtype])[:] = flat


def _scale(selection: Selection, block: memoryview) -> None:
    """Apply the scaling of a selection to the stored values in a block, in place.

    It is computed in float64 and rounded to nearest even.
    """
    scaling, dtype = selection.scaling, selection.info.dtype
    assert scaling is not None

    if dtype == "BF16":
        words = np.frombuffer(block, np.uint16)
        wide = (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    elif dtype in _NUMPY:
        wide = np.frombuffer(block, _NUMPY[dtype]).astype(np.float64)
    else:
        raise UserError(f"{selection.info.name}: values of type {dtype} cannot be scaled")
    encode(scaling.applied(wide), dtype, block)
