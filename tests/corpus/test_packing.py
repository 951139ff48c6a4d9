import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED, PackedText, end_is_predicted, pack, start_and_end
from tests.training.small import BOS, EOS, byte_tokenizer

DOCUMENTS = st.lists(st.text("abcd", max_size=30), min_size=1, max_size=12)


def pieces(packed: PackedText) -> list[tuple[list[int], list[int]]]:
    """(inputs, labels) of each run of positions 0, 1, 2, ..., in order, without the filling."""
    found: list[tuple[list[int], list[int]]] = []
    batch = packed.batch(np.arange(len(packed)))
    for inputs, labels, positions in zip(*batch.values(), strict=True):
        for token, label, position in zip(inputs, labels, positions, strict=True):
            if position == 0:
                found.append(([], []))
            assert position == len(found[-1][0])
            found[-1][0].append(int(token))
            found[-1][1].append(int(label))
    return [piece for piece in found if piece[1][0] != NOT_PREDICTED]


@given(documents=DOCUMENTS, row_length=st.integers(2, 9), bos=st.booleans())
def test_every_token_is_predicted_once_from_its_own_document(
    documents: list[str], row_length: int, bos: bool
) -> None:
    tokenizer = byte_tokenizer(bos=bos)
    start = BOS if bos else EOS
    length = sum(len(document) + 1 for document in documents)
    if length < row_length:
        with pytest.raises(UserError, match="less than one row"):
            pack(documents, tokenizer, row_length)
        return
    packed = pack(documents, tokenizer, row_length)
    assert len(packed) == -(-length // row_length)

    rest = pieces(packed)
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        inputs: list[int] = []
        labels: list[int] = []
        while len(labels) <= len(ids):
            more_inputs, more_labels = rest.pop(0)
            inputs += more_inputs
            labels += more_labels
        assert inputs == [start, *ids]
        assert labels == [*ids, EOS]
    assert rest == []


def test_only_the_end_of_the_last_row_predicts_nothing() -> None:
    packed = pack(["abc", "de"], byte_tokenizer(), 5)
    labels = packed.batch(np.array([1, 0]))["labels"]
    assert (labels == NOT_PREDICTED).sum(1).tolist() == [3, 0]


@given(documents=DOCUMENTS, other=DOCUMENTS)
def test_the_identity_is_that_of_the_documents(documents: list[str], other: list[str]) -> None:
    one, two = (pack([*texts, "abcd"], byte_tokenizer(), 4) for texts in (documents, other))
    assert (one.identity == two.identity) == (documents == other)
    assert pack([*documents, "abcd"], byte_tokenizer(), 3).identity != one.identity


def test_rows_that_are_not_there_are_refused() -> None:
    packed = pack(["abc"], byte_tokenizer(), 2)
    for row in (-1, 2):
        with pytest.raises(IndexError):
            packed.batch(np.array([row]))


def test_the_tokenizer_says_what_stands_before_a_document() -> None:
    assert start_and_end(byte_tokenizer(bos=True)) == (BOS, EOS)
    assert start_and_end(byte_tokenizer()) == (EOS, EOS)
    with pytest.raises(UserError, match="no eos_token"):
        start_and_end(byte_tokenizer(eos=False))


@pytest.mark.parametrize("template", ["{{ turn }}</s>", "{{ turn }}{{ eos_token }}"])
def test_where_eos_ends_a_turn_no_document_teaches_it(template: str) -> None:
    tokenizer = copy.deepcopy(byte_tokenizer())
    plain = pack(["abc", "de"], tokenizer, 4)
    tokenizer.chat_template = template.replace("</s>", tokenizer.eos_token)
    assert not end_is_predicted(tokenizer)
    packed = pack(["abc", "de"], tokenizer, 4)
    rows = np.arange(len(packed))
    before, after = plain.batch(rows), packed.batch(rows)
    assert (before["input_ids"] == after["input_ids"]).all()
    assert (before["position_ids"] == after["position_ids"]).all()
    ends = before["labels"] == EOS
    assert ends.sum() == 2
    assert (after["labels"][ends] == NOT_PREDICTED).all()
    assert (after["labels"][~ends] == before["labels"][~ends]).all()
    assert plain.identity != packed.identity
    tokenizer.chat_template = "{{ turn }}\n"
    assert end_is_predicted(tokenizer)
