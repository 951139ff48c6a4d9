"""O-UL2: every slot is filled, no text has more spans than there are sentinels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch
from regrow.errors import UserError
from regrow.objectives.denoising import DenoisingTokens
from regrow.objectives.optimized import (
    BLOCK,
    FixedLengths,
    OptimizedText,
    draw_fixed_spans,
    fixed_lengths,
)
from tests.objectives.test_segments import chi_square

FIRST_TEXT_ID = 5_000
PREFIXES = {"<R>": 4, "<S>": 5, "<X>": 6}


def marks(sentinels: int, prefixed: bool = True) -> DenoisingTokens:
    names = tuple(range(10 + sentinels, 10, -1))
    return DenoisingTokens(PREFIXES if prefixed else {}, names, 1, 0, 2)


def line_of(
    tokens: int, sentinels: int = 12, row_length: int = 200, seed: int = 0, prefixed: bool = True
) -> OptimizedText:
    """Each token of the line is another id."""
    line = np.arange(FIRST_TEXT_ID, FIRST_TEXT_ID + tokens, dtype=np.int32)
    fixed = fixed_lengths(sentinels, row_length)
    names = marks(sentinels, prefixed)
    return OptimizedText(line, str(tokens), fixed, row_length, names, seed)


def test_lengths_of_the_report() -> None:
    fixed = fixed_lengths(100, 1_898)
    assert fixed == fixed_lengths(100, 2_048) == FixedLengths(1_700)
    assert (fixed.spans, fixed.split_text, fixed.half) == (100, 1_898, 949)
    assert (fixed.source(prefixed=True), fixed.target) == (952, 951)
    assert fixed.kinds == ((191, 64), (255, 32), (192, 3))
    assert fixed.suffix == 212


@settings(deadline=None)
@given(st.integers(9, 300), st.integers(60, 3_000))
def test_lengths_are_the_longest_that_fit(sentinels: int, row_length: int) -> None:
    fixed = fixed_lengths(sentinels, row_length)
    assert fixed.spans <= sentinels
    assert max(fixed.mixed_text, fixed.split_text) <= row_length
    longer = FixedLengths(fixed.mixed_text + 20)
    assert longer.spans > sentinels or longer.split_text > row_length
    assert sum(tokens for tokens, _ in fixed.kinds) + fixed.suffix == fixed.noise
    assert fixed.spans <= fixed.mixed_text - fixed.noise
    assert all(1 <= spans <= tokens for tokens, spans in fixed.kinds)


def whole_text(batch: Batch, row: int, sentinels: tuple[int, ...]) -> tuple[list[int], int]:
    """The text of a full example, put together again, and its spans."""
    assert batch["attention_mask"][row].all()
    assert (batch["labels"][row] != NOT_PREDICTED).all()
    source, target = batch["input_ids"][row].tolist(), batch["labels"][row].tolist()
    assert source.pop() == target.pop() == 1
    assert batch["decoder_input_ids"][row].tolist() == [2, *target]
    pieces: dict[int, list[int]] = {}
    for token in target:
        if token in sentinels:
            assert token not in pieces
            pieces[token] = []
        else:
            pieces[next(reversed(pieces))].append(token)
    assert list(pieces) == list(sentinels[: len(pieces)])
    assert all(pieces.values())
    if source[0] in PREFIXES.values():
        source.pop(0)
    return [t for token in source for t in pieces.get(token, [token])], len(pieces)


@settings(deadline=None)
@given(st.integers(9, 130), st.integers(60, 2_500), st.integers(0, 2**40), st.booleans(), st.data())
def test_no_slot_is_empty_and_no_span_without_a_sentinel(
    sentinels: int, row_length: int, seed: int, prefixed: bool, data: st.DataObject
) -> None:
    fixed = fixed_lengths(sentinels, row_length)
    tokens = fixed.split_text + data.draw(st.integers(0, 12 * row_length))
    samples = line_of(tokens, sentinels, row_length, seed, prefixed)
    rows = np.arange(len(samples))
    numbers = np.array(data.draw(st.permutations(rows.tolist()))) + 1_000
    batch = samples.batch(rows, numbers)
    assert batch["input_ids"].shape == (len(rows), fixed.source(prefixed))
    assert batch["labels"].shape == (len(rows), fixed.target)
    assert (samples.slots(rows, numbers) == [fixed.source(prefixed), fixed.target]).all()
    lengths, is_mixed = samples.lengths(rows), samples.is_mixed(rows)
    first = FIRST_TEXT_ID
    for row in range(len(rows)):
        text, spans = whole_text(batch, row, samples.marks.sentinels)
        assert len(text) == lengths[row] <= row_length
        assert spans == (fixed.spans if is_mixed[row] else 1) <= sentinels
        if prefixed:
            assert batch["input_ids"][row, 0] == PREFIXES["<X>" if is_mixed[row] else "<S>"]
        # Row after row, nothing is lost or doubled; the last ends where the line does.
        if row < len(rows) - 1:
            assert text == list(range(first, first + len(text)))
            first += len(text)
        else:
            assert text[0] <= first
            assert text == list(range(FIRST_TEXT_ID + tokens - len(text), FIRST_TEXT_ID + tokens))


@settings(deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(0, 2**40), min_size=2, max_size=9, unique=True))
def test_a_sample_is_the_same_in_any_batch(seed: int, numbers: list[int]) -> None:
    samples = line_of(5_000, seed=seed)
    rows = np.arange(len(numbers))
    together = samples.batch(rows, np.array(numbers))
    for row, number in enumerate(numbers):
        alone = samples.batch(np.array([row]), np.array([number]))
        for name, array in alone.items():
            assert (together[name][row] == array[0]).all()


def test_a_fifth_is_mixed_in_every_block() -> None:
    samples = line_of(100_000)
    is_mixed = samples.is_mixed(np.arange(len(samples) // BLOCK * BLOCK)).reshape(-1, BLOCK)
    assert (is_mixed.sum(axis=1) == 1).all()
    assert abs(chi_square(is_mixed.argmax(axis=1), BLOCK)) < 4


def test_spans_of_a_mixed_text_stand_in_any_order() -> None:
    """Where the span of the longest kind stands among the others."""
    fixed = fixed_lengths(9, 100)
    assert [spans for _, spans in fixed.kinds][-1] == 1
    numbers = np.arange(20_000)
    drawn = draw_fixed_spans(0, numbers, np.full(len(numbers), True), fixed)
    taken = drawn.taken.reshape(len(numbers), fixed.spans)
    assert (taken[:, -1] == fixed.suffix).all()
    longest = fixed.kinds[-1][0]
    is_longest = taken[:, :-1] == longest
    only = is_longest.sum(axis=1) == 1
    assert only.mean() > 0.8
    assert abs(chi_square(is_longest[only].argmax(axis=1), fixed.spans - 1)) < 4


def test_identity_is_of_all_that_decides() -> None:
    others = [
        line_of(1_000), line_of(1_001), line_of(1_000, seed=1), line_of(1_000, row_length=100),
        line_of(1_000, prefixed=False), line_of(1_000, sentinels=13),
    ]  # fmt: skip
    assert len({samples.identity for samples in others}) == len(others)
    assert line_of(1_000).identity == others[0].identity


@pytest.mark.parametrize(("sentinels", "row_length"), [(3, 500), (100, 20)])
def test_what_cannot_be_done_is_refused(sentinels: int, row_length: int) -> None:
    with pytest.raises(UserError, match=r"o-ul2 with rows of \d+ tokens and \d+ sentinels: at"):
        fixed_lengths(sentinels, row_length)
