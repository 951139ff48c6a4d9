"""Training text is not held out: the same file is refused, and shared documents are counted."""

import gzip
from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.common.progress import QUIET, Progress
from regrow.corpus.reading import PLAIN_TEXT
from regrow.pipeline.recipe import Recipe
from regrow.pipeline.run_plan import RunOptions, plan_run
from regrow.pipeline.shared_text import TrainedTexts, check_heldout_files, say_shared_documents
from tests.tiny import sentences, write_model, write_text


def said(train: list[Path], **heldout: Path) -> list[str]:
    lines: list[str] = []
    texts = TrainedTexts("data", train, heldout, PLAIN_TEXT)
    check_heldout_files(texts)
    say_shared_documents(texts, lines.append)
    return lines


def test_the_same_file_is_refused(tmp_path: Path) -> None:
    """By its bytes, whatever it is called."""
    one = write_text(tmp_path / "one.jsonl", sentences(3))
    other = write_text(tmp_path / "other.jsonl", sentences(3, seed=1))
    copy = write_text(tmp_path / "copy.jsonl", sentences(3))
    (tmp_path / "link.jsonl").symlink_to(one)
    for same in (one, copy, tmp_path / "link.jsonl"):
        message = f"data.heldout.b: {same}: the same text as {one} in data.train; give a text that"
        with pytest.raises(UserError, match=message):
            said([other, one], a=write_text(tmp_path / "c.jsonl", ["x"]), b=same)
    assert said([one], a=other) == []


def test_shared_documents_are_counted(tmp_path: Path) -> None:
    """Also in files of other kinds; documents that are nearly the same are not shared."""
    train = write_text(tmp_path / "train.jsonl", sentences(9))
    packed = tmp_path / "more.txt.gz"
    packed.write_bytes(gzip.compress(b"A whole file."))
    few = write_text(tmp_path / "few.jsonl", [*sentences(2), "new", sentences(3)[2] + " "])
    text = tmp_path / "text.txt"
    text.write_text("A whole file.")
    none = write_text(tmp_path / "none.jsonl", ["neither"])
    rest = "documents are in data.train too, so its loss is too low after a training"
    assert said([train, packed], few=few, text=text, none=none) == [
        f"data.heldout.few: 2 of 4 {rest}", f"data.heldout.text: 1 of 1 {rest}",
    ]  # fmt: skip


def test_a_run_that_is_planned_says_so(tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    train = write_text(tmp_path / "train.jsonl", sentences(9))
    settings = {"tokens": 64, "row_length": 32, "batch_tokens": 32}
    recipe = {
        "name": "r", "model": str(tmp_path / "m"),
        "data": {"train": str(train), "heldout": {"h": str(train)}},
        "stages": [{"name": "s", "recover": settings}],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"data\.heldout\.h: .*train.jsonl: the same text as"):
        plan_run(Recipe.model_validate(recipe), tmp_path / "out", RunOptions(), QUIET)
    lines: list[str] = []
    recipe["data"] = {
        "train": str(train), "heldout": {"h": str(write_text(tmp_path / "h.jsonl", sentences(1)))},
    }  # fmt: skip
    progress = Progress(say=lines.append)
    plan_run(Recipe.model_validate(recipe), tmp_path / "out", RunOptions(), progress)
    assert any(line.startswith("data.heldout.h: 1 of 1 documents") for line in lines)
    (short,) = (line for line in lines if "characters" in line)
    assert short.startswith("data.heldout.h: ")
    assert short.endswith("cannot tell whether a recovery helped, so give at least 200")
    lines.clear()
    write_text(tmp_path / "h.jsonl", sentences(9, seed=1))
    plan_run(Recipe.model_validate(recipe), tmp_path / "out", RunOptions(), progress)
    assert not any("characters" in line for line in lines)
