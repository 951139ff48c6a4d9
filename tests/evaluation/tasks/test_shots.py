from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.evaluation.tasks.find import FoundTasks, find_tasks
from regrow.evaluation.tasks.shots import check_shots, shots_of
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
