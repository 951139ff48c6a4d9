"""The tables of the report as text, the same on the page and in the terminal."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from regrow.common import numbers
from regrow.report.lost_text import MARK
from regrow.report.records import ModelRow, RunSummary, Sample, Score


@dataclass(frozen=True)
class Cell:
    """One text's score: loss in nats per token, and bits per byte, marked if not comparable.

    `worse`: whether the recovery made it worse.
    """

    loss: str
    bits_per_byte: str
    worse: bool = False


@dataclass(frozen=True)
class Row:
    """One model; `scores` has the scores after cut and after recovery, for each text."""

    name: str
    note: str
    path: str
    role: str
    parameters: str
    change: str
    disk: str
    speed: str
    scores: tuple[tuple[Cell, Cell], ...]


@dataclass(frozen=True)
class ModelTable:
    """All models with some of the texts; only the first table shows sizes and speed."""

    texts: tuple[str, ...]
    first: bool
    has_disk: bool
    has_speed: bool
    has_bytes: bool
    rows: tuple[Row, ...]


def model_tables(summary: RunSummary, texts_per_table: int) -> Iterator[ModelTable]:
    """The sizes and scores of all models, in tables with at most `texts_per_table` texts."""
    if not summary.models:
        return
    names = summary.measured_texts
    for start in range(0, max(1, len(names)), texts_per_table):
        texts = names[start : start + texts_per_table]
        yield ModelTable(
            texts=texts,
            first=start == 0,
            has_disk=any(row.bytes_on_disk is not None for row in summary.models),
            has_speed=any(row.generation_tokens_per_second is not None for row in summary.models),
            has_bytes=any(score.bits_per_byte is not None for score in summary.scores),
            rows=tuple(_row(row, summary, texts) for row in summary.models),
        )


def _row(row: ModelRow, summary: RunSummary, texts: tuple[str, ...]) -> Row:
    original = summary.original
    smaller = original is not None and row is not original
    outcome = next((stage.outcome for stage in summary.stages if stage.name == row.name), None)
    worse = outcome.worse if outcome and outcome.kept == "trained" else ()
    return Row(
        name=row.name,
        note=row.note,
        path=row.path,
        role=row.role,
        parameters=numbers.count(row.parameters),
        change=numbers.change(original.parameters, row.parameters) if smaller and original else "",
        disk=numbers.ABSENT if row.bytes_on_disk is None else numbers.size(row.bytes_on_disk),
        speed=numbers.rate(row.generation_tokens_per_second),
        scores=tuple(_cells(row, text, text in worse) for text in texts),
    )


def _cells(row: ModelRow, text: str, worse: bool) -> tuple[Cell, Cell]:
    """The cells after cut and after recovery; blank, not a dash, for a model that was not cut.

    `worse`: whether the recovery made the model worse.
    """
    cut = _cell(row.after_cut.get(text)) if row.role == "stage" or row.after_cut else Cell("", "")
    return cut, _cell(row.after_recovery.get(text), worse=worse)


def _cell(score: Score | None, *, worse: bool = False) -> Cell:
    score = score or Score()
    mark = "" if score.bits_per_byte is None or score.is_comparable else MARK
    return Cell(numbers.decimal(score.loss), numbers.decimal(score.bits_per_byte, 3) + mark, worse)


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


def legend(summary: RunSummary) -> str:
    """A sentence on the numbers below the name of a text."""
    by_byte = any(score.bits_per_byte is not None for score in summary.scores)
    if summary.predicts == "what is taken out":
        return (
            "Loss, nats per token of what is taken out of the text (spans of 3 tokens, 15% of it)"
            + ("; then bits per byte of the 64 characters after 192." if by_byte else ".")
        )
    return "Loss, nats per token" + ("; then bits per byte." if by_byte else ".")


def comparison_note(summary: RunSummary) -> str:
    """A sentence on which scores can be compared; empty if all vocabularies have one size."""
    sizes = summary.vocabularies
    if len(sizes) < 2:
        return ""
    changed = f"{sizes[0]:,} to {sizes[-1]:,} tokens"
    with_bits = [score.bits_per_byte is not None for score in summary.scores]
    bits = (
        "; bits per byte can." if all(with_bits) else "; bits per byte can, where they are given."
    )
    return (
        f"The vocabulary changed ({changed}), so losses per token cannot be compared between models"
        + (bits if any(with_bits) else " on either side of that.")
    )


def evaluation_rows(summary: RunSummary) -> list[tuple[str, str, str, str, str]]:
    """Task, metric, before, after and the difference, with its 95% interval if it is known."""
    rows = []
    for row in summary.evaluation:
        known = [value for value in (row.before, row.after) if value is not None]
        digits = 3 if all(abs(value) <= 1 for value in known) else 1
        difference = ""
        if row.before is not None and row.after is not None and all(map(math.isfinite, known)):
            difference = numbers.signed(row.after - row.before, digits)
            if row.low is not None and row.high is not None:
                low, high = (numbers.signed(value, digits) for value in (row.low, row.high))
                difference += f" ({low} to {high})"
        before, after = (numbers.decimal(value, digits) for value in (row.before, row.after))
        rows.append((row.task, row.metric, before, after, difference))
    return rows
