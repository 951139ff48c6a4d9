"""O-UL2: rows are full, documents apart, and no text has more spans than there are sentinels."""

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.document_stream import as_one_document, stream_of_tokens
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch
from regrow.objectives.rows.denoisers import DenoisingTokens
from regrow.objectives.rows.examples import NO_TEXT
from regrow.objectives.rows.fixed_spans import apportion, draw_fixed_spans
from regrow.objectives.rows.optimized_ul2 import (
    BLOCK,
    FixedLengths,
    OptimizedUL2Rows,
    RowLayout,
    fixed_lengths,
)
from tests.objectives.rows.test_random_segmentation import chi_square

FIRST_TEXT_ID = 5_000
LAYOUTS: tuple[RowLayout, ...] = get_args(RowLayout)
PREFIXES = {"<R>": 4, "<S>": 5, "<X>": 6}


def special_tokens(sentinels: int, prefixed: bool = True) -> DenoisingTokens:
    names = tuple(range(10 + sentinels, 10, -1))
    return DenoisingTokens(PREFIXES if prefixed else {}, names, 1, 0, 2)


def samples_of(
    documents: list[int],
    sentinels: int = 12,
    row_length: int = 200,
    seed: int = 0,
    prefixed: bool = True,
    layout: RowLayout = "row pair",
) -> OptimizedUL2Rows:
    """Documents of so many tokens; each is another id."""
    tokens = np.arange(FIRST_TEXT_ID, FIRST_TEXT_ID + sum(documents), dtype=np.int32)
    bounds = np.cumsum([0, *documents])
    each = 3 + prefixed if layout == "single row" else 5
    line = stream_of_tokens(tokens, bounds, each, ended=False)
    return OptimizedUL2Rows(
        as_one_document(line) if layout == "across documents" else line,
        fixed_lengths(sentinels, row_length), row_length, special_tokens(sentinels, prefixed),
        seed, layout,
    )  # fmt: skip


def test_lengths_of_the_report() -> None:
    fixed = fixed_lengths(100, 1_898)
    assert fixed == fixed_lengths(100, 2_048) == FixedLengths(1_700)
    assert (fixed.spans, fixed.split_text, fixed.half) == (100, 1_898, 949)
    assert (fixed.source(prefixed=True), fixed.target) == (952, 951)
    assert fixed.kinds == ((3, 64), (8, 32), (64, 3))
    assert fixed.suffix == 212


@settings(deadline=None)
@given(st.integers(9, 300), st.integers(60, 3_000))
def test_lengths_are_the_longest_that_fit(sentinels: int, row_length: int) -> None:
    fixed = fixed_lengths(sentinels, row_length)
    assert fixed.spans <= sentinels
    assert max(fixed.mixed_text, fixed.split_text) <= row_length
    longer = FixedLengths(fixed.mixed_text + 20)
    assert longer.spans > sentinels or longer.split_text > row_length
    assert fixed.spans == 1 + sum(spans for _, spans in fixed.kinds) <= fixed.noise - fixed.suffix


def examples_of(batch: Batch, row: int) -> Iterator[tuple[list[int], list[int]]]:
    """Source and target of each piece in a row, with all that the arrays say of them."""
    sources, targets = (batch[f"{side}_texts"][row] for side in ("source", "target"))
    count = int(sources.max()) + 1
    for texts, ids in ((sources, "input_ids"), (targets, "labels")):
        held = texts[texts != NO_TEXT]
        assert (np.diff(held) >= 0).all()
        assert set(held.tolist()) == set(range(count))
        assert (texts[len(held) :] == NO_TEXT).all()
        assert (batch[ids][row][len(held) :] == (0 if ids == "input_ids" else NOT_PREDICTED)).all()
    for number in range(count):
        target = batch["labels"][row][targets == number].tolist()
        inputs = batch["decoder_input_ids"][row][targets == number].tolist()
        assert inputs == [2, *target[:-1]]
        yield batch["input_ids"][row][sources == number].tolist(), target


def whole_text(
    source: list[int], target: list[int], sentinels: tuple[int, ...]
) -> tuple[list[int], list[int], int | None]:
    """The text of an example, put together again; tokens in each of its spans; its prefix."""
    assert source.pop() == target.pop() == 1
    spans: dict[int, list[int]] = {}
    for token in target:
        if token in sentinels:
            assert token not in spans
            spans[token] = []
        else:
            spans[next(reversed(spans))].append(token)
    assert list(spans) == list(sentinels[: len(spans)])
    assert all(spans.values())
    prefix = source.pop(0) if source[0] in PREFIXES.values() else None
    text = [t for token in source for t in spans.get(token, [token])]
    return text, [len(span) for span in spans.values()], prefix


ONES = st.integers(1, 400).map(lambda count: [1] * count)
DOCUMENTS = st.one_of(
    st.lists(st.sampled_from([1, 1, 4, 6]), min_size=1, max_size=400),
    st.lists(st.one_of(ONES, st.lists(st.integers(1, 300), max_size=5)), min_size=1, max_size=6)
    .map(lambda parts: [n for part in parts for n in part])
    .filter(bool),
    st.lists(st.integers(1, 5), min_size=1, max_size=400),
    st.lists(st.integers(1, 60), min_size=1, max_size=100),
    st.lists(st.integers(1, 9_000), min_size=1, max_size=4),
)


@settings(deadline=None, max_examples=300)
@given(
    DOCUMENTS,
    st.integers(9, 130),
    st.integers(60, 2_500),
    st.integers(0, 2**40),
    st.booleans(),
    st.data(),
)
def test_rows_are_full_and_no_span_is_without_a_sentinel(
    documents: list[int], sentinels: int, row_length: int, seed: int, prefixed: bool,
    data: st.DataObject,
) -> None:  # fmt: skip
    fixed = fixed_lengths(sentinels, row_length)
    lacking = max(0, fixed.split_text - sum(documents))
    documents = [*documents, *([lacking] if lacking else [])]
    samples = samples_of(documents, sentinels, row_length, seed, prefixed)
    rows = np.arange(len(samples))
    numbers = np.array(data.draw(st.permutations(rows.tolist()))) + 1_000
    batch = samples.batch(rows, numbers)
    assert batch["input_ids"].shape == (len(rows), fixed.source(prefixed))
    assert batch["labels"].shape == (len(rows), fixed.target)
    assert (samples.slots(rows, numbers) == [fixed.source(prefixed), fixed.target]).all()
    lengths, is_mixed = samples.lengths(rows), samples.is_mixed(rows)
    ends = np.cumsum(documents) + FIRST_TEXT_ID
    expected = FIRST_TEXT_ID
    for row in range(len(rows)):
        others = text_tokens = pieces = 0
        for source, target in examples_of(batch, row):
            text, spans, prefix = whole_text(source, target, samples.special_tokens.sentinels)
            assert len(spans) <= sentinels
            assert prefix == (PREFIXES["<X>" if is_mixed[row] else "<S>"] if prefixed else None)
            # A piece lies in one document, and row after row nothing is lost or doubled; the last
            # row ends where the line does.
            assert text == list(range(text[0], text[0] + len(text)))
            first, last = np.searchsorted(ends, [text[0], text[-1]], "right")
            assert first == last
            if row == len(rows) - 1 and not text_tokens:
                assert text[0] <= expected
            else:
                assert text[0] == expected
            expected = text[-1] + 1
            others += len(spans) - 1
            pieces += 1
            text_tokens += len(text)
        assert text_tokens == lengths[row] <= row_length
        wanted = fixed.spans - 1 if is_mixed[row] else 0
        assert others <= wanted
        empty = sum((batch[f"{side}_texts"][row] == NO_TEXT).sum() for side in ("source", "target"))
        unprefixed = 0 if prefixed else pieces - 1
        assert empty - 2 * (wanted - others) - unprefixed <= 2 * 5
    assert expected == FIRST_TEXT_ID + sum(documents)


@settings(deadline=None)
@given(st.integers(9, 130), st.integers(60, 2_500), st.integers(0, 2**40), st.booleans())
def test_a_row_of_one_document_is_as_the_report_has_it(
    sentinels: int, row_length: int, seed: int, prefixed: bool
) -> None:
    fixed = fixed_lengths(sentinels, row_length)
    samples = samples_of([12 * row_length], sentinels, row_length, seed, prefixed)
    rows = np.arange(1, len(samples))
    batch = samples.batch(rows, rows)
    assert (batch["source_texts"] == 0).all()
    assert (batch["target_texts"] == 0).all()
    for place, row in enumerate(rows):
        ((source, target),) = examples_of(batch, place)
        text, spans, _ = whole_text(source, target, samples.special_tokens.sentinels)
        if samples.is_mixed(np.array([row]))[0]:
            assert (len(text), sum(spans)) == (fixed.mixed_text, fixed.noise)
            assert (len(spans), spans[-1]) == (fixed.spans, fixed.suffix)
        else:
            assert (len(text), spans) == (fixed.split_text, [fixed.half])


@settings(deadline=None)
@given(st.lists(st.integers(1, 90), min_size=40, max_size=60), st.booleans())
def test_across_documents_a_row_is_one_text(documents: list[int], prefixed: bool) -> None:
    documents = [*documents, 200]
    samples = samples_of(documents, prefixed=prefixed, layout="across documents")
    fixed, rows = samples.lengths_of_texts, np.arange(len(samples))
    batch = samples.batch(rows, rows)
    assert batch["attention_mask"].shape == (len(rows), fixed.source(prefixed))
    assert batch["attention_mask"].all()
    assert (batch["labels"] != NOT_PREDICTED).all()
    expected = FIRST_TEXT_ID
    for row in rows:
        source, target = batch["input_ids"][row].tolist(), batch["labels"][row].tolist()
        text, _, _ = whole_text(source, target, samples.special_tokens.sentinels)
        assert len(text) == (fixed.mixed_text if samples.is_mixed(rows)[row] else fixed.split_text)
        assert text == list(range(text[0], text[0] + len(text)))
        assert text[0] <= expected if row == rows[-1] else text[0] == expected
        expected = text[-1] + 1
    assert expected == FIRST_TEXT_ID + sum(documents)


@pytest.mark.parametrize(
    ("mean", "full"), [(100_000, 0.9999), (430, 0.9998), (100, 0.9995), (14, 0.999)]
)
def test_slots_that_hold_a_token(mean: int, full: float) -> None:
    """With the lengths of the report; of documents as short as 14 tokens, too."""
    lengths = np.random.default_rng(0).lognormal(np.log(mean), 0.7, 400_000 // mean + 1)
    samples = samples_of([1 + int(n) for n in lengths], 100, 1_898)
    rows = np.arange(1, len(samples))
    batch = samples.batch(rows, rows)
    held = [(batch[f"{side}_texts"] != NO_TEXT).mean() for side in ("source", "target")]
    assert (952 * held[0] + 951 * held[1]) / 1_903 >= full


@pytest.mark.parametrize("length", [4, 5, 6, 8])
@pytest.mark.parametrize(("sentinels", "row_length"), [(100, 1_898), (100, 600), (9, 60)])
def test_short_documents_have_room_for_what_spans_take(
    length: int, sentinels: int, row_length: int
) -> None:
    """A span more in a text of four tokens takes more of the source than the line has for it."""
    generator = np.random.default_rng(0)
    for share in (0.3, 0.5, 0.7, 0.8, 0.9):
        documents = np.where(generator.random(4_000) < share, 1, length).tolist()
        samples = samples_of(documents, sentinels, row_length)
        rows = np.arange(len(samples))
        batch = samples.batch(rows, rows)
        tokens = sum((batch[name] >= FIRST_TEXT_ID).sum() for name in ("input_ids", "labels"))
        assert tokens == samples.lengths(rows).sum()


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.sampled_from(LAYOUTS))
def test_the_mean_length_is_that_of_all_rows(documents: list[int], layout: RowLayout) -> None:
    samples = samples_of([*documents, 100], 9, 60, layout=layout)
    mean = samples.lengths(np.arange(len(samples))).mean()
    assert samples.mean_length == pytest.approx(mean)


def test_half_of_every_document_is_learned_and_spans_are_as_long_as_their_kinds() -> None:
    samples = samples_of([900, 300] * 400, 100, 1_898)
    rows = np.arange(len(samples))
    batch, is_mixed = samples.batch(rows, rows), samples.is_mixed(rows)
    taken: dict[bool, list[float]] = {True: [], False: []}
    suffixes, others = [], []
    for row in rows.tolist():
        for source, target in examples_of(batch, row):
            text, spans, _ = whole_text(source, target, samples.special_tokens.sentinels)
            if len(text) < 100:
                continue
            taken[bool(is_mixed[row])].append(sum(spans) / len(text))
            if is_mixed[row]:
                suffixes.append(spans[-1] / sum(spans))
                others += spans[:-1]
            else:
                assert len(spans) == 1
    for shares in taken.values():
        assert np.allclose(shares, 0.5, atol=0.02)
    assert np.allclose(suffixes, 0.25, atol=0.02)
    expected = sum(mean * spans for mean, spans in samples.lengths_of_texts.kinds) / 99
    assert np.mean(others) == pytest.approx(expected, rel=0.05)


@settings(deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(0, 2**40), min_size=2, max_size=9, unique=True))
def test_a_sample_is_the_same_in_any_batch(seed: int, numbers: list[int]) -> None:
    for layout in LAYOUTS:
        samples = samples_of([900, 3, 40, 70] * 5, seed=seed, layout=layout)
        rows = np.arange(len(numbers))
        together = samples.batch(rows, np.array(numbers))
        for row, number in enumerate(numbers):
            alone = samples.batch(np.array([row]), np.array([number]))
            for name, array in alone.items():
                assert (together[name][row] == array[0]).all()


def test_a_fifth_is_mixed_in_every_block() -> None:
    samples = samples_of([100_000])
    is_mixed = samples.is_mixed(np.arange(len(samples) // BLOCK * BLOCK)).reshape(-1, BLOCK)
    assert (is_mixed.sum(axis=1) == 1).all()
    assert abs(chi_square(is_mixed.argmax(axis=1), BLOCK)) < 4


def test_spans_of_a_mixed_text_stand_in_any_order() -> None:
    """Where the span of the longest kind stands among the others."""
    samples = samples_of([100 * 20_000], 9, 100)
    fixed = samples.lengths_of_texts
    assert [spans for _, spans in fixed.kinds][-1] == 1
    rows = np.arange(20_000)
    rows = rows[samples.is_mixed(rows)]
    pieces = samples.line.pieces(*samples._stretches(rows))
    is_mixed = np.full(len(rows), True)
    drawn = draw_fixed_spans(0, rows, is_mixed, pieces, fixed.kinds, samples._capacity)
    taken = drawn.taken.reshape(len(rows), fixed.spans)
    only = (taken[:, :-1] == taken[:, :-1].max(axis=1, keepdims=True)).sum(axis=1) == 1
    assert only.mean() > 0.8
    assert abs(chi_square(taken[only, :-1].argmax(axis=1), fixed.spans - 1)) < 4


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=9), min_size=1), st.data())
def test_shares_are_whole_and_by_weight(weights: list[list[int]], data: st.DataObject) -> None:
    totals = [data.draw(st.integers(0, sum(each))) for each in weights]
    groups = np.repeat(np.arange(len(weights)), [len(each) for each in weights])
    flat = np.concatenate([np.array(each) for each in weights])
    found = apportion(np.array(totals), flat, groups)
    assert ((found >= 0) & (found <= flat)).all()
    for group, (total, each) in enumerate(zip(totals, weights, strict=True)):
        shares = found[groups == group]
        assert shares.sum() == total
        exact = total * np.array(each) / max(1, sum(each))
        assert (abs(shares - exact) < 1).all()


def test_identity_is_of_all_that_decides() -> None:
    made = [
        samples_of([1_000]), samples_of([1_001]), samples_of([999, 1]),
        samples_of([1_000], seed=1), samples_of([1_000], row_length=100),
        samples_of([1_000], prefixed=False), samples_of([1_000], sentinels=13),
        *(samples_of([1_000], layout=layout) for layout in LAYOUTS if layout != "row pair"),
    ]  # fmt: skip
    assert len({samples.identity for samples in made}) == len(made)
    assert samples_of([1_000]).identity == made[0].identity


@pytest.mark.parametrize(
    ("layout", "begins"),
    [("row pair", "64ff82af"), ("single row", "f9d2ee5b"), ("across documents", "2b126058")],
)
def test_an_identity_stays_the_same_so_that_runs_resume(layout: RowLayout, begins: str) -> None:
    """As of the first runs, when layouts had other names."""
    assert samples_of([1_000], layout=layout).identity.startswith(begins)


@pytest.mark.parametrize(("sentinels", "row_length"), [(3, 500), (100, 20)])
def test_what_cannot_be_done_is_refused(sentinels: int, row_length: int) -> None:
    with pytest.raises(UserError, match=r"o-ul2 with rows of \d+ tokens and \d+ sentinels: at"):
        fixed_lengths(sentinels, row_length)
