"""Several examples in one row of an encoder-decoder, so that few slots are left empty.

A row holds sources one after the other, and their targets in the same order. Which example a slot
belongs to is one number a slot; masks are made from them when the row is read
(`regrow.objectives.losses.shared_row_attention`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.identity import identity_of
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import (
    Batch,
    Components,
    Order,
    Samples,
    components_of,
    data_order,
    slots_of,
)
from regrow.objectives.rows.examples import NO_TEXT
from regrow.objectives.rows.random_segmentation import Ids


@dataclass(frozen=True, eq=False)
class SharedRows:
    """A `Samples` of which each is several samples of another: sources with their targets.

    Sample ``i`` is made of samples ``i * per_row`` to ``(i + 1) * per_row - 1`` of `pairs`, each
    the same as without: so are the order in which they come and what is drawn for them.

    In a batch they are not kept together: all examples of it are spread over as many rows as cost
    least.

    Attributes:
        pairs: As `regrow.objectives.rows.examples.write_examples` has them.
        per_row: Samples of `pairs` in one of these.
        seed: Of the order in which samples of `pairs` come.
        dear: The width of a row at which attention costs as much as the matrices.
    """

    pairs: Samples
    per_row: int
    seed: int
    dear: int

    def __len__(self) -> int:
        return -(-len(self.pairs) // self.per_row)

    @property
    def row_length(self) -> int:
        """Bound on the text tokens in an example."""
        return self.pairs.row_length

    @cached_property
    def identity(self) -> str:
        return identity_of(
            "shared rows",
            per_row=self.per_row,
            seed=self.seed,
            cost=self.dear,
            pairs=self.pairs.identity,
        )

    @cached_property
    def _order(self) -> Order:
        return data_order(self.pairs, self.seed)

    def order(self, seed: int) -> Order:
        """Their own: a row is called as the sample that it is."""
        return _Counted()

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of `pairs` that are in each of these, [rows, per_row]."""
        many = self.per_row
        if len(rows) and (np.diff(rows) == 1).all():
            return self._order.rows(int(rows[0]) * many, (int(rows[-1]) + 1) * many).reshape(
                -1, many
            )
        each = [self._order.rows(row * many, (row + 1) * many) for row in rows.tolist()]
        return np.array(each, dtype=np.int64).reshape(-1, many)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        inside = self._rows(rows)
        lengths: Ids = self.pairs.lengths(inside.reshape(-1)).reshape(inside.shape).sum(axis=1)
        return lengths

    def _numbers(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples of `pairs` that are in each of these, [samples, per_row]."""
        return samples[:, None] * self.per_row + np.arange(self.per_row)

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of sources and targets, [samples, 2]."""
        inside, numbers = self._rows(rows).reshape(-1), self._numbers(samples).reshape(-1)
        each = slots_of(self.pairs, inside, numbers)
        whole: NDArray[np.int64] = each.reshape(len(rows), self.per_row, -1).sum(axis=1)
        return whole

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """Those of the pairs: of each of `per_row` in a sample."""
        return components_of(
            self.pairs, self._rows(rows).reshape(-1), self._numbers(samples).reshape(-1)
        )

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """As `lay_out` has it, and ``examples``, [rows, target width]: which of all examples."""
        pairs = self.pairs.batch(self._rows(rows).reshape(-1), self._numbers(samples).reshape(-1))
        sources, targets = _lengths(pairs)
        batch = lay_out(pairs, spread(sources, targets, len(rows), self.dear))
        return {**batch, "examples": batch["target_texts"]}

    # What a mixture of `pairs` is steered by counts samples of theirs.

    def mix_from(self, sample: int, weights: Sequence[float]) -> None:
        """As `pairs` has it."""
        mixed: Any = self.pairs
        mixed.mix_from(sample * self.per_row, weights)

    @property
    def shares(self) -> "SharesOfEach | None":
        """Of the sources that `pairs` is drawn from, where it has some."""
        pairs: Any = self.pairs
        found = getattr(pairs, "shares", None) or getattr(
            getattr(pairs, "windows", None), "shares", None
        )
        return None if found is None else SharesOfEach(found, self.per_row)


class _Counted:
    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        return np.arange(start, stop)


@dataclass(frozen=True, eq=False)
class SharesOfEach:
    """`regrow.corpus.source_mixture.Shares` of samples of which `each` are one sample here."""

    shares: Any
    each: int

    @property
    def names(self) -> tuple[str, ...]:
        names: tuple[str, ...] = self.shares.names
        return names

    @property
    def changes(self) -> list[tuple[int, tuple[int, ...]]]:
        return [(sample // self.each, quotas) for sample, quotas in self.shares.changes]

    def mix_from(self, sample: int, weights: Sequence[float]) -> None:
        self.shares.mix_from(sample * self.each, weights)


def share_rows(pairs: Samples, text_tokens: int, seed: int, hidden: int) -> SharedRows:
    """As many examples in a row as find room for their text on average, and at least one.

    `text_tokens`: in all of `pairs`. `hidden`: of the model. A token costs some 24 * hidden**2
    operations in the matrices of a layer and 4 * width * hidden in its attention, which come at
    half the speed on a CPU.
    """
    mean = text_tokens / len(pairs)
    return SharedRows(pairs, max(1, int(pairs.row_length / mean)), seed, dear=3 * hidden)


def spread(sources: Ids, targets: Ids, most: int, dear: int) -> Ids:
    """The row of each example, [examples], so that a forward pass costs least; rows count from 0.

    Sizes are those of sources and targets, [examples]. For each number of rows up to `most` (and
    no more than there are examples) the examples go, the largest first, to the row that is fullest
    least: Graham 1969, "Bounds on multiprocessing timing anomalies", with two sizes.
    """
    all_sources, all_targets = int(sources.sum()), int(targets.sum())
    sizes = sources / all_sources + targets / all_targets
    largest_first = np.argsort(-sizes, kind="stable").tolist()
    widths = list(zip(sources.tolist(), targets.tolist(), strict=True))
    best: tuple[float, list[int]] | None = None
    for count in range(1, min(most, len(widths)) + 1):
        filled = [(0, 0)] * count
        fullness = [0.0] * count
        row_of = [0] * len(widths)
        for example in largest_first:
            source, target = widths[example]
            row = fullness.index(min(fullness))
            a, b = filled[row]
            filled[row] = (a + source, b + target)
            fullness[row] = max((a + source) / all_sources, (b + target) / all_targets)
            row_of[example] = row
        source, target = (max(widths_of) for widths_of in zip(*filled, strict=True))
        attention = (source**2 + target**2 + source * target) / dear
        cost = count * (source + target + attention)
        if best is None or cost < best[0]:
            best = (cost, row_of)
    assert best is not None
    return np.array(best[1], dtype=np.int64)


def lay_out(pairs: Batch, row_of: Ids) -> Batch:
    """Examples, as `regrow.objectives.rows.examples.write_examples` has them, in these rows.

    Returns:
        ``input_ids`` and ``source_texts``, [rows, source width]; ``decoder_input_ids``,
        ``labels`` and ``target_texts``, [rows, target width]; int64. The text of an example has
        its number among the pairs in both; empty slots, on the right, have `NO_TEXT`.
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
    """Tokens in each source and in each target; [examples] each."""
    sources: Ids = pairs["attention_mask"].sum(axis=1)
    return sources, (pairs["labels"] != NOT_PREDICTED).sum(axis=1)
