"""How many demonstrations (shots) each task has: one number for all, or numbers by name."""

import difflib
from collections.abc import Mapping
from typing import Any

from regrow.common.errors import UserError
from regrow.evaluation.tasks.demonstrations import usable_demonstrations
from regrow.evaluation.tasks.find import FoundTasks, quiet
from regrow.models.loading import library_errors

Wanted = int | Mapping[str, int] | None
"""A number for all tasks, or numbers by the names of tasks, groups and tags."""


def shots_of(found: FoundTasks, wanted: Wanted) -> dict[str, int]:
    """The demonstrations of each task, by its name.

    A task that is named has that number, else that of the smallest group or tag that is named, else
    its own. As with lm-eval, a task that fixes its number to 0 keeps it. A task that measures whole
    texts has none.
    """
    given: dict[str, int] = {}
    if isinstance(wanted, int):
        given = dict.fromkeys(found.tasks, wanted)
    elif wanted is not None:
        for name in sorted(wanted, key=lambda name: (-len(found.names[name]), name in found.tasks)):
            given |= dict.fromkeys(found.names[name], wanted[name])
    return {
        name: 0 if _has_none(task) else given.get(name, task.get_config("num_fewshot") or 0)
        for name, task in found.tasks.items()
    }


def check_shots(found: FoundTasks, wanted: Wanted) -> None:
    """Raise UserError if a name is of no task, or a task has no such demonstrations."""
    for name, number in wanted.items() if isinstance(wanted, Mapping) else ():
        if name not in found.names:
            near = difflib.get_close_matches(name, found.names, n=3) or [*found.names][:3]
            raise UserError(
                f"none of the tasks has this name; give one of theirs, such as {', '.join(near)}",
                key="shots",
                value=name,
            )
        if number and name in found.tasks and _has_none(found.tasks[name]):
            raise UserError(
                "this task has no demonstrations; leave it out", key="shots", value=name
            )
    for name, number in shots_of(found, wanted).items():
        if number and hasattr(found.tasks[name], "sampler"):
            with quiet(), library_errors(f"{name}: lm-eval cannot read its demonstrations"):
                usable_demonstrations(found.tasks[name])


def without_shots(found: FoundTasks, wanted: Wanted) -> list[str]:
    """The tasks that were meant to have demonstrations, and have none."""
    meant = set(found.tasks) if isinstance(wanted, int) and wanted else set[str]()
    for name, number in wanted.items() if isinstance(wanted, Mapping) else ():
        meant |= set(found.names[name]) if number else set()
    return [name for name, task in found.tasks.items() if name in meant and _has_none(task)]


def _has_none(task: Any) -> bool:
    measures_texts: bool = task.OUTPUT_TYPE == "loglikelihood_rolling"
    return measures_texts or bool(task.get_config("num_fewshot") == 0)
