"""Tables 1 and 3, and figures 6 and 7: stages of cuts and recoveries, beside all cuts at once."""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from common import say, write_figure

from openba_v2.recipes import WIDTH, Recipe, depth_at_once, run
from regrow.pipeline.summary import summarise
from regrow.report.page import mixture_charts
from regrow.report.records import ModelRow, RunSummary, Score

_COMPARED = ("at-once", "control")


def small_openba(recipe: Recipe, out: Path, figures: Path | None) -> dict[str, Any]:
    """The recipe in stages, with all cuts at once, and with all cuts of layers at once.

    The figures of the mixtures are written to `figures`.
    """
    staged = run(recipe, out / "staged", compare=_COMPARED)
    depth = run(depth_at_once(recipe), out / "depth-at-once")
    found = of_run(staged)
    (layers,) = (row for row in depth.models if row.name == "depth")
    found["models"].append({**_row(layers, depth), "name": "layers at once"})
    if figures is not None:
        _draw(staged, figures)
    return found


def finished_run(directory: Path) -> dict[str, Any]:
    """What a run of any recipe found, such as that of the quickstart."""
    return of_run(summarise(directory))


def of_run(summary: RunSummary) -> dict[str, Any]:
    """The losses of each model of a run, and the mixtures of its trainings."""
    return {
        "texts": list(summary.measured_texts),
        "models": [_row(row, summary) for row in summary.models],
        "mixtures": dict(_mixtures(summary)),
    }


def _row(row: ModelRow, summary: RunSummary) -> dict[str, Any]:
    curve = [
        stage.curve[-1][0] for stage in summary.stages if stage.name == row.name and stage.curve
    ]
    return {
        "name": row.name,
        "parameters": row.parameters,
        "vocabulary": row.vocabulary,
        "trained_tokens": sum(curve),
        "cut": _mean(row.after_cut),
        "recovered": _mean(row.after_recovery),
    }


def _mean(scores: dict[str, Score]) -> dict[str, float] | None:
    """Means over the held-out texts: nats per token, and bits per byte; None if not measured."""
    if not scores:
        return None
    return {
        "nats": fmean(_number(score.loss) for score in scores.values()),
        "bits": fmean(_number(score.bits_per_byte) for score in scores.values()),
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _mixtures(summary: RunSummary) -> Iterator[tuple[str, Any]]:
    for stage in summary.stages:
        for mixture in stage.mixtures:
            shares = [each for _, each in mixture.shares]
            yield (
                stage.name,
                {
                    "first": shares[0],
                    "last": shares[-1],
                    "largest": {name: max(each[name] for each in shares) for name in shares[-1]},
                },
            )


def _draw(staged: RunSummary, figures: Path) -> None:
    """Write figures 6 and 7 of the recovery of the widths, in which the shares move most."""
    for stage in (stage for stage in staged.stages if stage.name == WIDTH):
        for mixture in stage.mixtures:
            shares, losses = mixture_charts(mixture, stage.name)
            for name, svg in (("losses", losses), ("shares", shares)):
                if svg is not None:
                    path = figures / f"openba-{stage.name}-{name}.svg"
                    write_figure(svg, path)
                    say(f"{path}")
