from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.evaluation.tasks.find import FoundTasks, find_tasks
from regrow.evaluation.tasks.shots import check_shots, shots_of, without_shots
from tests.evaluation.tasks.files import write_all
from tests.evaluation.tasks.test_find import small_index


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FoundTasks:
    """A group of two tasks, and a task that fixes its demonstrations to 0."""
    small_index(tmp_path, monkeypatch)
    folder = tmp_path / "tasks"
    (folder / "none.yaml").write_text(
        f"include: {folder}/one.yaml\ntask: fixed\ntag: easy\nnum_fewshot: 0\n"
    )
    (folder / "own.yaml").write_text(
        f"include: {folder}/one.yaml\ntask: own\ntag: easy\nnum_fewshot: 2\n"
    )
    return find_tasks(["several", "easy"], data=write_all(tmp_path / "data"))


@pytest.mark.parametrize(
    ("wanted", "shots"),
    [
        (None, (0, 0, 0, 2)),
        (3, (3, 3, 0, 3)),
        ({"several": 3}, (3, 3, 0, 2)),
        ({"sciq": 0, "several": 3, "easy": 4}, (3, 0, 0, 4)),
        ({"own": 1, "one_arc": 5, "easy": 4}, (5, 0, 0, 1)),
    ],
)
def test_shots_by_task_group_and_tag(
    wanted: Any, shots: tuple[int, ...], found: FoundTasks
) -> None:
    names = ("one_arc", "sciq", "fixed", "own")
    assert shots_of(found, wanted) == dict(zip(names, shots, strict=True))


@pytest.mark.parametrize(
    ("wanted", "names"),
    [(None, []), (0, []), (3, ["fixed"]), ({"easy": 2}, ["fixed"]), ({"own": 2}, [])],
)
def test_tasks_that_have_no_demonstrations_though_they_were_asked_for(
    wanted: Any, names: list[str], found: FoundTasks
) -> None:
    assert without_shots(found, wanted) == names


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"sciqq": 1}, "shots sciqq: none of the tasks has this name; .*such as sciq"),
        ({"fixed": 1}, "shots fixed: this task has no demonstrations"),
        ({"several": 1}, "shots: sciq: has no demonstrations that are not also tested"),
        (1, "shots: sciq: has no demonstrations that are not also tested"),
    ],
)
def test_what_a_task_does_not_have_is_refused(wanted: Any, message: str, found: FoundTasks) -> None:
    with pytest.raises(UserError, match=message):
        check_shots(found, wanted)
    check_shots(found, {"several": 1, "sciq": 0})


def test_demonstrations_that_cannot_be_read_are_one_line(
    found: FoundTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(doc: Any) -> str:
        raise KeyError("question")

    monkeypatch.setattr(found.tasks["own"], "doc_to_text", fails)
    with pytest.raises(UserError, match=r"own: lm-eval cannot read its demonstrations \(KeyError"):
        check_shots(found, {"own": 2})


def test_the_path_of_a_task_is_no_name_of_it(tmp_path: Path, found: FoundTasks) -> None:
    path = str(tmp_path / "tasks/own.yaml")
    named = find_tasks([path], data=tmp_path / "data")
    assert shots_of(named, {"own": 1}) == {"own": 1}
    with pytest.raises(UserError, match="none of the tasks has this name"):
        check_shots(named, {path: 1})
