"""The report in the terminal: the table of models and the samples, within 80 columns."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from regrow.report import tables
from regrow.report.records import RunSummary

_HEADER = 8
"""The width of a column header, in characters."""
_TEXTS_PER_TABLE = 2


def print_table(summary: RunSummary, console: Console, report: Path | None = None) -> None:
    """Print the models, the samples and, if given, the path of the report.

    Text from models and recipes is not read as markup, and its control characters are replaced.
    """
    for table in tables.model_tables(summary, _TEXTS_PER_TABLE):
        console.print(_models(table))
    if summary.measured_texts:
        note = f"{tables.legend(summary)} {tables.comparison_note(summary)}"
        console.print(Text(note.strip(), style="dim"))
    for row in summary.models:
        if row.note:
            console.print(_plain(f"{row.name}: {row.note}", "dim"))
    for stage in summary.stages:
        for warning in stage.warnings:
            console.print(_plain(f"Warning, {stage.name}: {warning}", "yellow"))
    for sample in summary.samples:
        console.print()
        console.print(_plain(sample.prompt, "bold"))
        for label, text in (("original", sample.original), ("result", sample.result)):
            if text is not None:
                console.print(Text(label, style="dim"))
                console.print(Padding(_plain(text), (0, 0, 0, 2)))
    if report is not None:
        console.print()
        console.print(_plain(f"Report: {report}"), soft_wrap=True)


def _models(models: tables.ModelTable) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    table.add_column("model", overflow="fold", max_width=16)
    if models.first:
        table.add_column("params", justify="right", no_wrap=True)
        if models.has_disk:
            table.add_column("disk", justify="right", no_wrap=True)
        if models.has_speed:
            table.add_column("tok/s", justify="right", no_wrap=True)
    for text in models.texts:
        table.add_column(_header(text, "cut"), justify="right", no_wrap=True)
        table.add_column(_header(text, "recov."), justify="right", no_wrap=True)
    for row in models.rows:
        cells = [_plain(row.name)]
        if models.first:
            cells.append(Text(f"{row.parameters}\n{row.change}".rstrip()))
            cells += [Text(row.disk)] if models.has_disk else []
            cells += [Text(row.speed)] if models.has_speed else []
        for pair in row.scores:
            cells += [_score(cell, models.has_bytes) for cell in pair]
        table.add_row(*cells, style="dim" if row.role == "comparison" else "")
    return table


def _score(cell: tables.Cell, by_byte: bool) -> Text:
    return Text(f"{cell.loss}\n{cell.bits_per_byte}".rstrip() if by_byte else cell.loss)


def _header(text: str, phase: str) -> Text:
    words = [text] if len(text) <= _HEADER else text.split(maxsplit=1)
    lines = [word if len(word) <= _HEADER else word[: _HEADER - 1] + "…" for word in words]
    return Text(_clean("\n".join([*lines, phase])))


def _plain(text: str, style: str = "") -> Text:
    return Text(_clean(text), style=style)


def _clean(text: str) -> str:
    """Replace control characters, which could control the terminal, except tab and newline."""
    return "".join(
        c if c in "\t\n" or (ord(c) >= 32 and not 127 <= ord(c) < 160) else "\ufffd" for c in text
    )
