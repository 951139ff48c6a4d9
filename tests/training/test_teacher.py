"""A teacher knows the tokens of its student by their old numbers, through any stages between."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.distillation import Distilled
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint
from regrow.training.distill_settings import DistillSettings
from regrow.training.distributed.processes import Processes
from regrow.training.teacher import load_teacher, teacher_token_ids
from tests.tiny import sentences, write_model

ALONE = Processes()


def cut(source: Path, out: Path, **spec: Any) -> Path:
    spec["calibration_tokens"] = 256
    prune_checkpoint(
        ModelDirectory(source), out, CutSpec(**spec), documents=lambda: iter(sentences(60))
    )
    return out


def test_tokens_keep_their_text_through_two_cuts_of_the_vocabulary(tmp_path: Path) -> None:
    original = write_model(tmp_path / "original")
    shallow = cut(original, tmp_path / "shallow", layers=3)
    small = cut(shallow, tmp_path / "small", vocab_size=300)
    smaller = cut(small, tmp_path / "smaller", vocab_size=285, layers=2)
    assert teacher_token_ids(ModelDirectory(shallow), ModelDirectory(original)) is None
    assert teacher_token_ids(ModelDirectory(original), ModelDirectory(original)) is None
    assert teacher_token_ids(ModelDirectory(small), ModelDirectory(small)) is None
    for student, teacher in [
        (small, original), (small, shallow), (smaller, original), (smaller, shallow),
        (smaller, small),
    ]:  # fmt: skip
        rows = teacher_token_ids(ModelDirectory(student), ModelDirectory(teacher))
        assert rows is not None
        old, new = load_tokenizer(teacher), load_tokenizer(student)
        assert old.convert_ids_to_tokens(rows.tolist()) == new.convert_ids_to_tokens(
            list(range(len(new)))
        )
        # Another segmentation of the same text, and a valid one.
        text = sentences(1, seed=5)[0]
        assert old.decode(rows[np.array(new(text)["input_ids"])]) == text
    first, second = (
        teacher_token_ids(ModelDirectory(smaller), ModelDirectory(original)),
        teacher_token_ids(ModelDirectory(smaller), ModelDirectory(small)),
    )
    assert first is not None
    assert second is not None
    assert not np.array_equal(first, second)


def test_a_teacher_teaches_what_was_cut_from_it(tmp_path: Path) -> None:
    original = write_model(tmp_path / "original")
    student = cut(original, tmp_path / "student", vocab_size=300, hidden=24)
    teacher = load_teacher(ModelDirectory(original), ModelDirectory(student), "fp32", ALONE)
    again = load_teacher(ModelDirectory(original), ModelDirectory(student), "bf16", ALONE)
    assert teacher.student_vocab == 300
    assert teacher.tokens is not None
    assert len(teacher.tokens.pieces) == 20
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert not teacher.model.training
    identities = {
        teacher.identity,
        load_teacher(ModelDirectory(original), ModelDirectory(original), "fp32", ALONE).identity,
        load_teacher(ModelDirectory(student), ModelDirectory(student), "fp32", ALONE).identity,
    }
    assert len(identities) == 3
    Distilled(Causal(), teacher, 0.5, 1.0).check(load_model(student))


def test_padding_of_a_student_is_no_token(tmp_path: Path) -> None:
    original = write_model(tmp_path / "original")
    student = cut(original, tmp_path / "student", vocab={"size": 290, "pad_to": 8})
    teacher = load_teacher(ModelDirectory(original), ModelDirectory(student), "fp32", ALONE)
    tokens = teacher.tokens
    assert tokens is not None
    assert (len(tokens.rows), tokens.padding, len(tokens.pieces)) == (296, 6, 30)
    found = tokens.probabilities(torch.rand(3, 320))
    assert not found[:, -6:].any()
    assert found.sum(-1) == pytest.approx([1.0] * 3)


def test_a_model_is_taught_by_none_that_it_does_not_come_from(tmp_path: Path) -> None:
    original = write_model(tmp_path / "original")
    other = write_model(tmp_path / "other", hidden_size=24)
    student = cut(original, tmp_path / "student", vocab_size=300)
    with pytest.raises(UserError, match=r"not cut from .*; a teacher is the model"):
        teacher_token_ids(ModelDirectory(student), ModelDirectory(other))
    smaller = cut(student, tmp_path / "smaller", vocab_size=290)
    for pair, lacking in (((original, student), 20), ((student, smaller), 10)):
        with pytest.raises(UserError, match=f"which lacks {lacking} of its tokens"):
            teacher_token_ids(*map(ModelDirectory, pair))


def test_settings_are_written_as_they_are_read() -> None:
    written = {"from": "previous", "weight": 0.25, "temperature": 2.0}
    read = DistillSettings.model_validate(written)
    assert json.loads(read.model_dump_json()) == read.model_dump(mode="json") == written
    assert read.words() == "distilled from the previous model (weight 0.25, temperature 2)"
    assert DistillSettings(teacher="previous", weight=0.25, temperature=2) == read


@pytest.mark.parametrize(
    "wrong",
    [{}, {"from": "other"}, {"from": "original", "weight": 0}, {"from": "original", "weight": 1.1},
     {"from": "original", "temperature": 0}, {"from": "original", "temperature": float("inf")},
     {"from": "original", "heat": 2}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DistillSettings.model_validate(wrong)
