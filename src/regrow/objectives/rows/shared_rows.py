"""Several examples share a row of an encoder-decoder, so that few slots are padding.

A row holds sources one after the other, and their targets in the same order. A batch says for each
slot which example it belongs to. Attention masks are made from these numbers in the forward pass
(`regrow.objectives.losses.shared_row_attention`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapreplace

import numpy as np
from numpy.typing import NDArray

from regrow.common.identity import identity_of
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import (
    Batch,
    Components,
    DataOrder,
    MixedSamples,
    Order,
    Samples,
    components_of,
    data_order,
    mixed_samples,
    slots_of,
)
from regrow.objectives.rows.examples import NO_TEXT
from regrow.objectives.rows.random_segmentation import Ids

_DRAWN = 4_096
"""Samples of a mixture, the first ones, from whose lengths the mean length is taken."""


@dataclass(frozen=True, eq=False)
class SharedRows:
    """A `Samples` that joins several samples of `pairs` into one.

    Sample ``i`` is made of samples ``i * per_row`` to ``(i + 1) * per_row - 1`` of `pairs`. These
    are the same samples, in the same order, as without shared rows.

    In a batch, the examples of a sample do not stay together. All examples of the batch are
    assigned to rows such that the forward pass costs least.

    Attributes:
        pairs: Samples of one source and one target each, in batches as from
            `regrow.objectives.rows.examples.write_examples`.
        per_row: Samples of `pairs` in one sample.
        seed: For the data order of `pairs`.
        break_even_width: Width of a row at which attention costs as much as the matrices.
    """

    pairs: Samples
    per_row: int
    seed: int
    break_even_width: int

    def __len__(self) -> int:
        return -(-len(self.pairs) // self.per_row)

    @property
    def row_length(self) -> int:
        """Upper bound on the text tokens in an example."""
        return self.pairs.row_length

    @cached_property
    def identity(self) -> str:
        return identity_of(
            "shared rows",
            per_row=self.per_row,
            seed=self.seed,
            cost=self.break_even_width,
            pairs=self.pairs.identity,
        )

    @cached_property
    def _order(self) -> Order:
        return data_order(self.pairs, self.seed)

    def order(self, seed: int) -> Order:
        """Row ``i`` is sample ``i``; `pairs` are ordered inside a row."""
        return _IdentityOrder()

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of `pairs` that each of these rows holds, [rows, per_row]."""
        count = self.per_row
        if len(rows) and (np.diff(rows) == 1).all():
            first, stop = int(rows[0]) * count, (int(rows[-1]) + 1) * count
            return self._order.rows(first, stop).reshape(-1, count)
        by_row = [self._order.rows(row * count, (row + 1) * count) for row in rows.tolist()]
        return np.array(by_row, dtype=np.int64).reshape(-1, count)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        inside = self._rows(rows)
        lengths: Ids = self.pairs.lengths(inside.reshape(-1)).reshape(inside.shape).sum(axis=1)
        return lengths

    def _numbers(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples of `pairs` that each of these samples holds, [samples, per_row]."""
        return samples[:, None] * self.per_row + np.arange(self.per_row)

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of all sources and of all targets of a sample, [samples, 2]."""
        inside, numbers = self._rows(rows).reshape(-1), self._numbers(samples).reshape(-1)
        each = slots_of(self.pairs, inside, numbers)
        whole: NDArray[np.int64] = each.reshape(len(rows), self.per_row, -1).sum(axis=1)
        return whole

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """The components of the pairs, `per_row` for each sample."""
        return components_of(
            self.pairs, self._rows(rows).reshape(-1), self._numbers(samples).reshape(-1)
        )

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """As `place_in_rows`, and ``examples``, [rows, target width]: the example of each slot."""
        pairs = self.pairs.batch(self._rows(rows).reshape(-1), self._numbers(samples).reshape(-1))
        sources, targets = _lengths(pairs)
        batch = place_in_rows(
            pairs, assign_rows(sources, targets, len(rows), self.break_even_width)
        )
        return {**batch, "examples": batch["target_texts"]}

    def mixed(self, kind: str) -> MixedSamples | None:
        """The mixture of the pairs, with samples counted in shared rows."""
        inside = mixed_samples(self.pairs, kind)
        return None if inside is None else _MixedPairs(inside, self.per_row)


class _IdentityOrder:
    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        return np.arange(start, stop)


@dataclass(frozen=True, eq=False)
class _MixedPairs:
    """A `MixedSamples` of shared rows.

    Attributes:
        pairs: Counts samples of single examples.
        per_row: Examples in one sample of shared rows.
    """

    pairs: MixedSamples
    per_row: int

    @property
    def names(self) -> tuple[str, ...]:
        return self.pairs.names

    @property
    def first(self) -> tuple[float, ...]:
        return self.pairs.first

    def mix_from(self, sample: int, weights: Sequence[float]) -> None:
        self.pairs.mix_from(sample * self.per_row, weights)


def make_shared_rows(pairs: Samples, text_tokens: int, seed: int, hidden: int) -> SharedRows:
    """Shared rows with as many examples as fit on average, and at least one.

    Examples fit if their texts together have at most the `row_length` of `pairs`.

    For each token, the matrices of a layer take some 24 * hidden**2 operations, and attention takes
    4 * width * hidden operations at half the speed (on a CPU). Both cost the same at a width of
    3 * hidden.

    Args:
        pairs: Samples of one source and one target each.
        text_tokens: Text tokens in all of `pairs`.
        seed: For the data order.
        hidden: Hidden size of the model.
    """
    order = data_order(pairs, seed)
    if isinstance(order, DataOrder):
        mean = text_tokens / len(pairs)
    else:  # a mixture, in which rows do not come equally often
        mean = float(pairs.lengths(order.rows(0, _DRAWN)).mean())
    return SharedRows(
        pairs, max(1, int(pairs.row_length / mean)), seed, break_even_width=3 * hidden
    )


def assign_rows(sources: Ids, targets: Ids, max_rows: int, break_even_width: int) -> Ids:
    """The row of each example, counted from 0, such that a forward pass costs least; [examples].

    For each possible number of rows, the examples are taken from the largest to the smallest, and
    each is put into the row that is least full (Graham 1969, "Bounds on multiprocessing timing
    anomalies", here with two sizes). The number of rows with the lowest cost is chosen.

    Args:
        sources: Tokens of each source, [examples].
        targets: Tokens of each target, [examples].
        max_rows: Upper bound on the number of rows.
        break_even_width: Width of a row at which attention costs as much as the matrices.
    """
    all_sources, all_targets = int(sources.sum()), int(targets.sum())
    sizes = sources / all_sources + targets / all_targets
    largest_first = np.argsort(-sizes, kind="stable").tolist()
    widths = list(zip(sources.tolist(), targets.tolist(), strict=True))

    def cost_of(count: int, source: float, target: float) -> float:
        attention = (source**2 + target**2 + source * target) / break_even_width
        return count * (source + target + attention)

    best: tuple[float, list[int]] | None = None
    for count in range(min(max_rows, len(widths)), 0, -1):
        # Fewer rows that were all full cost more and more.
        if best is not None and cost_of(count, all_sources / count, all_targets / count) > best[0]:
            break
        filled = [(0, 0)] * count
        by_fullness = [(0.0, row) for row in range(count)]
        row_of = [0] * len(widths)
        for example in largest_first:
            source, target = widths[example]
            row = by_fullness[0][1]
            a, b = filled[row]
            filled[row] = (a + source, b + target)
            full = max((a + source) / all_sources, (b + target) / all_targets)
            heapreplace(by_fullness, (full, row))
            row_of[example] = row
        widest = (max(widths_of) for widths_of in zip(*filled, strict=True))
        cost = cost_of(count, *widest)
        if best is None or cost <= best[0]:
            best = (cost, row_of)
    assert best is not None
    return np.array(best[1], dtype=np.int64)


def place_in_rows(pairs: Batch, row_of: Ids) -> Batch:
    """Places examples in rows.

    Args:
        pairs: Padded examples, as from `regrow.objectives.rows.examples.write_examples`.
        row_of: The row of each example, [examples].

    Returns:
        ``input_ids`` and ``source_texts``: [rows, source width]. ``decoder_input_ids``, ``labels``
        and ``target_texts``: [rows, target width]. All int64. ``source_texts`` and
        ``target_texts`` hold the index of each slot's example in `pairs`. Empty slots are on the
        right and hold `NO_TEXT`.
    """
    sources, targets = _lengths(pairs)
    by_row = np.argsort(row_of, kind="stable")
    rows = row_of[by_row]
    firsts = np.flatnonzero(np.diff(rows, prepend=-1))

    def placed(lengths: Ids, arrays: dict[str, NDArray[np.int64]], name: str) -> Batch:
        lengths = lengths[by_row]
        ends = np.cumsum(lengths)
        before = ends - lengths
        offsets = before - before[firsts][rows]
        width = int((offsets + lengths).max())
        starts = rows * width + offsets
        places = np.arange(ends[-1]) + np.repeat(starts - before, lengths)
        is_token = np.arange(next(iter(arrays.values())).shape[1]) < lengths[:, None]
        found: Batch = {}
        for key, values in arrays.items():
            empty = NOT_PREDICTED if key == "labels" else 0
            found[key] = np.full((len(firsts), width), empty, dtype=np.int64)
            found[key].reshape(-1)[places] = values[by_row][is_token]
        found[name] = np.full((len(firsts), width), NO_TEXT, dtype=np.int64)
        found[name].reshape(-1)[places] = np.repeat(by_row, lengths)
        return found

    of_targets = {name: pairs[name] for name in ("decoder_input_ids", "labels")}
    return {
        **placed(sources, {"input_ids": pairs["input_ids"]}, "source_texts"),
        **placed(targets, of_targets, "target_texts"),
    }


def _lengths(pairs: Batch) -> tuple[Ids, Ids]:
    """The number of tokens of each source and of each target, [examples] each."""
    sources: Ids = pairs["attention_mask"].sum(axis=1)
    return sources, (pairs["labels"] != NOT_PREDICTED).sum(axis=1)
