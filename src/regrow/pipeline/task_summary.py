"""Turn the scores on tasks in the ledger of a run into the records of the report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from regrow.evaluation.significance import paired_test
from regrow.evaluation.task_results import quality_kept
from regrow.pipeline.ledger import Entry
from regrow.pipeline.task_steps import EVALUATE
from regrow.report.records import EvaluationRow

_MOST_TASKS = 12
"""Tasks of a group that are listed one by one."""


def evaluation_rows(
    entries: Mapping[str, Entry], stages: Sequence[str]
) -> tuple[EvaluationRow, ...]:
    """The scores of the original and of each stage that was evaluated, in order."""
    before = entries.get(f"original/{EVALUATE}")
    if before is None:
        return ()
    steps = (f"{stage}/{EVALUATE}" for stage in stages)
    after = [entries[step] for step in steps if step in entries]
    if not after:
        return tuple(_rows(before.outputs, None, ""))
    return tuple(
        row
        for entry in after
        for row in _rows(before.outputs, entry.outputs, entry.stage if len(after) > 1 else "")
    )


def kept(entries: Mapping[str, Entry], stages: Sequence[str]) -> float | None:
    """The share of the original's score above chance that the last stage has."""
    before = entries.get(f"original/{EVALUATE}")
    after = entries.get(f"{stages[-1]}/{EVALUATE}") if stages else None
    if before is None or after is None:
        return None
    original = {
        each["task"]: (each["value"], each["chance"])
        for each in before.outputs["tasks"]
        if each["chance"] is not None
    }
    result = {each["task"]: each["value"] for each in after.outputs["tasks"]}
    if not original or not original.keys() <= result.keys():
        return None
    return quality_kept(original, result)


def shown_scores(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scores of groups, and then those of tasks, without the tasks of large groups.

    `outputs`: of a step that evaluated a model.
    """
    hidden = {
        task
        for group in outputs["groups"]
        if len(group["tasks"]) > _MOST_TASKS
        for task in group["tasks"]
    }
    found = [*outputs["groups"], *outputs["tasks"]]
    return [each for each in found if each["task"] not in hidden]


def _rows(
    before: Mapping[str, Any], after: Mapping[str, Any] | None, stage: str
) -> Iterator[EvaluationRow]:
    """Groups first, then tasks. `stage`: named beside the metric, unless it is empty."""
    theirs = {} if after is None else {each["task"]: each for each in shown_scores(after)}
    for each in shown_scores(before):
        other = theirs.get(each["task"])
        low, high = _interval([each.get("marks", ""), (other or {}).get("marks", "")])
        yield EvaluationRow(
            task=each["task"],
            metric=", ".join(filter(None, (each["metric"], stage))),
            before=each["value"],
            after=None if other is None else other["value"],
            low=low,
            high=high,
        )


def _interval(marks: Sequence[str]) -> tuple[float | None, float | None]:
    """The 95% interval of the difference; None if a model has no marks."""
    first, second = marks
    if not first or len(first) != len(second):
        return None, None
    test = paired_test([float(mark) for mark in first], [float(mark) for mark in second])
    return test.low, test.high
