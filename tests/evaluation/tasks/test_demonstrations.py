from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.evaluation.tasks.demonstrations import whole_demonstrations
from regrow.evaluation.tasks.find import find_tasks
from tests.evaluation.tasks.files import table, write_all


def found(name: str, data: Path, shots: int) -> Any:
    task = find_tasks([name], data=data).tasks[name]
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=1234)
    return task


def prompts(task: Any) -> list[str]:
    return [
        task.fewshot_context(doc, num_fewshot=task.config.num_fewshot) for doc in task.eval_docs
    ]


def test_prompts_that_fit_are_lm_evals_own(tmp_path: Path) -> None:
    data = write_all(tmp_path)
    for name in ("piqa", "mmlu_anatomy"):
        own = prompts(found(name, data, 3))
        task = found(name, data, 3)
        with whole_demonstrations(task, lambda _: True) as seen:
            assert prompts(task) == own
        assert (seen.wanted, seen.fewer, seen.dropped, seen.tested) == (3, 0, 0, 0)
        assert own[0].count("Answer:") == 4


def test_whole_examples_are_left_out_until_a_prompt_fits(tmp_path: Path) -> None:
    task = found("mmlu_anatomy", write_all(tmp_path), 5)
    longest = 200
    whole = prompts(task)

    def fits(requests: Any) -> bool:
        return all(len(text) + len(end) <= longest for text, end in requests)

    with whole_demonstrations(task, fits) as seen:
        for text, full in zip(prompts(task), whole, strict=True):
            assert len(text) + 2 <= longest
            head, *shown, last = text.split("\n\n")
            assert [head, *shown] == full.split("\n\n")[: 1 + len(shown)]
            assert last == full.split("\n\n")[-1]
            assert 0 < len(shown) < 5
    assert seen.fewer == 5
    assert seen.dropped == 5 * (5 - len(shown))
    assert prompts(task) == whole


def test_a_question_that_is_tested_is_no_demonstration(tmp_path: Path) -> None:
    data = write_all(tmp_path)
    rows = [("goal", "sol1", "sol2", "label"), ("goal 1", "a, b", "c", 1), ("train 9", "x", "y", 0)]
    table(data / "piqa/train_part.csv", rows)
    task = found("piqa", data, 2)
    with whole_demonstrations(task, lambda _: True) as seen:
        for text in prompts(task):
            assert text.startswith("Question: train 9\nAnswer: x\n\nQuestion: goal")
            assert text.count("Question:") == 2
    assert seen.tested == 1
    assert seen.dropped == 5


@pytest.mark.parametrize("name", ["sciq", "boolq"])
def test_a_task_whose_demonstrations_are_all_tested_is_refused(name: str, tmp_path: Path) -> None:
    task = found(name, write_all(tmp_path), 2)
    with (
        pytest.raises(UserError, match="has no demonstrations that are not also tested"),
        whole_demonstrations(task, lambda _: True),
    ):
        pass
