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
    """The names of the columns, and a row for each model: sizes, and quality kept on tasks.

    `names`: of the models; none takes those that the user gave.
    """
    shown = names or [model.name for model in found.models]
    has_tasks = bool(found.models[0].tasks)
    head = ("model", "parameters", "weights")
    rows = [(*head, *(["quality kept"] if has_tasks else []))]
    known = None not in kept(found)
    shares = ["100.0%" if known else numbers.ABSENT, *(_quality(each) for each in found.compared)]
    for name, model, quality in zip(shown, found.models, shares, strict=True):
        rows.append((
            name, numbers.count(model.parameters), numbers.size(model.weight_bytes),
            *([quality] if has_tasks else []),
        ))  # fmt: skip
    return rows


def generation_rows(found: "Comparison", names: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The names of the columns, and a row for each model: its speed and its memory.

    No row if the speed was not measured. `names`: as for `model_rows`.
    """
    speeds = found.speeds or ()
    if not speeds:
        return []
    shown = names or [model.name for model in found.models]
    has_peaks = any(speed.memory is not None and speed.memory.peak is not None for speed in speeds)
    head = ("model", "tokens/s", "times", "first token, ms", "loaded weights", "keys, values")
    rows = [(*head, *(["peak"] if has_peaks else []))]
    for name, speed in zip(shown, speeds, strict=True):
        memory = _memory(speed)
        rows.append((name, *_speed(speed), *(memory if has_peaks else memory[:-1])))
    return rows


def generation_note(found: "Comparison") -> str:
    """What the rows of `generation_rows` are; empty without any."""
    if not found.speeds:
        return ""
    first = found.speeds[0]
    # With little memory the first model takes turns with each other one, in rounds of their own.
    rounds = min(len(each.tokens_per_second) for each in found.speeds)
    has_peak = first.memory is not None and first.memory.peak is not None
    peak = " Peak is the most bytes of all tensors on the GPU." if has_peak else ""
    return (
        f"Measured on {first.device}, in {first.dtype}. The models took turns in "
        f"{rounds} rounds, and each wrote one text after a short prompt. "
        "Tokens/s and first token (from the prompt to the first new token) are medians, ± half the "
        "distance between the quartiles. Times is tokens/s beside the first model, within rounds. "
        f"Loaded weights are bytes in memory; keys, values are those of the whole text.{peak}"
    )


def _speed(speed: "Speed") -> tuple[str, str, str]:
    first = ""
    if speed.first_token is not None:
        typical, spread = (1000 * each for each in (speed.first_token, speed.first_token_spread))
        first = f"{numbers.rate(typical)} ± {numbers.rate(spread)}"
    rate = f"{numbers.rate(speed.median)} ± {numbers.rate(speed.spread)}"
    return rate, f"{speed.ratio:.2f}", first


def _memory(speed: "Speed") -> tuple[str, str, str]:
    """Loaded weights, keys and values, and the peak; empty where they are not known."""
    memory = speed.memory
    values = (None,) * 3 if memory is None else (memory.weights, memory.cache, memory.peak)
    weights, cache, peak = ("" if each is None else numbers.size(each) for each in values)
    return weights, cache, peak


def kept(found: "Comparison") -> list[float | None]:
    """The quality that each model has kept: 1 for the first; None where it is not known."""
    others = [None if each.kept is None else each.kept.share for each in found.compared]
    return [None if None in others else 1.0, *others]


def _quality(compared: "Compared") -> str:
    """The share that a model has kept, with its interval; a dash if it is not known."""
    found = compared.kept
    if found is None:
        return numbers.ABSENT
    between = "" if found.interval is None else f" ({numbers.share_interval(found.interval)})"
    return f"{found.share:.1%}{between}"


def unknown_quality(found: "Comparison") -> str | None:
    """Why the quality kept is not known, in one line; None if it is, or no task was answered."""
    first = found.models[0]
    if not first.tasks or None not in kept(found):
        return None
    return (
        f"What is kept is not known: {first.name} is above chance by more than two standard errors "
        "on none of these tasks. Ask more questions, or compare with a better model."
    )


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
