"""How long a model of other sizes takes for a token, from the measured times of a few cuts."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Layout
from regrow.architectures.schema import ACTIVE_EXPERTS
from regrow.surgery.budget import Sizes, Term, terms_of, total

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SpeedModel:
    """Seconds per token as a sum: a constant, each layer, its parameters, and the output head.

    Attributes:
        layout: Of the original.
        seconds: Of each part for one unit of it, [parts]; none is negative.
    """

    layout: Layout
    seconds: Floats

    def at(self, sizes: Sizes) -> Any:
        """Seconds per token: a number, or an array [models]."""
        return sum(
            part * seconds
            for part, seconds in zip(_parts(self.layout, sizes), self.seconds, strict=True)
        )


def fit_speed(layout: Layout, times: Sequence[tuple[Mapping[str, int], float]]) -> SpeedModel:
    """The sum that fits measured seconds per token at some sizes best, relative to each time.

    Among few parts, all sets of those that are not zero are tried; of the best fits without a
    negative part, the one with the smallest squared error is taken.
    """
    rows = np.array([[float(part) for part in _parts(layout, sizes)] for sizes, _ in times])
    seconds = np.array([each for _, each in times])
    scale = rows.max(axis=0)
    scale[scale == 0] = 1
    relative = rows / scale / seconds[:, None]
    best, least = np.zeros(rows.shape[1]), np.inf
    for count in range(1, rows.shape[1] + 1):
        for chosen in itertools.combinations(range(rows.shape[1]), count):
            part = relative[:, chosen]
            found = np.linalg.lstsq(part, np.ones(len(times)), rcond=None)[0]
            error = float(((part @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < least - 1e-12:
                best, least = np.zeros(rows.shape[1]), error
                best[list(chosen)] = found
    return SpeedModel(layout, best / scale)


def _parts(layout: Layout, sizes: Sizes) -> list[Any]:
    """What the time of a token is a sum of: numbers, or arrays [models]."""
    merged: dict[str, Any] = {**layout.sizes, **sizes}
    blueprint = layout.blueprint
    parts: list[Any] = [1]
    for axis in blueprint.axes:
        if axis.kind == "layer":
            inside = {
                tensor.name: tensor
                for tensor in layout.distinct_tensors
                if tensor.layer is not None and tensor.layer[0] == axis.name
            }
            terms = [_of_a_token(layout, term) for term in terms_of(inside)]
            parts += [merged[axis.name], total(layout, terms, sizes)]
    # The head reads a matrix of the embedding's shape, also if the two are tied.
    head = {
        tensor.name: tensor
        for tensor in layout.distinct_tensors
        if tensor.parameter == blueprint.head.embedding
    }
    return [*parts, total(layout, terms_of(head), sizes)]


def _of_a_token(layout: Layout, term: Term) -> Term:
    """Of experts those that compute a token: as many as before, however many there are."""
    if len(term.repeats) == 1:
        return term
    layer, _expert = term.repeats
    return replace(term, repeats=(layer,), weight=term.weight * layout.sizes[ACTIVE_EXPERTS])
