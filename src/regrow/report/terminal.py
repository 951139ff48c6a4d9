"""The report in the terminal: tables of models, and their answers, within 80 columns."""

from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regrow.report import tables
from regrow.report.lost_text import MARK, lost_lines
from regrow.report.outcomes import trained_path, worse_lines
from regrow.report.records import RunSummary

_HEADER = 8
"""The width of a column header, in characters."""
_TEXTS_PER_TABLE = 2
_MODEL_NAME = 14
"""The most characters of a model's name beside its answer or its path."""
_ANSWER_LINES = 3
"""The most lines of a prompt or an answer."""
NO_ANSWER = "(nothing)"


def print_table(summary: RunSummary, console: Console, report: Path | None = None) -> None:
    """Print the models, their answers and, if the path of the report is given, where they are.

    Text from models and recipes is not read as markup, and its control characters are replaced.
    """
    for table in tables.model_tables(summary, _TEXTS_PER_TABLE):
        console.print(_models(table))
    if summary.measured_texts:
        note = f"{tables.legend(summary)} {tables.comparison_note(summary)}"
        console.print(Text(note.strip(), style="dim"))
    for line in lost_lines(summary):
        console.print(_plain(line, "yellow" if f"({MARK})" in line else "dim"))
    for row in summary.models:
        if row.note and row.role != "stage":  # a stage has more to say below
            console.print(_plain(f"{row.name}: {row.note}", "dim"))
    directory = Path() if report is None else report.parent
    for stage in summary.stages:
        trained = str(directory / trained_path(stage))
        for line in worse_lines(stage.outcome, trained) if stage.outcome else ():
            console.print(_plain(f"{stage.name}: {line}", "red"))
        for warning in stage.warnings:
            console.print(_plain(f"Warning, {stage.name}: {warning}", "yellow"))
    _print_evaluation(summary, console)
    _print_answers(summary, console)
    if report is not None:
        console.print()
        _print_paths(summary, console, report.parent)
        console.print(_plain(f"Report: {report}"), soft_wrap=True)


def _print_evaluation(summary: RunSummary, console: Console) -> None:
    """Print the scores on tasks, before and after."""
    if not summary.evaluation:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("task", "metric", "before", "after", "difference"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right")
    for cells in tables.evaluation_rows(summary):
        table.add_row(*map(_plain, cells))
    console.print()
    console.print(table)
    if summary.quality_kept is not None:
        share = f"{summary.quality_kept:.1%} of the original's scores above chance"
        console.print(Text(f"quality kept: {share}", style="bold"))


def _print_answers(summary: RunSummary, console: Console) -> None:
    """Print each prompt, and below it the answer of each model, in a few lines."""
    any_is_cut = False
    for sample in summary.samples:
        console.print()
        prompt, is_cut = _first_lines(sample.prompt, console, console.width)
        any_is_cut |= is_cut
        prompt.stylize("bold")
        console.print(prompt)
        found = tables.answers(summary, sample)
        names = [_short_name(answer.name) for answer in found]
        sizes = [answer.parameters for answer in found]
        # Two spaces lie before, between and after the two columns.
        beside = 6 + max(map(cell_len, names), default=0) + max(map(len, sizes), default=0)
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column()
        for name, answer in zip(names, found, strict=True):
            text, is_cut = _first_lines(answer.text or NO_ANSWER, console, console.width - beside)
            any_is_cut |= is_cut
            table.add_row(
                _plain(f"  {name}", "dim"), Text(answer.parameters, style="dim"), text,
                style="" if answer.text else "dim",
            )  # fmt: skip
        console.print(table)
    if any_is_cut:
        console.print()
        words = f"Texts with … are cut to {_ANSWER_LINES} lines; the report has all of them."
        console.print(Text(words, style="dim"))


def _print_paths(summary: RunSummary, console: Console, directory: Path) -> None:
    """Print the directory of each model that the run keeps in `directory`."""
    kept = [row for row in summary.models if row.path]
    if not kept:
        return
    names = [_short_name(row.name) for row in kept]
    width = max(map(cell_len, names))
    console.print(Text("Models"))
    for name, row in zip(names, kept, strict=True):
        space = " " * (width - cell_len(name))
        line = f"  {name}{space}  {directory / row.path}"
        console.print(_plain(line), soft_wrap=True)


def _first_lines(text: str, console: Console, width: int) -> tuple[Text, bool]:
    """The first lines of a text, and whether more were left out.

    Every run of white space becomes one space, so that the lines hold as much as they can.
    """
    lines = _plain(" ".join(text.split())).wrap(console, width)
    kept = Text("\n").join(lines[:_ANSWER_LINES])
    if len(lines) <= _ANSWER_LINES:
        return kept, False
    last = lines[_ANSWER_LINES - 1]
    last.rstrip()
    last.truncate(width - 2)
    return Text("\n").join([*lines[: _ANSWER_LINES - 1], last + Text(" …")]), True


def _short_name(name: str) -> str:
    return name if len(name) <= _MODEL_NAME else name[: _MODEL_NAME - 1] + "…"


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
    text = f"{cell.loss}\n{cell.bits_per_byte}".rstrip() if by_byte else cell.loss
    return Text(text, style="red" if cell.worse else "")


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
