"""The tables of the report as text, the same on the page and in the terminal."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from regrow.common import numbers
from regrow.report.lost_text import MARK
from regrow.report.records import ModelRow, Outcome, RunSummary, Sample, Score, Unit
from regrow.report.verdict import loss_ratio

Way = Literal["", "better", "worse"]
"""Whether a number is better or worse than what it is compared with."""


@dataclass(frozen=True)
class Cell:
    """One number of a table."""

    text: str
    way: Way = ""


@dataclass(frozen=True)
class SizeRow:
    """The size and speed of one model. What was not measured is empty.

    Attributes:
        left: Its parameters, as a share of the original's.
        speed: Generated tokens per second: the median over the rounds, and the spread.
        times: How many times as fast as the original it is.
    """

    name: str
    note: str
    path: str
    role: str
    parameters: str
    left: str
    disk: str
    speed: str
    times: str


@dataclass(frozen=True)
class Losses:
    """The losses of one model on one text.

    Attributes:
        after_cut: Of the model that was just cut.
        at_end: Of the model that a stage leaves, after its recovery if it has one.
        change: From the loss of the original to the last of these.
    """

    after_cut: Cell
    at_end: Cell
    change: Cell


@dataclass(frozen=True)
class LossRow:
    """The losses of one model, for each text of the table."""

    name: str
    role: str
    losses: tuple[Losses, ...]


@dataclass(frozen=True)
class LossTable:
    """The losses of all models on some of the texts, in `unit`."""

    unit: Unit
    texts: tuple[str, ...]
    rows: tuple[LossRow, ...]


def size_rows(summary: RunSummary) -> list[SizeRow]:
    """The sizes and speeds of all models."""
    original = summary.original
    whole = original.parameters if original is not None else 0
    return [
        SizeRow(
            name=row.name,
            note=row.note,
            path=row.path,
            role=row.role,
            parameters=numbers.count(row.parameters),
            left=f"{row.parameters / whole:.0%}" if whole else "",
            disk="" if row.bytes_on_disk is None else numbers.size(row.bytes_on_disk),
            speed=_speed(row),
            times=f"{row.speed.ratio:.2f}×" if row.speed else "",  # noqa: RUF001
        )
        for row in summary.models
    ]


def _speed(row: ModelRow) -> str:
    if row.speed is None:
        return ""
    return f"{numbers.rate(row.speed.median)} ± {numbers.rate(row.speed.spread)}"


def speed_place(summary: RunSummary) -> str:
    """Where the speeds were measured: `AMD EPYC, 2 threads, in float32`; empty if nowhere."""
    measured = (row.speed for row in summary.models if row.speed is not None)
    return next((f"{speed.device}, in {speed.dtype}" for speed in measured), "")


def unit_of(summary: RunSummary) -> Unit:
    """The unit in which losses are shown first: bits per byte, if any were measured."""
    by_byte = any(score.bits_per_byte is not None for score in summary.scores)
    return "bits per byte" if by_byte else "nats per token"


def loss_tables(summary: RunSummary, unit: Unit, texts_per_table: int) -> Iterator[LossTable]:
    """The losses of all models, in tables with at most `texts_per_table` texts."""
    names = summary.measured_texts
    outcomes = {stage.name: stage.outcome for stage in summary.stages}
    for start in range(0, len(names), texts_per_table):
        texts = names[start : start + texts_per_table]
        rows = tuple(
            LossRow(
                row.name,
                row.role,
                tuple(_losses(summary, row, text, unit, outcomes.get(row.name)) for text in texts),
            )
            for row in summary.models
        )
        yield LossTable(unit, texts, rows)


def _losses(
    summary: RunSummary, row: ModelRow, text: str, unit: Unit, outcome: Outcome | None
) -> Losses:
    cut = row.after_cut.get(text)
    at_end = row.after_recovery.get(text)
    if at_end is None and any(stage.done for stage in summary.stages if stage.name == row.name):
        at_end = cut  # a stage without a recovery
    original, change = summary.original, Cell("")
    if unit == "bits per byte" and original is not None and row is not original:
        ratio = loss_ratio(original, row, text)
        if ratio is not None:
            change = Cell(numbers.change(1.0, ratio, 1), way(1.0, ratio))
    recovered: Way = ""
    if outcome is not None and outcome.kept == "trained":
        recovered = "worse" if text in outcome.worse else "better" if text in outcome.better else ""
    is_cut = row.role == "stage" or bool(row.after_cut)
    return Losses(
        Cell(loss_text(cut, unit) if is_cut else ""),
        Cell(loss_text(at_end, unit), recovered),
        change,
    )


def way(before: float, after: float, good: Literal["less", "more"] = "less") -> Way:
    """Whether a number got better or worse, by more than rounding to 3 decimals."""
    if round(after, 3) == round(before, 3):
        return ""
    return "better" if (after < before) == (good == "less") else "worse"


def loss_text(score: Score | None, unit: Unit) -> str:
    """A loss as text; bits per byte are marked if they cannot be compared."""
    score = score or Score()
    if unit == "nats per token":
        return numbers.decimal(score.loss)
    mark = "" if score.bits_per_byte is None or score.is_comparable else MARK
    return numbers.decimal(score.bits_per_byte, 3) + mark


@dataclass(frozen=True)
class Answer:
    """The answer of one model to a prompt; `text` is empty if the model wrote nothing."""

    name: str
    role: str
    parameters: str
    text: str


def answers(summary: RunSummary, sample: Sample) -> list[Answer]:
    """The answers to one prompt in the order of the models; models without one are left out."""
    return [
        Answer(row.name, row.role, numbers.count(row.parameters), sample.answers[row.name].strip())
        for row in summary.models
        if row.name in sample.answers
    ]


def legend(summary: RunSummary, unit: Unit) -> str:
    """What the losses of this unit are over; empty if that goes without saying."""
    sentences = []
    if "what is taken out" in summary.predicts:
        sentences.append(
            "Bits per byte are of the 64 characters after 192."
            if unit == "bits per byte"
            else "Losses are over what is taken out of the text (spans of 3 tokens, 15% of it)."
        )
    if summary.predicts == ("answers",):
        sentences.append("Losses are over the answers of conversations alone.")
    elif "answers" in summary.predicts:
        sentences.append("On conversations, losses are over the answers alone.")
    return " ".join(sentences)


def comparison_note(summary: RunSummary) -> str:
    """A sentence on why losses per token differ; empty if all vocabularies have one size."""
    sizes = summary.vocabularies
    if len(sizes) < 2:
        return ""
    return (
        f"The vocabulary changed ({sizes[0]:,} to {sizes[-1]:,} tokens), so losses per token "
        "cannot be compared between models on either side of that."
    )


def evaluation_rows(summary: RunSummary) -> list[tuple[str, str, str, str, str]]:
    """Task, metric, before, after and the difference, with its 95% interval if it is known."""
    rows = []
    for row in summary.evaluation:
        known = [value for value in (row.before, row.after) if value is not None]
        digits = 3 if all(abs(value) < 10 for value in known) else 1
        difference = ""
        if row.before is not None and row.after is not None and all(map(math.isfinite, known)):
            difference = numbers.signed(row.after - row.before, digits)
            if row.low is not None and row.high is not None:
                low, high = (numbers.signed(value, digits) for value in (row.low, row.high))
                difference += f" ({low} to {high})"
        before, after = (numbers.decimal(value, digits) for value in (row.before, row.after))
        rows.append((row.task, row.metric, before, after, difference))
    return rows
