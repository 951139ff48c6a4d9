"""Turn the scores on tasks in the ledger of a run into the records of the report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from regrow.evaluation.quality_kept import ChanceScore, quality_kept
from regrow.evaluation.significance import paired_test
from regrow.pipeline.ledger import Entry
from regrow.pipeline.stage_steps import StageSteps
from regrow.report.records import EvaluationRow, QualityKept

_MOST_TASKS = 12
"""Tasks of a group that are listed one by one."""


def evaluation_rows(
    entries: Mapping[str, Entry], stages: Sequence[str]
) -> tuple[EvaluationRow, ...]:
    """The scores of the original and of each stage that was evaluated, in order."""
    before = StageSteps(entries, "original").evaluate
    if before is None:
        return ()
    evaluated = (StageSteps(entries, stage).evaluate for stage in stages)
    after = [entry for entry in evaluated if entry is not None]
    if not after:
        return tuple(_rows(before.outputs, None, ""))
    return tuple(
        row
        for entry in after
        for row in _rows(before.outputs, entry.outputs, entry.stage if len(after) > 1 else "")
    )


def kept(entries: Mapping[str, Entry], stages: Sequence[str]) -> QualityKept | None:
    """What the last stage has of the original's score above chance.

    A group counts as one task.
    """
    before = StageSteps(entries, "original").evaluate
    after = StageSteps(entries, stages[-1]).evaluate if stages else None
    if before is None or after is None:
        return None
    original = _chance_scores(before.outputs)
    groups = {each["task"]: each["tasks"] for each in before.outputs["groups"]}
    scores = {each["task"]: each for kind in ("tasks", "groups") for each in after.outputs[kind]}
    if not original.keys() <= scores.keys():
        return None
    marks = {}
    for each in (*before.outputs["tasks"], *before.outputs["groups"]):
        first = _marks(each, before.outputs)
        second = _marks(scores.get(each["task"]), after.outputs)
        if first and len(first) == len(second):
            marks[each["task"]] = ([*map(float, first)], [*map(float, second)])
    values = {task: each["value"] for task, each in scores.items()}
    found = quality_kept(original, values, groups, marks)
    return None if found is None else QualityKept(share=found.share, interval=found.interval)


def _chance_scores(outputs: Mapping[str, Any]) -> dict[str, ChanceScore]:
    """The scores of all tasks and groups whose chance is known."""
    return {
        each["task"]: ChanceScore(each["value"], each["chance"], each["error"])
        for each in (*outputs["tasks"], *outputs["groups"])
        if each["chance"] is not None
    }


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
        low, high = _interval([_marks(each, before), _marks(other, after)])
        yield EvaluationRow(
            task=each["task"],
            metric=", ".join(filter(None, (each["metric"], stage))),
            before=each["value"],
            after=None if other is None else other["value"],
            low=low,
            high=high,
        )


def _marks(score: Mapping[str, Any] | None, outputs: Mapping[str, Any] | None) -> str:
    """The marks of a task, or of all tasks of a group; empty if there are none.

    `outputs`: of the step that evaluated the model.
    """
    if score is None or outputs is None:
        return ""
    if "marks" in score:
        return str(score["marks"])
    by_task = {each["task"]: each.get("marks", "") for each in outputs["tasks"]}
    inside = [by_task[task] for task in score["tasks"]]
    return "".join(inside) if all(inside) else ""


def _interval(marks: Sequence[str]) -> tuple[float | None, float | None]:
    """The 95% interval of the difference; None if a model has no marks."""
    first, second = marks
    if not first or len(first) != len(second):
        return None, None
    test = paired_test([float(mark) for mark in first], [float(mark) for mark in second])
    return test.low, test.high
