"""A part is given, the rest is learned: what is which, and that both together are all there is."""

from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.corpus.document_stream import stream_of_tokens
from regrow.corpus.packing import NOT_PREDICTED, pack
from regrow.corpus.samples import Samples
from regrow.corpus.token_store import open_store
from regrow.corpus.token_store_rows import pack_store
from regrow.corpus.windows import Windows
from regrow.objectives.rows.denoisers import UL2, DenoisingTokens
from regrow.objectives.rows.optimized_ul2 import OptimizedUL2Rows, fixed_lengths
from regrow.objectives.rows.single_row import NOT_IN_PREFIX, ConcatenatedPairs, PrefixRows
from regrow.objectives.rows.ul2 import MixedDenoisers, denoiser_shares
from tests.corpus.stores import write
from tests.objectives.rows.test_random_segmentation import chi_square
from tests.training.small import BOS, EOS, byte_tokenizer

documents = st.lists(st.text("abc é", max_size=30), min_size=1, max_size=8).filter(
    lambda texts: sum(map(len, texts)) > 20
)


@settings(deadline=None)
@given(documents, st.integers(4, 20), st.integers(0, 2**40))
def test_the_beginning_of_each_piece_is_given(texts: list[str], length: int, seed: int) -> None:
    packed = pack(texts, byte_tokenizer(), length)
    samples = PrefixRows(packed, seed)
    rows = np.arange(len(packed))
    batch, plain = samples.batch(rows, rows + 7), packed.batch(rows)
    assert (batch["input_ids"] == plain["input_ids"]).all()
    for row in rows:
        starts = [*np.flatnonzero(plain["position_ids"][row] == 0).tolist(), length]
        for piece, (first, last) in enumerate(pairwise(starts)):
            blocks = batch["blocks"][row, first:last].tolist()
            given_inputs = blocks.count(piece)
            assert 1 <= given_inputs <= last - first
            assert blocks == [piece] * given_inputs + [NOT_IN_PREFIX] * (
                last - first - given_inputs
            )
            labels = batch["labels"][row, first:last]
            assert (labels[: given_inputs - 1] == NOT_PREDICTED).all()
            kept = plain["labels"][row, first:last][given_inputs - 1 :]
            assert (labels[given_inputs - 1 :] == kept).all()
    alone = samples.batch(rows[-1:], rows[-1:] + 7)
    assert all((batch[name][-1] == array[0]).all() for name, array in alone.items())


@pytest.mark.parametrize("is_store", [False, True])
def test_a_token_is_predicted_where_ends_are_not_learned(tmp_path: Path, is_store: bool) -> None:
    """The last inputs of a document then have no label."""
    tokenizer = deepcopy(byte_tokenizer(bos=True))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    texts = ["ab", "abc", "a", "abcd"] * 50
    packed: Samples
    if is_store:
        ids = [byte_tokenizer()(text)["input_ids"] for text in texts]
        stem = write(tmp_path / "a", [[BOS, *document, EOS] for document in ids])
        packed = pack_store(open_store(stem, tokenizer=tokenizer), tokenizer, 16)
    else:
        packed = pack(texts, tokenizer, 16)
    rows = np.arange(len(packed))
    plain, batch = packed.batch(rows, rows), PrefixRows(packed, 0).batch(rows, rows)
    pieces = np.cumsum(plain["position_ids"] == 0)
    has_label, has_target = (
        np.bincount(pieces, (each["labels"] != NOT_PREDICTED).reshape(-1)) > 0
        for each in (plain, batch)
    )
    assert (plain["labels"] == NOT_PREDICTED).sum() >= 200
    assert (has_label == has_target).all()


def test_every_place_is_as_likely_for_the_split() -> None:
    packed = pack(["abcdefgh"], byte_tokenizer(), 9)
    rows = np.zeros(20_000, dtype=np.int64)
    batch = PrefixRows(packed, 0).batch(rows, np.arange(len(rows)))
    given_inputs = (batch["blocks"] != NOT_IN_PREFIX).sum(axis=1)
    assert abs(chi_square(given_inputs - 1, 9)) < 4


SENTINELS = tuple(range(1_000, 900, -1))
SPECIAL_TOKENS = DenoisingTokens({"<R>": 1_001, "<S>": 1_002, "<X>": 1_003}, SENTINELS, 1, 0, 2)


def pairs(lengths: list[int]) -> MixedDenoisers:
    tokens = np.random.default_rng(0).integers(10, 900, sum(lengths)).astype(np.int32)
    starts = (np.cumsum(lengths) - np.array(lengths)).astype(np.int64)
    windows = Windows(tokens, starts, 100)
    return MixedDenoisers(windows, SPECIAL_TOKENS, 5, denoiser_shares([1] * len(UL2)))


@settings(deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.integers(0, 2**40))
def test_source_and_target_stand_in_one_row(lengths: list[int], first: int) -> None:
    inner = pairs(lengths)
    samples = ConcatenatedPairs(inner, start=2, pad=0)
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
            0 if place <= len(source) else NOT_IN_PREFIX for place in range(len(learned))
        ]
        assert batch["position_ids"][row].tolist() == list(range(len(learned)))


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.booleans(), st.integers(0, 2**40))
def test_o_ul2_fills_rows_of_one_length(documents: list[int], prefixed: bool, seed: int) -> None:
    """Documents in a row are each as the pair is alone."""
    line = np.arange(10_000, 10_400 + sum(documents), dtype=np.int32)
    bounds, fixed = np.cumsum([0, *documents, 400]), fixed_lengths(20, 200)
    special_tokens = SPECIAL_TOKENS if prefixed else DenoisingTokens({}, SENTINELS, 1, 0, 2)
    each = 3 + prefixed
    samples = OptimizedUL2Rows(
        stream_of_tokens(line, bounds, each, ended=False),
        fixed,
        200,
        special_tokens,
        seed,
        "single row",
    )
    rows = np.arange(len(samples))
    batch = samples.batch(rows, rows)
    width = fixed.source(prefixed) - 1 + fixed.target
    assert {array.shape for array in batch.values()} == {(len(rows), width)}
    assert (samples.slots(rows, rows) == width).all()
    text = np.concatenate([[document] * n for document, n in enumerate([*documents, 400])])
    for row in rows:
        position, ids = batch["position_ids"][row], batch["input_ids"][row]
        starts = np.flatnonzero(position == 0)
        assert (ids[starts] == 2).all()
        tokens = 0
        for number, (first, last) in enumerate(pairwise([*starts.tolist(), width])):
            assert position[first:last].tolist() == list(range(last - first))
            labels, blocks = batch["labels"][row, first:last], batch["blocks"][row, first:last]
            learned = np.flatnonzero(labels != NOT_PREDICTED)
            assert labels[learned[-1]] == 1
            # Learned is all after the second time of the first sentinel.
            inside = ids[first : first + learned[-1] + 1]
            assert np.flatnonzero(inside == SENTINELS[0]).tolist()[1] == learned[0]
            assert (labels[learned[:-1]] == inside[learned[1:]]).all()
            assert (np.diff(learned) == 1).all()
            assert blocks.tolist() == [
                number if place <= learned[0] else NOT_IN_PREFIX for place in range(last - first)
            ]
            of_text = inside[inside >= 10_000] - 10_000
            assert len(set(text[of_text].tolist())) == 1
            assert (ids[first + len(inside) : last] == 0).all()
            assert last == width or last - first == len(inside)
            tokens += len(of_text)
        assert tokens == samples.lengths(rows)[row]


@pytest.mark.parametrize("kind", ["split", "paired"])
def test_identity_is_of_all_that_decides(kind: str) -> None:
    made: list[PrefixRows] | list[ConcatenatedPairs]
    if kind == "split":
        packed = [pack(["abcdef" * n], byte_tokenizer(), 4) for n in (1, 2)]
        made = [PrefixRows(packed[0], 0), PrefixRows(packed[0], 1), PrefixRows(packed[1], 0)]
    else:
        made = [
            ConcatenatedPairs(pairs([length]), start, 0)
            for length, start in ((5, 2), (5, 3), (6, 2))
        ]
    assert len({samples.identity for samples in made}) == 3
    assert made[0].row_length == made[0].lengths(np.arange(1))[0] or kind == "paired"
