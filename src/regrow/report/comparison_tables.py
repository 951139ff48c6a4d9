"""The tables of a comparison of models, for the terminal and for the page."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from regrow.common import numbers
from regrow.evaluation.task_results import is_share

if TYPE_CHECKING:
    from regrow.evaluation.comparison import Compared, Comparison, Difference
    from regrow.evaluation.speed import Speed
    from regrow.evaluation.task_results import Evaluated, TaskScore

_STAGE = "model"
"""The directory of the model of a stage, in the directory of the stage."""
_MOST_TASKS = 12
"""Tasks of a group that are listed one by one."""


def short_names(found: "Comparison") -> list[str]:
    """A short name for each model: its directory, or what tells it from the others.

    The model of a stage of a run, `stages/NAME/model`, is called by its stage. If two names were
    the same, all models keep the names that the user gave.
    """
    paths = [PurePath(model.name) for model in found.models]
    names = [path.parent.name if path.name == _STAGE else path.name for path in paths]
    given = [model.name for model in found.models]
    return names if len({*names}) == len(names) and all(names) else given


def model_rows(found: "Comparison", names: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The names of the columns, and a row for each model: sizes, quality kept, and speed.

    `names`: of the models; none takes those that the user gave.
    """
    speeds = found.speeds
    shown = names or [model.name for model in found.models]
    head = ("model", "parameters", "weights", "quality kept")
    rows = [(*head, *(("tokens/s", "times") if speeds else ()))]
    for number, (model, share) in enumerate(zip(found.models, kept(found), strict=True)):
        rows.append((
            shown[number], numbers.count(model.parameters), numbers.size(model.weight_bytes),
            "" if share is None else f"{share:.1%}",
            *(_speed(speeds[number]) if speeds else ()),
        ))  # fmt: skip
    return rows


def _speed(speed: "Speed") -> tuple[str, str]:
    return f"{numbers.rate(speed.median)} ± {numbers.rate(speed.spread)}", f"{speed.ratio:.2f}"


def kept(found: "Comparison") -> list[float | None]:
    """The quality that each model has kept, 1 for the first."""
    return [1.0, *(each.kept for each in found.compared)]


def difference_rows(found: "Comparison", compared: "Compared") -> list[tuple[str, ...]]:
    """The names of the columns, and a row for each group and task."""
    first = found.models[0]
    listed = {
        *(group.group for group in first.groups),
        *(score.task for score in listed_tasks(first)),
    }
    head = ("task", "metric", "first", "this", "difference", "95% interval", "p")
    return [head, *(_row(each) for each in compared.differences if each.name in listed)]


def listed_tasks(model: "Evaluated") -> "list[TaskScore]":
    """The tasks that are listed: not those of a large group."""
    hidden = {
        task for group in model.groups if len(group.tasks) > _MOST_TASKS for task in group.tasks
    }
    return [score for score in model.tasks if score.task not in hidden]


def _row(one: "Difference") -> tuple[str, ...]:
    scale, digits = (100, 1) if is_share(one.metric) else (1, 3)

    def signed(value: float) -> str:
        return numbers.signed(scale * value, digits)

    test = one.test
    return (
        one.name, one.metric, numbers.decimal(scale * one.first, digits),
        numbers.decimal(scale * one.second, digits), signed(one.second - one.first),
        "" if test is None else f"{signed(test.low)} to {signed(test.high)}",
        "" if test is None or test.p_value is None else f"{test.p_value:.2g}",
    )  # fmt: skip
