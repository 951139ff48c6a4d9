"""What the original computes in one layer, which the matrices of the cut model are solved for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regrow.common.errors import UserError
from regrow.cuts.ranges import Indices
from regrow.surgery.refitting.layer_calls import LayerCall, LayerModel
from regrow.surgery.refitting.layer_fit import writers

_TOLERANCE = 1e-4
"""The largest part of what a layer adds that may be something else than what its matrices write."""
_ROUNDING = 1e-13
"""The square of float32's rounding, relative to the square of the stream to which a layer adds."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A matrix that reads the stream. `name`: in the result. `keep`: its outputs that stay."""

    name: str
    keep: Indices | None

    def kept(self, outputs: Tensor) -> Tensor:
        """What it should give, of what the original gives: [texts, tokens, outputs]."""
        return outputs if self.keep is None else outputs[..., torch.from_numpy(self.keep.copy())]


@dataclass(frozen=True)
class Place:
    """A layer that stays. `layer`, `number`: its number before and after the cut."""

    axis: str
    layer: int
    number: int


Group = dict[str, list[Tensor]]
"""What matrices that read the same input should give, by name in the result and batch."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """What the original computes in one layer.

    `written`: the stream behind each matrix that writes to it, in the order of use, [matrices]
    [batches]; empty if they write zeros, or none can be solved for. `factor`: the constant that
    multiplies what they write. `read`: the groups of matrices that read the stream, in front of
    each of these matrices; without groups if no channel is cut. `behind`: the stream behind the
    layer, by batch.
    """

    written: list[list[Tensor]]
    factor: float
    read: list[list[Group]]
    behind: list[Tensor]


def wanted_of(
    original: LayerModel,
    place: Place,
    reading: Mapping[str, Reader],
    calls: Sequence[LayerCall],
    streams: Sequence[Tensor],
) -> Wanted:
    """What the original computes in a layer.

    `reading`: matrices that are solved for and that read the stream, by name in the original.
    `streams`: the original's stream in front of the layer, by batch.

    Raises UserError if the layer adds something else than what its matrices write.
    """
    layout = original.layout
    (name,) = layout.modules(layout.blueprint.axis(place.axis).sites, (place.axis, place.layer))
    module = original.network.get_submodule(name)
    writing = writers(layout, place.axis, place.layer)
    written: list[list[Tensor]] = []
    given: list[dict[str, Tensor]] = []
    behind: list[Tensor] = []
    order: _Order = []
    with original.loaded(module):
        for call, stream in zip(calls, streams, strict=True):
            noted = original.run_noting(
                lambda: behind.append(call(module, stream)),  # noqa: B023 - called at once
                [*writing, *reading],
                0,
            )
            order = order or _order(noted, reading)
            written.append([w.reshape(stream.shape).float() for n, _, w in noted if n in writing])
            given.append(
                {reading[n].name: reading[n].kept(gave) for n, _, gave in noted if n in reading}
            )
    factor = _factor(layout.blueprint.model_type, streams, written, behind)
    if not factor:
        return Wanted([], 1.0, [], behind)
    sums = [
        [
            stream + factor * torch.stack(parts[: number + 1]).sum(0)
            for stream, parts in zip(streams, written, strict=True)
        ]
        for number in range(len(written[0]))
    ]
    read = [
        [{name: [each[name] for each in given] for name in group} for group in groups]
        for groups in order[: len(sums)]
    ]
    return Wanted(sums, factor, read, behind)


def _factor(
    model_type: str,
    streams: Sequence[Tensor],
    written: Sequence[Sequence[Tensor]],
    behind: Sequence[Tensor],
) -> float:
    """The constant that multiplies what the matrices write; 0 if they write zeros.

    All are by batch. Raises UserError if the layer adds something else than what they write.
    """
    along = squares = 0.0
    for stream, parts, after in zip(streams, written, behind, strict=True):
        total = torch.stack(list(parts)).sum(0).double()
        along += float(((after - stream).double() * total).sum())
        squares += float(total.square().sum())
    factor = along / squares if squares else 0.0
    added = rest = rounding = 0.0
    for stream, parts, after in zip(streams, written, behind, strict=True):
        difference = after.double() - stream.double()
        added += float(difference.square().sum())
        rounding += _ROUNDING * float(stream.double().square().sum())
        total = torch.stack(list(parts)).double().sum(0)
        rest += float((difference - factor * total).square().sum())
    if rest > _TOLERANCE * added + rounding:
        raise UserError(
            f"{model_type} changes what attention and ffn write before it is added to the residual "
            "stream (as post-norm does), which cannot be refitted; set refit to false",
            key="refit",
        )
    return factor


_Order = list[list[list[str]]]
"""In front of each matrix that writes, the groups of matrices that read the same input."""


def _order(noted: Sequence[tuple[str, Tensor, Tensor]], reading: Mapping[str, Reader]) -> _Order:
    """By name in the result. `noted`: what modules read and gave, in their order."""
    order: _Order = [[]]
    before: Tensor | None = None
    for name, read, _ in noted:
        if name not in reading:
            order.append([])
            before = None
            continue
        if read is not before:
            order[-1].append([])
        order[-1][-1].append(reading[name].name)
        before = read
    return order
