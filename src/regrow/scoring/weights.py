"""The weights that belong to each index of an axis, read from the checkpoint block by block.

Memory does not grow with the model: a block holds at most `BLOCK_VALUES` values, or one row of a
tensor where a row is longer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Axis, LabelledTensor, Layout
from regrow.checkpoint.reader import Checkpoint, read_tensor
from regrow.common.errors import UserError

BLOCK_VALUES = 1 << 22
"""32 MiB in float64."""


@dataclass(frozen=True, eq=False)
class WeightRows:
    """Some of the weights along an axis; each row belongs to one index.

    `indices`: the index of each row, [rows]; an index may occur in several rows. `values`: the
    weights in float64, [rows, weights].
    """

    indices: NDArray[np.int64]
    values: NDArray[np.float64]


def weights_along(
    checkpoint: Checkpoint, layout: Layout, axis: Axis, layer: int | None = None
) -> Iterator[WeightRows]:
    """All weights that lie along an axis, each once.

    A query head has its own weights and those of the key-value head that it reads. `layer`: only
    weights of this layer.

    Raises UserError where a weight is NaN or infinite.
    """
    for tensor in layout.distinct_tensors:
        if layer is not None and tensor.layer != (axis.along, layer):
            continue
        yield from _rows(checkpoint, layout, tensor, axis.name)
        if axis.groups:
            group = layout.sizes[axis.name] // layout.sizes[axis.groups]
            for rows in _rows(checkpoint, layout, tensor, axis.groups):
                for head in range(group):
                    yield WeightRows(rows.indices * group + head, rows.values)


def _rows(
    checkpoint: Checkpoint, layout: Layout, tensor: LabelledTensor, axis: str
) -> Iterator[WeightRows]:
    if tensor.expert is not None and tensor.expert[0] == axis:
        for _, values in _blocks(checkpoint, tensor):
            owner = np.full(len(values), tensor.expert[1], dtype=np.int64)
            yield WeightRows(owner, values.reshape(len(values), -1))
        return
    for number, dimension in enumerate(tensor.dims.dimensions):
        if axis not in dimension.names:
            continue
        owners = dimension.owners(layout.sizes, axis)
        for start, values in _blocks(checkpoint, tensor):
            here = owners if number else owners[start : start + len(values)]
            rows = np.moveaxis(values, number, 0).reshape(len(here), -1)
            if (here < 0).any():
                here, rows = here[here >= 0], rows[here >= 0]
            yield WeightRows(here, rows)


def _blocks(
    checkpoint: Checkpoint, tensor: LabelledTensor
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Rows of a tensor in float64, with the number of the first."""
    info = checkpoint.tensors[tensor.name]
    height = info.shape[0]
    count = max(1, BLOCK_VALUES // prod(info.shape[1:]))
    for start in range(0, height, count):
        values = read_tensor(info, start, min(count, height - start)).astype(np.float64)
        if not np.isfinite(values).all():
            raise UserError(f"{tensor.name}: holds NaN or infinite weights; repair the model first")
        yield start, values
