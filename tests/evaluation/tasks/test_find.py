from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.evaluation.tasks import task_index
from regrow.evaluation.tasks.find import find_tasks
from tests.evaluation.tasks.files import COUNT, lines, write_all

TASKS = (
    "piqa", "ai2_arc", "sciq", "boolq", "logiqa", "mmlu_anatomy", "ceval-valid_law",
    "cmmlu_agronomy", "leaderboard_bbh_snarks",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


def asked(task: Any, number: int = 0) -> tuple[str, list[str], int]:
    """The prompt, the options and the number of the right one."""
    doc = task.eval_docs[number]
    return task.doc_to_text(doc), task.doc_to_choice(doc), task.doc_to_target(doc)


def test_tasks_of_lm_eval_read_local_files_and_keep_their_prompts(data: Path) -> None:
    """Prompts and options are those of lm-eval's own files, written out here."""
    found = find_tasks(["piqa", "ai2_arc", "sciq", "mmlu_anatomy"], data=data).tasks
    assert [*found] == ["piqa", "arc_challenge", "arc_easy", "sciq", "mmlu_anatomy"]
    assert all(len(task.eval_docs) == COUNT for task in found.values())
    assert asked(found["piqa"], 1) == ("Question: goal 1\nAnswer:", ["a, b", "c"], 1)
    assert asked(found["arc_easy"], 2) == ("Question: easy 2?\nAnswer:", ["p", "q", "r"], 2)
    assert asked(found["sciq"]) == (
        "It is.\nQuestion: what 0?\nAnswer:", ["wrong 1", "wrong 2", "wrong 3", "right"], 3,
    )  # fmt: skip
    assert asked(found["mmlu_anatomy"], 2) == (
        "test bone 2?\nA. one\nB. two\nC. three\nD. four\nAnswer:", [*"ABCD"], 2,
    )  # fmt: skip


def test_all_questions_by_letter(data: Path) -> None:
    found = find_tasks(TASKS, data=data, mode="letter").tasks
    assert len(found) == len(TASKS) + 1
    for task in found.values():
        text, letters, gold = asked(task)
        assert letters == [*"ABCD"[: len(letters)]]
        assert 0 <= gold < len(letters)
        assert all(f"\n{letter}. " in text for letter in letters)
    golds = [asked(found["sciq"], number)[2] for number in range(COUNT)]
    assert len(set(golds)) > 1, "the right option of SciQ is always the last in its file"
    for number, gold in enumerate(golds):
        assert "\n" + "ABCD"[gold] + ". right\n" in asked(found["sciq"], number)[0]
    assert asked(found["leaderboard_bbh_snarks"]) == (
        "Which 0?\nA. yes\nB. no\nC. both\nAnswer:", [*"ABC"], 2,
    )  # fmt: skip


def test_all_questions_by_likelihood(data: Path) -> None:
    found = find_tasks(TASKS, data=data, mode="likelihood").tasks
    for task in found.values():
        text, options, gold = asked(task)
        assert len(options[gold]) > 0
        assert not any(f"\n{letter}. " in text for letter in "ABCD")
    assert asked(found["mmlu_anatomy"]) == (
        "test bone 0?\nAnswer:", ["one", "two", "three", "four"], 0,
    )  # fmt: skip
    assert asked(found["cmmlu_agronomy"])[0].endswith("答案：")  # noqa: RUF001


def test_a_group_and_a_pattern(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_index(tmp_path, monkeypatch)
    both = ["one_arc", "sciq"]
    found = find_tasks(["several"], data=data)
    assert ([*found.groups], [*found.tasks]) == (["several"], both)
    assert [*find_tasks(["*arc", "sciq"], data=data).tasks] == both


def small_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval with two tasks and a group."""
    own = task_index._TASKS
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "one.yaml").write_text(f"include: {own}/arc/arc_easy.yaml\ntask: one_arc\n")
    (folder / "two.yaml").write_text(f"include: {own}/sciq/sciq.yaml\n")
    (folder / "all.yaml").write_text("group: several\ntask: [one_arc, sciq]\n")
    monkeypatch.setattr(task_index, "_TASKS", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_names_of_all_tasks_are_read_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_index(tmp_path, monkeypatch)
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(UserError, match=r"tasks: sciqq: .*; near names are sciq"):
            find_tasks(["sciqq"], data=data, say=said.append)
    assert len(said) == 1


def test_lm_eval_may_be_moved(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To another virtual environment, say; the list of names is read from the cache."""
    small_index(tmp_path, monkeypatch)
    assert [*find_tasks(["one_*"], data=data).tasks] == ["one_arc"]
    moved = (tmp_path / "tasks").rename(tmp_path / "moved")
    monkeypatch.setattr(task_index, "_TASKS", moved)
    said: list[str] = []
    found = find_tasks(["several"], data=data, say=said.append)
    assert [*found.tasks] == ["one_arc", "sciq"]
    assert not any("all tasks" in line for line in said)


def test_a_task_of_ones_own(data: Path, tmp_path: Path) -> None:
    own = task_index._TASKS / "piqa/piqa.yaml"
    path = tmp_path / "mine.yaml"
    path.write_text(f"include: {own}\ntask: mine\ndoc_to_text: 'To {{{{goal}}}}:'\n")
    for name in (str(path), f"{tmp_path}/./mine.yaml"):
        task = find_tasks([name], data=data).tasks["mine"]
        assert asked(task)[0] == "To goal 0:"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("task: [", "mine.yaml: a task that lm-eval cannot load"),
        ("dataset_path: baber/piqa\n", "mine.yaml: a task that lm-eval cannot load"),
        ("task: t\ndataset_path: baber/piqa\noutput_type: wrong\n", "Got invalid output_type"),
        ("task: t\ndataset_path: ours\n", r"t: its data set \(ours\) is not read from local files"),
        ("task: t\ndataset_path: baber/piqa\noutput_type: multiple_choice\nvalidation_split: "
         "validation\ndoc_to_text: '{{goal'\n", "mine.yaml: a task that lm-eval cannot load"),
    ],
)  # fmt: skip
def test_a_broken_task_file(content: str, message: str, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        find_tasks([str(path)], data=data)
    assert "\n" not in str(caught.value)


def test_a_task_that_runs_the_code_of_a_model_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="humaneval: this task runs the code that a model writes"):
        find_tasks(["humaneval"])  # before its data are loaded
    small_index(tmp_path, monkeypatch)
    (tmp_path / "tasks/two.yaml").write_text(
        f"include: {tmp_path}/tasks/one.yaml\ntask: two\nunsafe_code: true\n"
    )
    (tmp_path / "tasks/all.yaml").write_text("group: several\ntask: [one_arc, two]\n")
    for name in ("several", "t*"):
        with pytest.raises(UserError, match="tasks: two: this task runs the code"):
            find_tasks([name], data=data)


def test_a_task_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tasks: .*/none\.yaml: no such file"):
        find_tasks([str(tmp_path / "none.yaml")])


def test_a_form_that_a_task_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: mine\ndataset_path: other\n")
    with pytest.raises(
        UserError, match=r"mode: .*questions of other are asked in their task's own"
    ):
        find_tasks([str(path)], mode="letter")


def test_more_options_than_letters(tmp_path: Path) -> None:
    choices = [f"option {number}" for number in range(27)]
    row = {"query": "Question: which?", "choices": choices, "gold": 26}
    data = tmp_path / "data"
    lines(data / "arc/arc_easy.jsonl", [row])
    find_tasks(["arc_easy"], data=data)
    with pytest.raises(UserError, match="27 options, more than there are letters; give `mode`"):
        find_tasks(["arc_easy"], data=data, mode="letter")
