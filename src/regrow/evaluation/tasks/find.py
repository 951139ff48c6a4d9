"""Find the tasks of lm-eval that a user names, and load their questions."""

import difflib
import fnmatch
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.group import Group
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._yaml_loader import load_yaml

from regrow.common.errors import UserError
from regrow.evaluation.tasks.forms import Mode
from regrow.evaluation.tasks.local_task import LocalTask
from regrow.evaluation.tasks.task_index import Index, Tasks
from regrow.models.loading import library_errors


@dataclass(frozen=True)
class FoundTasks:
    """Tasks with their questions.

    Attributes:
        tasks: Tasks of lm-eval by name, in the order in which they were named.
        groups: Groups of lm-eval by name (`mmlu`), each with the means over its tasks.
        names: The names of the tasks of each task, group and tag that was named, and of the groups
            inside them. A file of a task is no name of the task.
    """

    tasks: dict[str, Any]
    groups: dict[str, Any]
    names: dict[str, tuple[str, ...]]


def find_tasks(
    names: Sequence[str],
    *,
    data: Path | None = None,
    mode: Mode | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> FoundTasks:
    """Load tasks by name.

    Args:
        names: Names of tasks, groups and tags of lm-eval, patterns such as `mmlu_*`, and YAML files
            of tasks.
        data: A directory with the files of `regrow.evaluation.tasks.local_data`, from which the
            questions are read. None loads them as lm-eval does, from the Hugging Face hub or its
            cache.
        mode: The form in which questions are asked; None takes the task's own.
        say: Takes a message before work that takes long.

    Raises:
        UserError: there is no such task, its file is broken, its questions cannot be loaded or not
            be asked in this form, or it runs code that the model writes.
    """
    if not names:
        raise UserError("no task is named; give one, such as piqa", key="tasks")
    known = Tasks(say)
    changes: dict[str, Any] | None = None
    if data is not None or mode is not None:
        changes = {"class": LocalTask, "data": data, "mode": mode}
    built: list[Any] = []
    named: dict[str, tuple[str, ...]] = {}
    with quiet():
        for given in dict.fromkeys(names):
            with library_errors(f"{given}: a task that lm-eval cannot load"):
                index = known.all if _is_pattern(given) else known.index_with(given)
            for name in _matching(given, index, known):
                with library_errors(f"{name}: a task that lm-eval cannot load"):
                    _refuse_code(name, _settings(index[name]).get("unsafe_code"))
                    # lm-eval has no public way to change the settings of all tasks of a group.
                    found = TaskFactory(meta={}).build(
                        index[name], overrides=changes, registry=dict(index)
                    )
                some = found if isinstance(found, list) else [found]
                if not name.endswith((".yaml", ".yml")):
                    named[name] = _names_of(some)
                built += some
        with library_errors("lm-eval cannot evaluate these tasks together"):
            loaded = TaskManager(include_defaults=False).load(built)
    for name, task in loaded["tasks"].items():
        _refuse_code(name, getattr(task, "UNSAFE_CODE", False))
    tasks, groups = dict(loaded["tasks"]), dict(loaded.get("groups", {}))
    named |= {name: _names_of([group]) for name, group in groups.items()}
    return FoundTasks(tasks, groups, {**named, **{name: (name,) for name in tasks}})


def _names_of(built: Sequence[Any]) -> tuple[str, ...]:
    """The names of some tasks, and of all tasks in some groups."""
    inside = ([each] if not isinstance(each, Group) else each.get_all_tasks() for each in built)
    return tuple(task.task_name for tasks in inside for task in tasks)


def _settings(entry: Any) -> Mapping[str, Any]:
    """The settings in the file of an entry of lm-eval's index, without its functions."""
    if entry.cfg is None and entry.yaml_path is not None:
        found: Mapping[str, Any] = load_yaml(entry.yaml_path, resolve_func=False)
        return found
    return entry.cfg or {}


def _refuse_code(name: str, runs_code: object) -> None:
    if runs_code:
        raise UserError(
            f"{name}: this task runs the code that a model writes, and regrow runs no such code; "
            "leave it out",
            key="tasks",
        )


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _matching(given: str, index: Index, known: Tasks) -> list[str]:
    """The names that a name or a pattern stands for."""
    found = fnmatch.filter(index, given) if _is_pattern(given) else [given]
    if found and all(name in index for name in found):
        return found
    near = difflib.get_close_matches(given, known.all, n=3)
    advice = f"near names are {', '.join(near)}" if near else "lm-eval ls tasks lists all"
    raise UserError(
        f"{given}: lm-eval has no task, group or tag of this name; {advice}", key="tasks"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager: lm-eval prints only errors, in place of its notes on each task."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
