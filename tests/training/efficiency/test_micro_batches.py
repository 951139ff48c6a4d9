"""Passes: every sample in one, none too large, and no cheaper way to cut."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regrow.corpus.concatenation import ConcatenatedRows
from regrow.corpus.packing import PackedText
from regrow.corpus.samples import Batch, slots_of
from regrow.corpus.windows import Windows
from regrow.objectives.rows.denoisers import UL2, DenoisingTokens
from regrow.objectives.rows.single_row import ConcatenatedPairs
from regrow.objectives.rows.span_corruption import CorruptedText
from regrow.objectives.rows.ul2 import MixedDenoisers, denoiser_shares
from regrow.training.efficiency.micro_batches import cheapest_partition, split_into_micro_batches

SPECIAL_TOKENS = DenoisingTokens(
    {"<R>": 3, "<S>": 4, "<X>": 5}, tuple(range(200, 100, -1)), 1, 0, 2
)


@dataclass
class Shapes:
    """Samples of which nothing is known but their slots."""

    shapes: NDArray[np.int64]
    row_length: int = 100
    identity: str = "shapes"

    def __len__(self) -> int:
        return len(self.shapes)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        lengths: NDArray[np.int64] = self.shapes[rows, 0]
        return lengths

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.shapes[rows]

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        return {}


shapes = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=40).map(
    lambda pairs: np.array(pairs)
)


@settings(deadline=None)
@given(shapes, st.integers(1, 9))
def test_every_sample_is_in_one_pass(found: NDArray[np.int64], at_once: int) -> None:
    rows = np.arange(len(found))
    parts = split_into_micro_batches(Shapes(found), rows, rows, at_once)
    assert sorted(np.concatenate(parts).tolist()) == rows.tolist()
    assert all(1 <= len(part) <= at_once for part in parts)
    sizes = [len(part) * found[part].max(axis=0).sum() for part in parts]
    assert sizes == sorted(sizes, reverse=True)


def ways(count: int, at_once: int) -> Iterator[list[int]]:
    """All sizes that parts of so many samples can have."""
    if count == 0:
        yield []
    for size in range(1, min(at_once, count) + 1):
        for rest in ways(count - size, at_once):
            yield [size, *rest]


@settings(deadline=None, max_examples=60)
@given(shapes.filter(lambda found: len(found) <= 9), st.integers(1, 5), st.integers(0, 300))
def test_no_other_cuts_cost_less(found: NDArray[np.int64], at_once: int, cost: int) -> None:
    def price(sizes: list[int]) -> int:
        edges = np.cumsum([0, *sizes])
        parts = [found[a:b] for a, b in pairwise(edges)]
        return sum(cost + len(part) * int(part.max(axis=0).sum()) for part in parts)

    parts = cheapest_partition(found, at_once, cost)
    assert [first for first, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert parts[-1][1] == len(found)
    cheapest = min(price(sizes) for sizes in ways(len(found), at_once))
    assert price([stop - first for first, stop in parts]) == cheapest


def test_rows_of_one_length_stay_in_order() -> None:
    packed = PackedText(np.zeros(100, dtype=np.int32), np.zeros(1, dtype=np.int64), 1, 10)
    rows = np.array([3, 1, 4, 0, 5, 9, 2])
    parts = split_into_micro_batches(packed, rows, rows, 3)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]


def mixed(lengths: NDArray[np.int64]) -> MixedDenoisers:
    tokens = np.arange(int(lengths.sum()), dtype=np.int32) % 50 + 300
    windows = Windows(tokens, np.cumsum(lengths) - lengths, int(lengths.max()))
    return MixedDenoisers(windows, SPECIAL_TOKENS, 0, denoiser_shares([1] * len(UL2)))


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=12), st.integers(0, 2**40))
def test_slots_are_those_of_the_batch(lengths: list[int], first: int) -> None:
    samples = mixed(np.array(lengths))
    rows = np.arange(len(lengths))
    numbers = rows + first
    of_one = CorruptedText(samples.windows, UL2["X1"], SPECIAL_TOKENS, 0)
    joined = ConcatenatedRows({"a": samples, "b": samples})
    for each in (samples, of_one, joined):
        slots = slots_of(each, rows, numbers)
        batch = each.batch(rows, numbers)
        assert slots[:, 0].tolist() == batch["attention_mask"].sum(axis=1).tolist()
        assert slots[:, 1].tolist() == (batch["labels"] != -100).sum(axis=1).tolist()
    in_one = ConcatenatedPairs(samples, 2, 0)
    slots = slots_of(in_one, rows, numbers)
    for row in rows:
        alone = in_one.batch(rows[row : row + 1], numbers[row : row + 1])
        assert slots[row].tolist() == [alone["input_ids"].shape[1]]


def test_steps_of_1024_samples_are_full() -> None:
    """Texts as on the web: half of them shorter than 400 tokens, some much longer."""
    drawn = np.random.default_rng(0).lognormal(np.log(400), 1.0, 4_000).astype(np.int64) + 1
    samples = mixed(np.minimum(drawn, 568))
    rows, numbers = np.arange(1_024), np.arange(5_000, 6_024)
    slots = slots_of(samples, rows, numbers)
    parts = split_into_micro_batches(samples, rows, numbers, 8)
    computed = sum(len(part) * slots[part].max(axis=0).sum() for part in parts)
    assert slots.sum() / computed > 0.97
    assert len(parts) <= 1.05 * 1_024 / 8
