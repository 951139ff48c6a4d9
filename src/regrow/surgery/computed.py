"""Tensors of the result whose values are computed and not copied."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.checkpoint.header import TensorSpec
from regrow.common.errors import UserError
from regrow.surgery.kept_bytes import all_finite, encode

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Computed:
    """A tensor whose rows are computed by a function.

    `rows`: called as `rows(first, last)`; returns rows `first` to `last - 1` along the first
    dimension, [last - first, *shape[1:]]. It is called for each row once, in order, for a few rows
    at a time. Several threads may compute different tensors at the same time.
    """

    shape: tuple[int, ...]
    rows: Callable[[int, int], Floats]


def stream_computed(
    computed: Computed, spec: TensorSpec, buffers: Iterator[bytearray]
) -> Iterator[memoryview]:
    """The stored bytes of the tensor, in blocks, each inside a buffer taken from `buffers`.

    `spec`: its name, stored dtype (one of `FLOATS`) and shape. Values are rounded as `encode` does.
    Memory is bounded by a few buffers, or by a few rows if one row is larger than a buffer. A block
    is valid until the next one is taken.

    Raises UserError if a value is not finite, and ValueError if the function returns another shape.
    """
    height, *inner = spec.shape or (1,)
    row_bytes = spec.nbytes // max(1, height)
    if not row_bytes:
        return
    first = 0
    while first < height:
        buffer = next(buffers)
        last = min(height, first + max(1, len(buffer) // row_bytes))
        size = (last - first) * row_bytes
        values = computed.rows(first, last)
        if values.shape != (last - first, *inner):
            raise ValueError(
                f"{spec.name}: rows {first} to {last - 1} have shape {list(values.shape)}, not "
                f"{[last - first, *inner]}"
            )
        block = memoryview(buffer if size <= len(buffer) else bytearray(size))[:size]
        with np.errstate(over="ignore"):  # an overflow gives infinity, which the check finds
            encode(values, spec.dtype, block)
        if not (np.isfinite(values).all() and all_finite(block, spec.dtype)):
            raise UserError(f"{spec.name}: a computed weight is NaN, infinite or too large")
        yield block
        first = last
