"""The report's scores on common sense and knowledge, for a model and what was cut from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import say

import regrow
from openba_v2.report import TASKS
from regrow.evaluation.task_results import Evaluated

MANY = ("MMLU", "BBH", "C-Eval", "CMMLU")
"""Groups of many tasks; the limit of these is for each of them."""


def scores(
    models: Mapping[str, Path], data: Path, limits: tuple[int | None, int | None], shots: int | None
) -> dict[str, Any]:
    """The score of each model on each task, in percent.

    `limits`: the questions of a task, and those of each task of a group. `shots`: demonstrations;
    None takes those of the report. Answers are kept, so a call that was stopped goes on.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in models}
    parameters = {}
    for task, (name, of_report) in TASKS.items():
        say(task)
        how: Any = {"data": data, "limit": limits[task in MANY]}
        how["shots"] = shots if shots is not None else of_report
        results = regrow.evaluate([*map(str, models.values())], name, **how)
        for model, result in zip(models, results, strict=True):
            parameters[model] = result.parameters
            found[model][task] = _score(result, name)
    return {
        "models": [
            {"name": name, "parameters": parameters[name], "scores": found[name]} for name in models
        ]
    }


def _score(result: Evaluated, name: str) -> dict[str, Any]:
    """The score of the group or task with this name."""
    groups = [group for group in result.groups if group.group == name]
    one = groups[0] if groups else result.score(name)
    return {
        "value": 100 * one.value,
        "error": None if one.error is None else 100 * one.error,
        "chance": None if one.chance is None else 100 * one.chance,
        "questions": one.questions,
        "metric": one.metric,
        "fewer_shots": sum(each.fewer_shots for each in result.tasks),
        "shortened": sum(each.shortened for each in result.tasks),
    }
