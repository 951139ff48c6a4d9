"""The tables of `regrow eval` and `regrow compare`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.cli.output import OUT, new_table, print_json
from regrow.common import numbers
from regrow.evaluation.task_results import is_share

if TYPE_CHECKING:
    from regrow.evaluation.comparison import Comparison, Difference
    from regrow.evaluation.speed import Speed
    from regrow.evaluation.task_results import Evaluated, GroupScore, TaskScore


def print_evaluated(models: "Sequence[Evaluated]", out: Path | None, as_json: bool) -> None:
    """Print the scores of each model. `out`: where they were written."""
    from regrow.report.comparison_tables import listed_tasks

    if as_json:
        print_json([_evaluated_json(model) for model in models])
        return
    for model in models:
        size = f"{model.parameters:,} parameters, {model.precision}"
        OUT.print(f"{model.name}: {size}", soft_wrap=True)
        # The others are in the results; a table of all does not fit the terminal.
        names = dict.fromkeys(
            name for score in model.tasks for name in score.metrics if name in ("acc", score.metric)
        )
        shown = new_table(
            ("task", "left"), ("questions", "right"), ("shots", "right"),
            *((name, "right") for name in names), ("chance", "right"), ("chosen %", "left"),
        )  # fmt: skip
        for group in model.groups:
            values = [_score(group) if name == group.metric else "" for name in names]
            shown.add_row(group.group, f"{group.questions:,}", "", *values, _percent(group.chance))
        for score in listed_tasks(model):
            values = [_metric(score, name) for name in names]
            shown.add_row(
                score.task, f"{score.questions:,}", str(score.shots), *values,
                _percent(score.chance), _chosen(score),
            )  # fmt: skip
        OUT.print(shown)
        OUT.print()
    if out is not None:
        OUT.print(f"written  {out}", soft_wrap=True)


def print_comparison(found: "Comparison", page: Path | None, as_json: bool) -> None:
    """Print sizes and speeds, then the differences of each model from the first one.

    `page`: the file of the page.
    """
    from regrow.report.comparison_tables import (
        difference_rows,
        generation_note,
        generation_rows,
        model_rows,
        unknown_quality,
    )

    first, *_ = found.models
    if as_json:
        print_json(
            {
                "models": [_evaluated_json(model) for model in found.models],
                "compared": [
                    {
                        "name": each.name,
                        "kept": each.kept and asdict(each.kept),
                        "differences": [_difference_json(one) for one in each.differences],
                    }
                    for each in found.compared
                ],
                "speeds": found.speeds and [_speed_json(each) for each in found.speeds],
            }
        )
        return
    _print_rows(model_rows(found), left=1)
    if (why := unknown_quality(found)) is not None:
        OUT.print(why)
    if rows := generation_rows(found):
        OUT.print()
        _print_rows(rows, left=1)
        OUT.print(generation_note(found))
    for each in found.compared if first.tasks else ():
        OUT.print(f"\n{each.name} against {first.name}", soft_wrap=True)
        _print_rows(difference_rows(found, each), left=2)
    if first.tasks:
        OUT.print(
            "\nIntervals are of the paired bootstrap over questions, p-values of McNemar's exact "
            "test."
        )
    if page is not None:
        OUT.print(f"page  {page}", soft_wrap=True)


def _print_rows(rows: Sequence[tuple[str, ...]], left: int) -> None:
    """Print a table; the first row names its columns. `left`: columns of text."""
    head, *others = rows
    shown = new_table(*((name, "left" if at < left else "right") for at, name in enumerate(head)))
    for row in others:
        shown.add_row(*row)
    OUT.print(shown)


def _metric(score: "TaskScore", name: str) -> str:
    if name not in score.metrics:
        return ""
    metric = score.metrics[name]
    if not is_share(name):
        return numbers.decimal(metric.value, 3)
    error = metric.error if name == score.metric else None
    return _with_error(metric.value, error)


def _score(score: "GroupScore") -> str:
    if not is_share(score.metric):
        return numbers.decimal(score.value, 3)
    return _with_error(score.value, score.error)


def _with_error(value: float, error: float | None) -> str:
    text = numbers.decimal(100 * value, 1)
    return text if error is None else f"{text} ±{100 * error:.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _chosen(score: "TaskScore") -> str:
    """The most frequent options, in per cent: `A 25 B 24`."""
    chosen = [pair for pair in score.predicted.items() if pair[1] > 0]
    common = sorted(chosen, key=lambda pair: -pair[1])[:5]
    return " ".join(f"{letter} {100 * share:.0f}" for letter, share in sorted(common))


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


def _speed_json(speed: "Speed") -> dict[str, Any]:
    """The rounds of a model, and what the table shows of them."""
    shown = ("median", "spread", "ratio", "first_token", "first_token_spread")
    return {**vars(speed), **{name: getattr(speed, name) for name in shown}}


def _difference_json(one: "Difference") -> dict[str, Any]:
    return {**vars(one), "difference": one.second - one.first}
