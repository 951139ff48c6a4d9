"""Stretches of a line of documents: each token of text lies in one, and in no other."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.document_stream import (
    DocumentStream,
    as_one_document,
    stream_of_store,
    stream_of_text,
    stream_of_tokens,
)
from regrow.corpus.token_store import open_store
from tests.corpus.stores import write
from tests.training.small import byte_tokenizer

END = 1


def line_of(lengths: list[int], slots_each: int, *, ended: bool) -> DocumentStream:
    """Each token of text is another number, from 10 on."""
    texts = np.split(np.arange(10, 10 + sum(lengths)), np.cumsum(lengths)[:-1])
    parts = [np.append(text, END) if ended else text for text in texts]
    bounds = np.cumsum([0, *map(len, parts)])
    return stream_of_tokens(np.concatenate(parts), bounds, slots_each, ended=ended)


def written_out(lengths: list[int], slots_each: int) -> list[tuple[int, int]]:
    """Of each slot its document and its token, 0 for one before a text."""
    slots, token = [], 10
    for document, length in enumerate(lengths):
        slots += [(document, 0)] * slots_each
        slots += [(document, token + place) for place in range(length)]
        token += length
    return slots


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.integers(0, 6),
    st.booleans(),
    st.integers(7, 40),
)
def test_pieces_are_what_lies_in_each_stretch(
    lengths: list[int], slots_each: int, ended: bool, size: int
) -> None:
    line = line_of(lengths, slots_each, ended=ended)
    slots = written_out(lengths, slots_each)
    assert (line.slots, line.text_tokens) == (len(slots), sum(lengths))
    stops = np.append(np.arange(size, len(slots), size), len(slots))
    firsts = np.append(0, stops[:-1])
    if stops[-1] - firsts[-1] <= slots_each:
        firsts, stops = firsts[:-1], stops[:-1]  # a stretch that may hold no text
    pieces = line.pieces(firsts, stops)
    found = [
        (stretch, number, line.tokens[start : start + length].tolist())
        for stretch, number, start, length in zip(
            pieces.stretches.tolist(), pieces.numbers.tolist(), pieces.starts.tolist(),
            pieces.lengths.tolist(), strict=True,
        )
    ]  # fmt: skip
    expected = []
    for stretch, (first, stop) in enumerate(zip(firsts, stops, strict=True)):
        inside = [(document, token) for document, token in slots[first:stop] if token]
        documents = list(dict.fromkeys(document for document, _ in inside))
        for number, each in enumerate(documents):
            expected.append((stretch, number, [t for document, t in inside if document == each]))
    assert found == expected
    text = [sum(len(t) for s, _, t in expected if s == each) for each in range(len(firsts))]
    assert line.text_lengths(firsts, stops).tolist() == text


def test_undivided_it_is_one_document_with_all_ends() -> None:
    line = as_one_document(line_of([3, 2], 5, ended=True))
    assert (line.slots, line.text_tokens, line.documents) == (7, 7, 1)
    pieces = line.pieces(np.array([0, 4]), np.array([4, 7]))
    assert pieces.starts.tolist() == [0, 4]
    assert pieces.lengths.tolist() == [4, 3]
    assert pieces.stretches.tolist() == [0, 1]


def test_documents_without_text_are_left_out() -> None:
    tokenizer = byte_tokenizer()
    line = stream_of_text(["ab", "", "c"], tokenizer, 2)
    a, b, c = (tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in "abc")
    end = tokenizer.eos_token_id
    assert line.tokens.tolist() == [a, b, end, c, end]
    assert (line.documents, line.text_tokens, line.slots) == (2, 3, 7)


@pytest.mark.parametrize("ended", [True, False])
def test_a_store_is_read_as_its_documents(tmp_path: Path, ended: bool) -> None:
    texts = [[10, 11, 12], [], [13], [14, 15], []]
    documents = [[*text, END] if ended else text for text in texts]
    store = open_store(write(tmp_path / "tokens", documents), end=END if ended else None)
    line = stream_of_store(store, 5)
    assert (line.documents, line.text_tokens, line.slots) == (3, 6, 6 + 15)
    pieces = line.pieces(np.array([0]), np.array([line.slots]))
    ends = pieces.starts + pieces.lengths
    found = [line.tokens[a:b].tolist() for a, b in zip(pieces.starts, ends, strict=True)]
    assert found == [text for text in texts if text]


def test_a_document_without_even_its_end_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "tokens", [[10, END], [], [11, END]])
    with pytest.raises(UserError, match="document 1 is empty, where each should end with token 1"):
        stream_of_store(open_store(path, end=END), 5)
    assert stream_of_store(open_store(path), 5).documents == 2


def test_identity_is_of_all_that_decides() -> None:
    made = [
        line_of([3, 2], 5, ended=True), line_of([3, 2], 5, ended=False),
        line_of([2, 3], 5, ended=True), line_of([3, 3], 5, ended=True),
        as_one_document(line_of([3, 2], 5, ended=True)),
    ]  # fmt: skip
    assert len({line.identity for line in made}) == len(made)
