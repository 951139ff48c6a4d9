"""Kept elements of one stored tensor, as a stream of byte blocks in the new order.

A plain copy wherever no index is dropped; the only arithmetic is a fold, and the only look at
values is the check that they are finite.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.checkpoint.header import TensorInfo, read_into
from regrow.errors import UserError

Indices = NDArray[np.int64]

_EXPONENT: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
"""Unsigned type of the same width, and the exponent bits: all set in infinity and NaN."""

_FLOAT = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
_CHECK_ELEMENTS = 1 << 16  # stays in the second-level cache


@dataclass(frozen=True)
class Scaling:
    """w becomes (w + offset) * factor - offset, computed in float64, rounded to nearest even."""

    factor: float
    offset: float


@dataclass(frozen=True)
class Selection:
    """What is read of one tensor: kept indices by dimension (None: all), then a scaling."""

    info: TensorInfo
    keep: tuple[Indices | None, ...]
    scaling: Scaling | None = None

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
    """Blocks of the selected bytes, each inside a buffer taken from `buffers`.

    `descriptor`: of the open file that holds the tensor. Memory is bounded by a few buffers, or by
    a few rows where one row is larger than a buffer. A block is valid until the next is asked for
    and its buffer comes round again.

    Raises UserError where a value is not finite or the file ends early.
    """
    blocks = _copied if all(keep is None for keep in selection.keep[1:]) else _taken
    for block in blocks(selection, descriptor, buffers):
        if selection.scaling is not None:
            with np.errstate(over="ignore"):  # what overflows is infinite, and found next
                _scale(selection, block)
        _check_finite(selection.info, block)
        yield block


def _copied(
    selection: Selection, descriptor: int, buffers: Iterator[bytearray]
) -> Iterator[memoryview]:
    """Whole rows: byte ranges as they are, short ones sharing a buffer."""
    info = selection.info
    view: memoryview | None = None
    filled = 0
    for offset, length in _byte_runs(selection):
        while length:
            if view is None:
                view, filled = memoryview(next(buffers)), 0
            size = min(length, len(view) - filled)
            read_into(descriptor, view[filled : filled + size], offset, info.file)
            filled, offset, length = filled + size, offset + size, length - size
            if filled == len(view):
                yield view
                view = None
    if view is not None:
        yield view[:filled]


def _taken(
    selection: Selection, descriptor: int, buffers: Iterator[bytearray]
) -> Iterator[memoryview]:
    """Rows in blocks, then a pick along the inner dimensions."""
    info, item = selection.info, selection.item_bytes
    row_bytes = info.nbytes // info.shape[0]
    out_row_bytes = selection.nbytes // selection.shape[0]
    rows = selection.keep[0]
    if rows is None:
        rows = np.arange(info.shape[0], dtype=np.int64)
    buffer = next(buffers)
    block_rows = max(1, len(buffer) // row_bytes)
    source = bytearray(block_rows * row_bytes)
    for start in range(0, len(rows), block_rows):
        part = rows[start : start + block_rows]
        filled = 0
        for first, count in _runs(part):
            size = count * row_bytes
            into = memoryview(source)[filled : filled + size]
            read_into(descriptor, into, info.start + first * row_bytes, info.file)
            filled += size
        words = np.frombuffer(source, dtype=f"u{item}", count=filled // item)
        block: NDArray[Any] = words.reshape(len(part), *info.shape[1:])
        for axis, keep in enumerate(selection.keep[1:], start=1):
            if keep is not None:
                block = np.take(block, keep, axis=axis)
        size = len(part) * out_row_bytes
        if size > len(buffer):
            buffer = bytearray(size)
        picked = np.frombuffer(buffer, dtype=f"u{item}", count=size // item)
        picked[:] = block.reshape(-1)
        yield memoryview(buffer)[:size]
        if start + block_rows < len(rows):
            buffer = next(buffers)


def _byte_runs(selection: Selection) -> list[tuple[int, int]]:
    """Kept rows as (absolute offset, length) of neighbours, in order."""
    info = selection.info
    if not selection.keep or selection.keep[0] is None:
        return [(info.start, info.nbytes)]
    row_bytes = info.nbytes // info.shape[0]
    return [
        (info.start + first * row_bytes, count * row_bytes)
        for first, count in _runs(selection.keep[0])
    ]


def _runs(indices: Indices) -> list[tuple[int, int]]:
    """Indices as runs of neighbours: (first, count), in order."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    starts = np.concatenate(([0], breaks))
    counts = np.diff(np.concatenate((starts, [len(indices)])))
    return list(zip(indices[starts].tolist(), counts.tolist(), strict=True))


def _check_finite(info: TensorInfo, block: memoryview) -> None:
    if info.dtype not in _EXPONENT:
        return
    dtype, exponent = _EXPONENT[info.dtype]
    words = np.frombuffer(block, dtype=dtype)
    scratch = np.empty(min(_CHECK_ELEMENTS, len(words)), dtype=dtype)
    for start in range(0, len(words), _CHECK_ELEMENTS):
        part = words[start : start + _CHECK_ELEMENTS]
        bits = np.bitwise_and(part, dtype(exponent), out=scratch[: len(part)])
        if int(bits.max()) == exponent:
            raise UserError(
                f"{info.file}: {info.name}: a weight is NaN or infinite, the model is damaged"
            )


def _scale(selection: Selection, block: memoryview) -> None:
    scaling, dtype = selection.scaling, selection.info.dtype
    assert scaling is not None

    def scaled(values: NDArray[Any]) -> NDArray[np.float64]:
        wide = values.astype(np.float64)
        return (wide + scaling.offset) * scaling.factor - scaling.offset

    if dtype == "BF16":
        words = np.frombuffer(block, dtype=np.uint16)
        bits = scaled((words.astype(np.uint32) << 16).view(np.float32)).astype(np.float32)
        wide = bits.view(np.uint32)
        words[:] = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16
    elif dtype in _FLOAT:
        values = np.frombuffer(block, dtype=_FLOAT[dtype])
        values[:] = scaled(values).astype(values.dtype)
    else:
        raise UserError(f"{selection.info.name}: values of type {dtype} cannot be scaled")
