"""A part is given, the rest is learned: what is which, and that both together are all there is."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.corpus.packing import NOT_PREDICTED, pack
from regrow.corpus.windows import Windows
from regrow.objectives.denoising import UL2, DenoisingTokens
from regrow.objectives.mixture import MixtureHistory
from regrow.objectives.one_row import NOT_GIVEN, PairedRows, SplitRows
from regrow.objectives.optimized import OptimizedText, fixed_lengths
from regrow.objectives.ul2 import MixedDenoisers
from tests.objectives.test_segments import chi_square
from tests.training.small import byte_tokenizer

documents = st.lists(st.text("abc é", max_size=30), min_size=1, max_size=8).filter(
    lambda texts: sum(map(len, texts)) > 20
)


@settings(deadline=None)
@given(documents, st.integers(4, 20), st.integers(0, 2**40))
def test_the_beginning_of_each_piece_is_given(texts: list[str], length: int, seed: int) -> None:
    packed = pack(texts, byte_tokenizer(), length)
    samples = SplitRows(packed, seed)
    rows = np.arange(len(packed))
    batch, plain = samples.batch(rows, rows + 7), packed.batch(rows)
    assert (batch["input_ids"] == plain["input_ids"]).all()
    for row in rows:
        starts = [*np.flatnonzero(plain["position_ids"][row] == 0).tolist(), length]
        for piece, (first, last) in enumerate(pairwise(starts)):
            blocks = batch["blocks"][row, first:last].tolist()
            given_inputs = blocks.count(piece)
            assert 1 <= given_inputs <= last - first
            assert blocks == [piece] * given_inputs + [NOT_GIVEN] * (last - first - given_inputs)
            labels = batch["labels"][row, first:last]
            assert (labels[: given_inputs - 1] == NOT_PREDICTED).all()
            kept = plain["labels"][row, first:last][given_inputs - 1 :]
            assert (labels[given_inputs - 1 :] == kept).all()
    alone = samples.batch(rows[-1:], rows[-1:] + 7)
    assert all((batch[name][-1] == array[0]).all() for name, array in alone.items())


def test_every_place_is_as_likely_for_the_split() -> None:
    packed = pack(["abcdefgh"], byte_tokenizer(), 9)
    rows = np.zeros(20_000, dtype=np.int64)
    batch = SplitRows(packed, 0).batch(rows, np.arange(len(rows)))
    given_inputs = (batch["blocks"] != NOT_GIVEN).sum(axis=1)
    assert abs(chi_square(given_inputs - 1, 9)) < 4


SENTINELS = tuple(range(1_000, 900, -1))
MARKS = DenoisingTokens({"<R>": 1_001, "<S>": 1_002, "<X>": 1_003}, SENTINELS, 1, 0, 2)


def pairs(lengths: list[int]) -> MixedDenoisers:
    tokens = np.random.default_rng(0).integers(10, 900, sum(lengths)).astype(np.int32)
    starts = (np.cumsum(lengths) - np.array(lengths)).astype(np.int64)
    windows = Windows(tokens, starts, 100)
    return MixedDenoisers(windows, MARKS, 5, MixtureHistory.constant([1] * len(UL2)))


@settings(deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.integers(0, 2**40))
def test_source_and_target_stand_in_one_row(lengths: list[int], first: int) -> None:
    inner = pairs(lengths)
    samples = PairedRows(inner, start=2, pad=0)
    rows = np.arange(len(lengths))
    apart, batch = inner.batch(rows, rows + first), samples.batch(rows, rows + first)
    for row in rows:
        source = apart["input_ids"][row][apart["attention_mask"][row] == 1].tolist()
        target = [t for t in apart["labels"][row].tolist() if t != NOT_PREDICTED]
        whole = [2, *source[:-1], *target]
        count = len(whole) - 1
        assert batch["input_ids"][row].tolist()[:count] == whole[:-1]
        assert (batch["input_ids"][row][count:] == 0).all()
        learned = batch["labels"][row].tolist()
        # All of the target but its first sentinel, which is given.
        assert learned[len(source) : count] == target[1:]
        assert target[0] == SENTINELS[0]
        assert set(learned[: len(source)] + learned[count:]) <= {NOT_PREDICTED}
        assert batch["blocks"][row].tolist() == [
            0 if place <= len(source) else NOT_GIVEN for place in range(len(learned))
        ]
        assert batch["position_ids"][row].tolist() == list(range(len(learned)))


def test_o_ul2_fills_rows_of_one_length() -> None:
    line, fixed = np.arange(10, 900, dtype=np.int32), fixed_lengths(20, 200)
    inner = OptimizedText(line, "line", fixed, 200, MARKS, 0)
    rows = np.arange(len(inner))
    batch = PairedRows(inner, start=2, pad=0).batch(rows, rows)
    assert batch["input_ids"].shape[1] == fixed.source(prefixed=True) - 1 + fixed.target
    assert (batch["labels"][:, -1] == MARKS.eos).all()
    assert (batch["input_ids"] != 0).all()


@pytest.mark.parametrize("kind", ["split", "paired"])
def test_identity_is_of_all_that_decides(kind: str) -> None:
    made: list[SplitRows] | list[PairedRows]
    if kind == "split":
        packed = [pack(["abcdef" * n], byte_tokenizer(), 4) for n in (1, 2)]
        made = [SplitRows(packed[0], 0), SplitRows(packed[0], 1), SplitRows(packed[1], 0)]
    else:
        made = [
            PairedRows(pairs([5]), 2, 0), PairedRows(pairs([5]), 3, 0), PairedRows(pairs([6]), 2, 0)
        ]  # fmt: skip
    assert len({samples.identity for samples in made}) == 3
    assert made[0].row_length == made[0].lengths(np.arange(1))[0] or kind == "paired"
