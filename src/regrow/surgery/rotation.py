"""Keep the principal directions of the residual stream in place of some of its channels.

Matrices that write to the stream and matrices that read it can be multiplied with a rotation and
its inverse without any change of the network, since a norm of length does not see a rotation
(Ashkboos et al. 2024, "SliceGPT", section 3). Principal component analysis gives the directions in
which the stream varies most. The first of them become the channels of the cut model.

With directions ``C`` [kept, channels], a matrix ``W`` that writes and
an embedding ``E`` become ``C W`` and ``E C^T``. A matrix ``W`` that reads a norm with weights ``g``
and biases ``b`` becomes ``W T``. The norm then has one weight ``a`` and one bias ``c`` for all
channels::

    T = diag(g) C^T * s / a  +  b 1^T / (kept * c)
    s = sqrt(share of the stream's square that is kept * channels / kept)

The rows of ``C`` are orthonormal if the norms are RMSNorm. LayerNorm takes off the mean over
channels, which is not the same after a rotation. So there is one direction less than there are new
channels, and the directions are spread over them such that each has a sum of zero (with the columns
of a Householder reflection, but for the last). Then nothing of the stream is in the mean. For the
same reason, a bias ``c`` of all channels reads ``b`` and nothing else. ``a`` and ``c`` are powers
of two, which are exact in each floating-point type.

Memory holds one matrix that writes, with its result, for each of the two threads that write files.

A tied head cannot be rotated (:func:`regrow.cuts.rotatable.rotation_problem`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from regrow.architectures import LabelledTensor, Layout
from regrow.checkpoint.reader import Checkpoint, read_tensor
from regrow.common.errors import UserError
from regrow.cuts.cut import Cut
from regrow.cuts.rotatable import hidden_axis
from regrow.scoring.stream import Stream, read_by
from regrow.surgery.carve import CarvePlan, with_corrections
from regrow.surgery.computed import Computed, Floats
from regrow.surgery.kept_bytes import Indices, Selection


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm of the result: the weight and the bias of all its channels.

    Attributes:
        weight, bias: ``a`` and ``c`` above; a bias of 0 if the norm has none.
        scale, shift: ``g * s / a`` and ``b / (kept * c)``, [channels] in float64.
    """

    weight: float
    bias: float
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False)
class Rotation:
    """The directions that a cut of hidden keeps.

    Attributes:
        directions: [kept, channels] in float64.
        norms: By the name of their module in the source.
        norm_of: The norm that each matrix reads, by the names of their modules in the source.
        share: Of the stream's square, what the directions keep.
    """

    directions: Tensor
    norms: Mapping[str, Norm]
    norm_of: Mapping[str, str]
    share: float

    def reading(self, matrix: str) -> Tensor:
        """``T`` of a matrix that reads the stream, [channels, kept] in float64.

        `matrix`: the name of its module in the source.
        """
        norm = self.norms[self.norm_of[matrix]]
        return self.directions.T * norm.scale[:, None] + norm.shift[:, None]

    def words(self) -> str:
        """What is kept, in one line."""
        kept, channels = self.directions.shape
        return (
            f"{kept:,} principal directions keep {100 * self.share:.1f}% of the square of the "
            f"residual stream, which has {channels:,} channels"
        )


def rotation_of(stream: Stream, checkpoint: Checkpoint, layout: Layout, kept: int) -> Rotation:
    """The rotation to the first `kept` principal directions.

    Raises UserError if one channel is to be kept of a stream that LayerNorm reads.
    """
    if stream.centred and kept < 2:
        raise UserError("LayerNorm needs at least two channels", key="hidden")
    moments, count = stream.moments, kept - stream.centred
    if stream.centred:  # the mean has no variance, and is not to be chosen among other such
        moments = moments - 1 / len(moments)
    values, vectors = torch.linalg.eigh(moments)
    chosen = vectors[:, -count:].flip(1)
    # The sign of an eigenvector is arbitrary, and may differ from machine to machine.
    chosen = chosen * chosen.gather(0, chosen.abs().argmax(0, keepdim=True)).sign()
    directions = _balanced(kept) @ chosen.T if stream.centred else chosen.T
    share = float(values[-count:].sum() / stream.moments.trace())
    norms = {
        name: _norm(name, directions, share, checkpoint, layout)
        for axis in layout.blueprint.axes
        if axis.kind == "hidden"
        for name in layout.modules(axis.sites)
    }
    return Rotation(directions, norms, stream.norm_of, share)


def _balanced(size: int) -> Tensor:
    """[size, size - 1] with orthonormal columns, each of sum zero."""
    mirror = torch.full((size,), -(size**-0.5), dtype=torch.float64)
    mirror[-1] += 1
    reflection = torch.eye(size, dtype=torch.float64)
    reflection -= 2 / mirror.square().sum() * mirror.outer(mirror)
    return reflection[:, :-1]


def _norm(
    name: str, directions: Tensor, share: float, checkpoint: Checkpoint, layout: Layout
) -> Norm:
    values = {
        label.parameter.rpartition(".")[2]: torch.from_numpy(
            read_tensor(checkpoint.tensors[label.name])
        ).double()
        for label in layout.distinct_tensors
        if label.parameter.rpartition(".")[0] == name
    }
    weight = values["weight"]
    kept, channels = directions.shape
    scale = math.sqrt(share * channels / kept)
    new_weight = _power_of_two(weight * scale)
    bias, new_bias = values.get("bias", torch.zeros_like(weight)), 0.0
    shift = bias
    if bias.any():
        new_bias = _power_of_two(bias)
        shift = bias / (kept * new_bias)
    return Norm(new_weight, new_bias, weight * (scale / new_weight), shift)


def _power_of_two(values: Tensor) -> float:
    """The power of two that is nearest to the size of some values."""
    size = float(values.square().mean().sqrt())
    return 2.0 ** round(math.log2(size)) if size else 1.0


def rotated(plan: CarvePlan, layout: Layout, cut: Cut, rotation: Rotation) -> CarvePlan:
    """The plan of a cut whose hidden is rotated, with the rotated tensors in their places.

    `layout`: of the source.
    """
    name = hidden_axis(layout)
    assert name is not None
    assert cut.axes[name].rotated
    readers = {label.name: module for module, label in read_by(layout).items()}
    tensors = {
        output.parameter: _rotated(
            output.content, layout.tensors[output.content.info.name], name, rotation, readers
        )
        for output in plan.outputs
        if isinstance(output.content, Selection)
        and name in layout.tensors[output.content.info.name].dims.names
    }
    return replace(with_corrections(plan, layout, tensors), to_rotate=False)


def _rotated(
    selection: Selection,
    label: LabelledTensor,
    axis: str,
    rotation: Rotation,
    readers: Mapping[str, str],
) -> Computed:
    """One tensor along hidden.

    `selection`: the tensor, with the indices that other axes keep. `readers`: the module of each
    matrix that reads the stream, by the name of its tensor.
    """
    shape, keep = selection.shape, selection.keep
    if len(shape) == 1:
        module, _, part = label.parameter.rpartition(".")
        if module in rotation.norms:
            norm = rotation.norms[module]
            value = norm.weight if part == "weight" else norm.bias
            return Computed(shape, lambda first, last: np.full(last - first, value))
        bias = _read(selection, None)
        turned = _array(rotation.directions.to(bias.dtype) @ bias)
        return Computed(shape, lambda first, last: turned[first:last])
    if axis in label.dims.dimensions[0].names:
        return Computed(shape, _ComputedAtOnce(partial(_written, selection, rotation)))
    if label.name in readers:
        matrix = readers[label.name]
        return Computed(shape, RowsTimes(selection, keep[0], lambda: rotation.reading(matrix)))
    return Computed(shape, RowsTimes(selection, keep[0], lambda: rotation.directions.T))


def _written(selection: Selection, rotation: Rotation) -> Floats:
    """A matrix that writes to the stream."""
    whole = _read(selection, None)
    columns = selection.keep[1]
    whole = whole if columns is None else whole[:, columns]
    return _array(rotation.directions.to(whole.dtype) @ whole)


class RowsTimes:
    """Kept rows of a stored matrix, times another matrix; called as `Computed.rows`.

    `keep`: the kept rows in their new order; None for all. `factor`: gives the other matrix,
    [columns, new columns], which is made before the first rows, and forgotten after the last ones.
    """

    def __init__(
        self, selection: Selection, keep: Indices | None, factor: Callable[[], Tensor]
    ) -> None:
        self._selection, self._make = selection, factor
        self._rows = np.arange(selection.info.shape[0]) if keep is None else keep
        self._factor: Tensor | None = None

    def __call__(self, first: int, last: int) -> Floats:
        rows = self._rows[first:last]
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        values = torch.cat(
            [_read(self._selection, range(int(run[0]), int(run[-1]) + 1)) for run in runs]
        )
        factor = self._make().to(values.dtype) if self._factor is None else self._factor
        self._factor = None if last == len(self._rows) else factor
        return _array(values @ factor)


def _read(selection: Selection, rows: range | None) -> Tensor:
    """Stored values in float32, or in float64 if they are; all, or those of some rows."""
    start, count = (0, None) if rows is None else (rows.start, len(rows))
    values = torch.from_numpy(read_tensor(selection.info, start, count))
    return values if values.dtype == torch.float64 else values.float()


def _array(values: Tensor) -> Floats:
    array: Floats = values.numpy()
    return array


class _ComputedAtOnce:
    """Rows of a matrix that is computed at once, and forgotten after its last row."""

    def __init__(self, compute: Callable[[], Floats]) -> None:
        self._compute = compute
        self._values: Floats | None = None

    def __call__(self, first: int, last: int) -> Floats:
        values = self._compute() if self._values is None else self._values
        self._values = None if last == len(values) else values
        return values[first:last]
