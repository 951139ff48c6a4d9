"""The report of a run as one self-contained HTML page: no network, no scripts."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from regrow.common import numbers
from regrow.common.files import write_atomically
from regrow.report import charts, kept_chart, outcomes, size_charts, tables
from regrow.report.lost_text import MARK, lost_lines
from regrow.report.records import (
    KeptAxis,
    MixtureRow,
    ModelRow,
    RunSummary,
    Score,
    StageRow,
    Unit,
)
from regrow.report.svg import Svg
from regrow.report.templates import render
from regrow.report.verdict import verdict
from regrow.surgery.refitting.words import refit_words

_PARTS = ("embedding", "attention", "ffn", "norms", "other", "head")
_TEXTS_PER_TABLE = 2


@dataclass(frozen=True)
class Figure:
    """One number at the top of the page, before and after; `way`: whether it got better."""

    label: str
    before: str
    after: str
    change: str
    way: tables.Way = ""


@dataclass(frozen=True)
class Kept:
    """What was kept along one axis: boxes for layers, a strip for any other axis.

    `in_cell`: how many indices a cell of the strip stands for.
    """

    axis: str
    before: str
    after: str
    description: str
    layers: tuple[bool, ...]
    strip: Svg | None
    in_cell: int = 1


@dataclass(frozen=True)
class Mixture:
    """The shares of denoisers or domains over time, and the losses that they followed.

    `of`: `denoiser` or `domain`.
    """

    of: str
    shares: Svg | None
    gaps: Svg | None


@dataclass(frozen=True)
class Stage:
    """One stage with its charts."""

    row: StageRow
    number: int
    kept: tuple[Kept, ...]
    refit: str
    refit_chart: Svg | None
    heldout: Svg | None
    curve: Svg | None
    mixtures: tuple[Mixture, ...]
    outcome: tuple[outcomes.Part, ...]


def render_page(summary: RunSummary) -> str:
    """The page as HTML. Sections without data are left out. All text is escaped."""
    original, result = summary.original, summary.result
    unit = tables.unit_of(summary)
    sizes = tables.size_rows(summary)
    return render(
        "page.html",
        run=summary,
        number=numbers,
        original=original,
        result=result,
        change=_change(original, result),
        verdict=verdict(summary),
        figures=[*_quality(summary), *_figures(original, result, summary.measured_texts)],
        done=sum(stage.done for stage in summary.stages),
        question=summary.samples[0].prompt if summary.samples else "What is a river?",
        quoted=shlex.quote,
        sizes=sizes,
        has_disk=any(row.disk for row in sizes),
        speed_place=tables.speed_place(summary),
        unit=unit,
        losses=list(tables.loss_tables(summary, unit, _TEXTS_PER_TABLE)),
        nats=_nats(summary, unit),
        legend=tables.legend(summary, unit),
        nats_legend=tables.legend(summary, "nats per token"),
        note=tables.comparison_note(summary),
        lost=list(lost_lines(summary)),
        worse=[
            (stage.name, line)
            for stage in summary.stages
            if stage.outcome
            for line in outcomes.worse_lines(stage.outcome, outcomes.trained_path(stage))
        ],
        has_worse=any(
            stage.outcome.kept == "trained" and stage.outcome.worse
            for stage in summary.stages
            if stage.outcome
        ),
        warnings=[(stage.name, text) for stage in summary.stages for text in stage.warnings],
        journeys=list(_journeys(summary)),
        parts=_parts(original, result),
        staircase=_staircase(summary),
        stages=[_stage(number, row) for number, row in enumerate(summary.stages, 1)],
        has_paths=any(row.path for row in summary.models),
        samples=[(each.prompt, tables.answers(summary, each)) for each in summary.samples],
        has_stopped=any(
            text.endswith("…") for sample in summary.samples for text in sample.answers.values()
        ),
        evaluation=tables.evaluation_rows(summary),
        times=_times(summary.stages),
        started=f"{summary.started:%Y-%m-%d %H:%M %Z}".strip(),
    )


def _nats(summary: RunSummary, unit: Unit) -> list[tables.LossTable]:
    """The tables of losses per token, if the page shows other losses first."""
    if unit == "nats per token":
        return []
    return list(tables.loss_tables(summary, "nats per token", 2 * _TEXTS_PER_TABLE))


def write_page(summary: RunSummary, path: Path) -> None:
    """Write the page to `path`, completely or not at all."""
    write_atomically(path, render_page(summary).encode())


def _change(original: ModelRow | None, result: ModelRow | None) -> str:
    if original is None or result is None:
        return ""
    return numbers.change(original.parameters, result.parameters)


def _figures(
    original: ModelRow | None, result: ModelRow | None, texts: Iterable[str]
) -> list[Figure]:
    if original is None or result is None:
        return []
    found = []
    for text in texts:
        last = result.after_recovery or result.after_cut
        scores = original.after_recovery.get(text, Score()), last.get(text, Score())
        before, after = (score.bits_per_byte for score in scores)
        if before is not None and after is not None:
            shown = numbers.decimal(before, 3), numbers.decimal(after, 3)
            label = f"bits per byte, {text}"
            comparable = all(score.is_comparable for score in scores)
            if not comparable:
                label += f" (not comparable{MARK})"
            way = tables.way(before, after) if comparable else ""
            found.append(Figure(label, *shown, numbers.change(before, after, 1), way))
    if original.bytes_on_disk is not None and result.bytes_on_disk is not None:
        a, b = original.bytes_on_disk, result.bytes_on_disk
        change = numbers.change(a, b)
        found.append(Figure("on disk", numbers.size(a), numbers.size(b), change, tables.way(a, b)))
    if original.speed is not None and result.speed is not None:
        x, y = original.speed.median, result.speed.median
        ratio = result.speed.ratio
        label = "generated tokens per second"
        shown = numbers.rate(x), numbers.rate(y)
        found.append(Figure(label, *shown, f"{ratio:.1f}×", tables.way(1, ratio, "more")))  # noqa: RUF001
    return found


def _quality(summary: RunSummary) -> list[Figure]:
    """The share of the original's scores on tasks that is left, above those of random guesses."""
    kept = summary.quality_kept
    if kept is None:
        return []
    tasks = dict.fromkeys(row.task for row in summary.evaluation)
    label = f"quality kept, above chance ({', '.join([*tasks][:3])}{', ...' * (len(tasks) > 3)})"
    between = ""
    if kept.interval is not None:
        between = f"95% interval: {numbers.share_interval(kept.interval)}"
    return [Figure(label, "100%", f"{kept.share:.1%}", between)]


def _journeys(summary: RunSummary) -> Iterable[tuple[str, Svg]]:
    stages = [row for row in summary.models if row.role == "stage"]
    others = [row for row in summary.models if row.role == "comparison"]

    def score(row: ModelRow | None, text: str, cut: bool = False) -> Score:
        scores = {} if row is None else row.after_cut if cut else row.after_recovery
        return scores.get(text, Score())

    for text in summary.measured_texts:
        by_byte = any(
            score(row, text, cut).bits_per_byte is not None
            for row in summary.models
            for cut in (True, False)
        )

        def value(
            row: ModelRow | None, text: str, cut: bool = False, by_byte: bool = by_byte
        ) -> float | None:
            found = score(row, text, cut)
            return found.bits_per_byte if by_byte else found.loss

        unit = "bits per byte" if by_byte else "loss, nats per token"
        steps = [
            charts.Step(row.name, value(row, text, cut=True), value(row, text)) for row in stages
        ]
        svg = charts.journey(
            f"{text}: {unit} after each cut and each recovery",
            value(summary.original, text),
            steps,
            [(row.name, value(row, text)) for row in others],
        )
        if svg is not None:
            yield f"{text}, {unit}", svg


def _parts(original: ModelRow | None, result: ModelRow | None) -> Svg | None:
    if original is None or result is None:
        return None
    before, after = original.parameters_by_part, result.parameters_by_part
    if not before or not after:
        return None
    names = _part_names([original, result])
    rows = [(name, before.get(name, 0), after.get(name, 0)) for name in names]
    return size_charts.bars("Parameters by part, before and after", rows)


def _staircase(summary: RunSummary) -> Svg | None:
    chain = [row for row in summary.models if row.role != "comparison" and row.parameters_by_part]
    if len(chain) < 2:
        return None
    rows = [("original" if row.role == "original" else row.name, row.parameters_by_part)
            for row in chain]  # fmt: skip
    return size_charts.staircase("Parameters after each stage", _part_names(chain), rows)


def _part_names(rows: Iterable[ModelRow]) -> list[str]:
    """The parts in which any of the models has parameters, from embedding to head."""
    found = {name for row in rows for name, size in row.parameters_by_part.items() if size}
    return [name for name in _PARTS if name in found] + sorted(found.difference(_PARTS))


def _stage(number: int, row: StageRow) -> Stage:
    training = charts.Line("", [(float(x), y) for x, y in row.curve], "smooth")
    texts = row.heldout.texts if row.heldout else {}
    heldout = [
        charts.Line(text, [(float(x), y) for x, y in points]) for text, points in texts.items()
    ]
    return Stage(
        row=row,
        number=number,
        kept=tuple(_kept(axis) for axis in row.kept),
        refit=refit_words(row.refitted, row.layers_trained),
        refit_chart=_refit_chart(row),
        heldout=charts.curves(f"Held-out loss during the recovery of {row.name}", heldout),
        curve=charts.curves(f"Training loss of {row.name}", [training]),
        mixtures=tuple(Mixture(each.of, *mixture_charts(each, row.name)) for each in row.mixtures),
        outcome=tuple(outcomes.parts(row.outcome)) if row.outcome else (),
    )


def _refit_chart(row: StageRow) -> Svg | None:
    """The error of the residual stream, in percent, behind each refitted matrix or layer."""

    def percent(which: int) -> list[charts.Point]:
        return [(float(at), 100 * pair[which]) for at, pair in enumerate(row.refitted, start=1)]

    lines = [
        charts.Line("carved", percent(0), "grey"),
        charts.Line("refitted", percent(1), "plain"),
    ]
    title = f"Error of the residual stream in {row.name}"
    return charts.curves(title, lines, "matrices or layers, first to last")


def mixture_charts(row: MixtureRow, stage: str) -> tuple[Svg | None, Svg | None]:
    """Two charts: the shares over tokens, and each component's loss minus its reference."""
    panels = [
        charts.Panel(
            name, reference, [(float(x), losses[name] - reference) for x, losses in row.losses]
        )
        for name, reference in row.references.items()
    ]
    shares = [(float(x), each) for x, each in row.shares]
    return (
        charts.mixture(f"Mixture of {row.of}s during {stage}", shares),
        charts.gaps(f"Loss of each {row.of} beyond its reference during {stage}", panels),
    )


def _kept(axis: KeptAxis) -> Kept:
    fewest, most = axis.sizes
    after = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    is_layers = axis.axis.rsplit(".", 1)[-1] == "layer" and axis.kept is not None
    if is_layers:
        chosen = set(axis.kept or ())
        layers = tuple(index in chosen for index in range(axis.before))
        dropped = numbers.ranges(index for index in range(axis.before) if index not in chosen)
        description = (
            f"Kept {numbers.ranges(axis.kept or ()) or 'none'}; dropped {dropped or 'none'}."
        )
        return Kept(axis.axis, f"{axis.before:,}", after, description, layers, None)
    labels = [str(number) for number in axis.layer_numbers] if axis.kept is None else [""]
    strip = kept_chart.strip(
        f"Kept along {axis.axis}", axis.before, list(zip(labels, axis.rows, strict=True)),
        _index_name(axis.axis),
    )  # fmt: skip
    description = "in each layer" if axis.kept is None else ""
    in_cell = -(-axis.before // kept_chart.MOST_CELLS)
    return Kept(axis.axis, f"{axis.before:,}", after, description, (), strip, in_cell)


def _index_name(axis: str) -> str:
    """What an index of an axis counts, before the cut."""
    kind = axis.rsplit(".", 1)[-1]
    names = {
        "vocab": "token id", "ffn": "neuron", "hidden": "channel", "head": "head",
        "expert": "expert",
    }  # fmt: skip
    return f"{names.get(kind, 'index')}, before the cut"


def _times(stages: Iterable[StageRow]) -> list[tuple[str, list[str]]]:
    rows = []
    for stage in stages:
        seconds = stage.seconds
        phases = [seconds.score, seconds.refit, seconds.carve, seconds.recover, seconds.measure]
        if any(value is not None for value in phases):
            cells = [numbers.ABSENT if v is None else numbers.duration(v) for v in phases]
            rows.append((stage.name, cells))
    return rows
