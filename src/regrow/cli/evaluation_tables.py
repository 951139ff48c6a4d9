"""The tables of `regrow eval` and `regrow compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.cli.output import OUT, new_table, print_json
from regrow.common import numbers

if TYPE_CHECKING:
    from regrow.evaluation.comparison import Comparison, Difference
    from regrow.evaluation.speed import Speed
    from regrow.evaluation.task_results import Evaluated, GroupScore, TaskScore

_MOST_TASKS = 12
"""Tasks of a group that are listed one by one."""


def print_evaluated(models: "Sequence[Evaluated]", out: Path | None, as_json: bool) -> None:
    """Print the scores of each model. `out`: where they were written."""
    if as_json:
        print_json([_evaluated_json(model) for model in models])
        return
    for model in models:
        size = f"{model.parameters:,} parameters, {model.precision}"
        OUT.print(f"{model.name}: {size}", soft_wrap=True)
        names = dict.fromkeys(name for score in model.tasks for name in score.metrics)
        shown = new_table(
            ("task", "left"), ("questions", "right"), ("shots", "right"),
            *((name, "right") for name in names), ("chance", "right"), ("chosen %", "left"),
        )  # fmt: skip
        for group in model.groups:
            values = [_score(group) if name == group.metric else "" for name in names]
            shown.add_row(group.group, f"{group.questions:,}", "", *values, _percent(group.chance))
        for score in _listed(model):
            values = [_metric(score, name) for name in names]
            shown.add_row(
                score.task, f"{score.questions:,}", str(score.shots), *values,
                _percent(score.chance), _chosen(score),
            )  # fmt: skip
        OUT.print(shown)
        OUT.print()
    if out is not None:
        OUT.print(f"written  {out}", soft_wrap=True)


def print_comparison(found: "Comparison", as_json: bool) -> None:
    """Print sizes, then the differences of each model from the first one."""
    first, *_ = found.models
    if as_json:
        print_json(
            {
                "models": [_evaluated_json(model) for model in found.models],
                "compared": [
                    {
                        "name": each.name,
                        "kept": each.kept,
                        "differences": [_difference_json(one) for one in each.differences],
                    }
                    for each in found.compared
                ],
                "speeds": None if found.speeds is None else [vars(each) for each in found.speeds],
            }
        )
        return
    shown = new_table(
        ("model", "left"), ("parameters", "right"), ("weights", "right"), ("quality kept", "right"),
        *([("tokens/s", "right"), ("times", "right")] if found.speeds else []),
    )  # fmt: skip
    kept: list[float | None] = [1.0, *(each.kept for each in found.compared)]
    speeds = found.speeds or (None,) * len(kept)
    for model, share, speed in zip(found.models, kept, speeds, strict=True):
        shown.add_row(
            model.name, numbers.count(model.parameters), numbers.size(model.weight_bytes),
            _percent(share), *([] if speed is None else _speed(speed)),
        )  # fmt: skip
    OUT.print(shown)
    for each in found.compared:
        OUT.print(f"\n{each.name} against {first.name}", soft_wrap=True)
        shown = new_table(
            ("task", "left"), ("metric", "left"), ("first", "right"), ("this", "right"),
            ("difference", "right"), ("95% interval", "right"), ("p", "right"),
        )  # fmt: skip
        for one in each.differences[: len(first.groups)] + _few(each.differences, first):
            shown.add_row(*_difference_row(one))
        OUT.print(shown)
    OUT.print(
        "\nIntervals are of the paired bootstrap over questions, p-values of McNemar's exact test.",
        soft_wrap=True,
    )


def _few(differences: "tuple[Difference, ...]", first: "Evaluated") -> "tuple[Difference, ...]":
    listed = {score.task for score in _listed(first)}
    return tuple(each for each in differences[len(first.groups) :] if each.name in listed)


def _listed(model: "Evaluated") -> "list[TaskScore]":
    """The tasks that are listed: not those of a large group."""
    hidden = {
        task for group in model.groups if len(group.tasks) > _MOST_TASKS for task in group.tasks
    }
    return [score for score in model.tasks if score.task not in hidden]


def _difference_row(one: "Difference") -> tuple[str, ...]:
    is_share = abs(one.first) <= 1 and abs(one.second) <= 1
    scale, digits = (100, 1) if is_share else (1, 3)

    def signed(value: float) -> str:
        return numbers.signed(scale * value, digits)

    test = one.test
    interval = "" if test is None else f"{signed(test.low)} to {signed(test.high)}"
    p_value = "" if test is None or test.p_value is None else f"{test.p_value:.2g}"
    return (
        one.name, one.metric, numbers.decimal(scale * one.first, digits),
        numbers.decimal(scale * one.second, digits), signed(one.second - one.first), interval,
        p_value,
    )  # fmt: skip


def _metric(score: "TaskScore", name: str) -> str:
    if name not in score.metrics:
        return ""
    metric = score.metrics[name]
    if score.chance is None and abs(metric.value) > 1:
        return numbers.decimal(metric.value, 3)
    error = metric.error if name == score.metric else None
    return _with_error(metric.value, error)


def _score(score: "GroupScore") -> str:
    return _with_error(score.value, score.error)


def _with_error(value: float, error: float | None) -> str:
    text = numbers.decimal(100 * value, 1)
    return text if error is None else f"{text} ±{100 * error:.1f}"


def _speed(speed: "Speed") -> tuple[str, str]:
    return (
        f"{numbers.rate(speed.median)} ± {numbers.rate(speed.spread)}", f"{speed.ratio:.2f}"
    )  # fmt: skip


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _chosen(score: "TaskScore") -> str:
    """The most frequent options, in per cent: `A 25, B 24`."""
    chosen = [pair for pair in score.predicted.items() if pair[1] > 0]
    common = sorted(chosen, key=lambda pair: -pair[1])[:5]
    return ", ".join(f"{letter} {100 * share:.0f}" for letter, share in sorted(common))


def _evaluated_json(model: "Evaluated") -> dict[str, Any]:
    """A model's scores without the answers to each question."""
    hidden = ("results", "tasks", "groups")
    return {
        **{name: each for name, each in vars(model).items() if name not in hidden},
        "tasks": [
            {name: each for name, each in vars(score).items() if name != "marks"}
            for score in model.tasks
        ],
        "groups": [vars(group) for group in model.groups],
    }


def _difference_json(one: "Difference") -> dict[str, Any]:
    return {**vars(one), "difference": one.second - one.first}
