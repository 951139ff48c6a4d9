"""A teacher reads a token where its student reads the pieces, and says what the student can say."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.corpus.packing import NOT_PREDICTED, pack
from regrow.corpus.samples import Samples
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.distillation import Distilled, Teacher
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.losses.shared_row_attention import one_example_per_row
from regrow.objectives.losses.student_tokens import StudentTokens
from regrow.objectives.rows.examples import NO_TEXT
from regrow.objectives.rows.shared_rows import make_shared_rows
from regrow.objectives.rows.span_corruption import corrupt_text
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint
from regrow.tokenizers.encoding import open_tokenizer
from regrow.tokenizers.spellings import spellings
from regrow.training.teacher import teacher_token_ids
from tests.tiny import sentences, write_model, write_seq2seq

KEPT = 5
PIECES = {100: (0, 1), 101: (0, 1, 2), 102: (1, 2), 103: (3, 3)}
"""Tokens of a teacher that a student with the tokens 0 to 4 spells."""
TOKENS = StudentTokens(torch.arange(KEPT) + 10, PIECES)


@st.composite
def packed_rows(draw: st.DrawFn) -> dict[str, Tensor]:
    """Rows of texts in which slots predict the next token of their text."""
    width, rows = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    ids = torch.tensor(draw(_matrix(st.integers(0, KEPT - 1), rows, width)))
    begins = torch.tensor(draw(_matrix(st.booleans(), rows, width)))
    begins[:, 0] = True
    places = torch.arange(width).expand(rows, width)
    positions = places - torch.where(begins, places, 0).cummax(1).values
    following = torch.tensor(draw(_matrix(st.integers(0, KEPT - 1), rows, 1)))
    labels = torch.cat([ids[:, 1:], following], 1)
    ends = torch.cat([begins[:, 1:], torch.zeros(rows, 1, dtype=torch.bool)], 1)
    unlearned = torch.tensor(draw(_matrix(st.booleans(), rows, width)))
    labels = labels.masked_fill(ends | unlearned, NOT_PREDICTED)
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def _matrix(values: Any, rows: int, width: int) -> Any:
    row = st.lists(values, min_size=width, max_size=width)
    return st.lists(row, min_size=rows, max_size=rows)


def texts(ids: list[int], positions: list[int]) -> list[list[int]]:
    """The texts of a row."""
    found: list[list[int]] = []
    for token, position in zip(ids, positions, strict=True):
        if position == 0:
            found.append([])
        found[-1].append(token)
    return found


def in_pieces(ids: list[int]) -> list[int]:
    """The student's tokens for those of the teacher."""
    return [piece for token in ids for piece in PIECES.get(token, (token - 10,))]


@settings(max_examples=300, deadline=None)
@given(packed_rows())
def test_a_teacher_reads_the_same_texts_in_its_own_tokens(batch: dict[str, Tensor]) -> None:
    read, is_told = TOKENS.for_teacher(batch)
    assert {n: t.shape for n, t in read.items()} == {n: t.shape for n, t in batch.items()}
    for row in range(len(batch["input_ids"])):
        mine = texts(batch["input_ids"][row].tolist(), batch["position_ids"][row].tolist())
        theirs = texts(read["input_ids"][row].tolist(), read["position_ids"][row].tolist())
        # What is left of the row is empty: a text that predicts nothing.
        assert [in_pieces(text) for text in theirs[: len(mine)]] == mine
        assert len(theirs) <= len(mine) + 1
        used = sum(map(len, theirs[: len(mine)]))
        assert (read["labels"][row, used:] == NOT_PREDICTED).all()
    predicts = batch["labels"] != NOT_PREDICTED
    assert len(is_told) == predicts.sum()
    # What is predicted is the same, but for what the teacher says nothing about.
    told = read["labels"][read["labels"] != NOT_PREDICTED]
    assert told.tolist() == batch["labels"][predicts][is_told].tolist()


def row(ids: list[int], labels: list[int], **more: list[int]) -> dict[str, Tensor]:
    found = {"input_ids": ids, "labels": labels, "position_ids": [*range(len(ids))], **more}
    return {name: torch.tensor([values]) for name, values in found.items()}


@pytest.mark.parametrize(
    ("ids", "labels", "read", "known"),
    [
        ([4, 0, 1, 4, 4], [0, 1, 4, 4, 4], [14, 100, 14, 14, 0], [1, 0, 1, 1, 1]),
        ([4, 0, 1, 2, 4], [0, 1, 2, 4, 4], [14, 101, 14, 0, 0], [1, 0, 0, 1, 1]),
        ([4, 0, 2, 1, 2], [0, 2, 1, 2, 4], [14, 10, 12, 102, 0], [1, 1, 1, 0, 1]),
        ([3, 3, 3, 3, 3], [3, 3, 3, 3, 4], [103, 103, 13, 0, 0], [0, 1, 0, 1, 1]),
        # The row ends inside a token: what the teacher would say is of other text.
        ([4, 4, 4, 0, 1], [4, 4, 0, 1, 2], [14, 14, 14, 10, 11], [1, 1, 1, 0, 0]),
        ([4, 4, 4, 4, 3], [4, 4, 4, 3, 3], [14, 14, 14, 14, 13], [1, 1, 1, 1, 0]),
    ],
)
def test_pieces_are_read_as_the_longest_token(
    ids: list[int], labels: list[int], read: list[int], known: list[int]
) -> None:
    found, told = TOKENS.for_teacher(row(ids, labels))
    assert found["input_ids"].tolist() == [read]
    assert told.tolist() == [bool(each) for each in known]


def test_a_token_does_not_reach_from_a_prefix_into_what_follows() -> None:
    given = row([4, 0, 1, 4], [NOT_PREDICTED, 1, 4, 4], blocks=[0, 0, -1, -1])
    found, is_told = TOKENS.for_teacher(given)
    assert found["input_ids"].tolist() == [[14, 10, 11, 14]]
    assert found["blocks"].tolist() == given["blocks"].tolist()
    assert is_told.tolist() == [False, True, True]


def test_tokens_of_spaces_are_read_in_pieces() -> None:
    tokens = StudentTokens(TOKENS.rows, PIECES, unjoined={102, 103})
    found, is_told = tokens.for_teacher(row([1, 2, 3, 3, 0, 1], [2, 3, 3, 0, 1, 4]))
    assert found["input_ids"].tolist() == [[11, 12, 13, 13, 100, 0]]
    assert is_told.tolist() == [True, True, True, True, False, True]


def test_a_byte_may_spell_a_whole_token() -> None:
    tokens = StudentTokens(TOKENS.rows, {100: (0, 1), 104: (2,), 105: (2, 2)})
    found, is_told = tokens.for_teacher(row([2, 0, 1, 2, 2], [0, 1, 2, 2, 4]))
    assert found["input_ids"].tolist() == [[104, 100, 105, 0, 0]]
    assert is_told.tolist() == [True, False, True, False, True]


def test_without_pieces_only_numbers_change() -> None:
    given = row([4, 0, 1], [0, 1, NOT_PREDICTED])
    found, is_told = StudentTokens(TOKENS.rows, {}).for_teacher(given)
    assert found["input_ids"].tolist() == [[14, 10, 11]]
    assert found["labels"].tolist() == given["labels"].tolist()
    assert is_told.tolist() == [True, True]


def test_an_array_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="arrays that no teacher can read: segments"):
        TOKENS.for_teacher(row([4, 0], [0, 1], segments=[0, 0]))


def test_probabilities_of_lost_tokens_go_to_their_first_piece() -> None:
    whole = torch.zeros(1, 110)
    whole[0, [10, 11, 13, 100, 101, 102, 103, 50]] = torch.tensor(
        [0.1, 0.2, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2]
    )
    found = TOKENS.probabilities(whole)
    expected = torch.tensor([[0.25, 0.3, 0.0, 0.25, 0.0]]) / 0.8
    torch.testing.assert_close(found, expected)


def student_of(original: Path, size: int) -> tuple[ModelDirectory, ModelDirectory, StudentTokens]:
    """A model, the same with fewer tokens, and these tokens."""
    source, out = ModelDirectory(original), original.parent / "student"
    spec = CutSpec(vocab_size=size)
    prune_checkpoint(source, out, spec, documents=lambda: iter(sentences(200)))
    student = ModelDirectory(out)
    rows = teacher_token_ids(student, source)
    assert rows is not None
    pieces = spellings(open_tokenizer(original), open_tokenizer(out), rows.tolist())
    assert pieces
    return source, student, StudentTokens(torch.tensor(rows), pieces)


def test_a_decoder_teaches_as_if_it_read_its_own_tokens(tmp_path: Path) -> None:
    source, student, tokens = student_of(write_model(tmp_path / "m"), 280)
    texts = [" ".join(sentences(2, seed=seed)) for seed in range(4)]
    mine, theirs = (
        {name: torch.from_numpy(array) for name, array in packed.batch(np.arange(1)).items()}
        for packed in (
            replace(pack(texts, each.tokenizer, 8), row_length=512) for each in (student, source)
        )
    )
    assert mine["labels"][0, -1] == theirs["labels"][0, -1] == NOT_PREDICTED
    teacher = source.load().eval()
    taught = Teacher(teacher, tokens, "it")(Causal(), mine)
    expected, predicted = Causal().predicted(teacher, theirs)
    torch.testing.assert_close(taught.predictions.hidden, expected, rtol=1e-5, atol=1e-5)
    assert taught.is_told is not None
    assert len(predicted) == taught.is_told.sum() < len(taught.is_told)
    loss, each = Distilled(Causal(), Teacher(teacher, tokens, "it"), 1.0, 1.0)(student.load(), mine)
    assert loss.isfinite()
    assert len(each) == len(taught.is_told)


@pytest.mark.parametrize("shared_rows", [False, True])
def test_an_encoder_decoder_teaches_each_text_as_if_it_were_alone(
    shared_rows: bool, tmp_path: Path
) -> None:
    source, student, tokens = student_of(write_seq2seq(tmp_path / "m", T5), 300)
    texts = [" ".join(sentences(1 + seed % 3, seed=seed)) for seed in range(6)]
    model = student.load()
    samples: Samples = corrupt_text(texts, student.tokenizer, model.config, 64, seed=3)
    if shared_rows:
        samples = make_shared_rows(samples, 2 * 64, seed=3, hidden=8)
    places = np.arange(len(samples))
    batch = {n: torch.from_numpy(a) for n, a in samples.batch(places, places).items()}
    teacher = source.load().eval()
    taught = Teacher(teacher, tokens, "it")(Seq2Seq(shared_rows=shared_rows), batch)
    numbered = batch if shared_rows else one_example_per_row(batch)
    if not shared_rows:
        rows = torch.arange(len(samples))[:, None]
        for name in ("source_texts", "target_texts"):
            numbered[name] = torch.where(numbered[name] == NO_TEXT, NO_TEXT, rows)
    read, is_told = tokens.for_teacher(numbered)
    assert is_told.sum() < len(is_told)
    told, old_ids = read["labels"] != NOT_PREDICTED, tokens.rows.tolist()
    hidden = torch.zeros(told.shape + taught.predictions.hidden.shape[1:])
    hidden[told] = taught.predictions.hidden
    for example in range(len(texts)):
        alone = {}
        for name, of in (("input_ids", "source_texts"), ("decoder_input_ids", "target_texts")):
            ids = read[name][read[of] == example]
            pieces = [tokens.pieces.get(each) or (old_ids.index(each),) for each in ids.tolist()]
            assert [*chain(*pieces)] == numbered[name][numbered[of] == example].tolist()
            alone[name] = ids[None]
        alone["attention_mask"] = torch.ones_like(alone["input_ids"])
        mine = read["target_texts"] == example
        alone["labels"] = read["labels"][mine][None]
        expected, _ = Seq2Seq().predicted(teacher, alone)
        torch.testing.assert_close(hidden[mine & told], expected, rtol=1e-5, atol=1e-5)
