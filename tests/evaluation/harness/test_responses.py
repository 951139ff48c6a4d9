from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.evaluation.harness.responses import Responses, request_key


def test_answers_are_found_again_by_task(tmp_path: Path) -> None:
    with Responses(tmp_path / "new/model") as answers:
        answers.add("a/task", {"k": {"x": 1}})
        answers.add("a/task", {"l": "text"})
        answers.add("other", {"k": 2.5})
    with Responses(tmp_path / "new/model") as answers:
        assert dict(answers.of("a/task")) == {"k": {"x": 1}, "l": "text"}
        assert dict(answers.of("other")) == {"k": 2.5}
        assert dict(answers.of("none")) == {}


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    with (
        Responses(tmp_path / "m"),
        pytest.raises(UserError, match=r"another process \(\d+\) evaluates this model"),
        Responses(tmp_path / "m"),
    ):
        pass


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    with Responses(tmp_path) as answers:
        answers.add("t", {"k": 1})
    file = tmp_path / "t.jsonl"
    file.write_text("wrong\n" + file.read_text())
    with Responses(tmp_path) as answers, pytest.raises(UserError, match=r"t\.jsonl:1: damaged"):
        answers.of("t")


def test_the_key_of_a_request_depends_on_all_of_it() -> None:
    keys = {
        request_key(kind, given)
        for kind in ("a", "b")
        for given in (("x", "y"), ("xy", ""), ("x", {"until": ["y"]}))
    }
    assert len(keys) == 6
