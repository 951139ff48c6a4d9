"""The report in the terminal: tables of models, and their answers, within 80 columns."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regrow.common import numbers
from regrow.report import tables
from regrow.report.lost_text import MARK, lost_lines
from regrow.report.outcomes import trained_path, worse_lines
from regrow.report.records import RunSummary, Unit
from regrow.report.verdict import verdict

_NAME = 24
"""The most characters of a model's name in a line of a table."""
_STYLES = {"": "", "better": "green", "worse": "red"}
_MODEL_NAME = 14
"""The most characters of a model's name beside its answer or its path."""
_ANSWER_LINES = 3
"""The most lines of a prompt or an answer."""
NO_ANSWER = "(nothing)"


def print_table(
    summary: RunSummary,
    console: Console,
    report: Path | None = None,
    *,
    nats: bool = False,
    program: str = "regrow",
) -> None:
    """Print the models, their answers and, if the path of the report is given, where they are.

    Text from models and recipes is not read as markup, and its control characters are replaced.

    `nats`: also print the losses in nats per token. `program`: how regrow is called in a shell.
    """
    if summary.models:
        console.print()
        console.print(_sizes(tables.size_rows(summary)))
    if place := tables.speed_place(summary):
        console.print(_plain(f"tokens/s are measured on {place}", "dim"))
    first = tables.unit_of(summary)
    units: tuple[Unit, ...] = ("bits per byte", "nats per token")
    shown = units if nats and first == units[0] else (first,)
    for unit in shown:
        for table in tables.loss_tables(summary, unit, texts_per_table=1):
            console.print()
            console.print(_plain(f"{table.texts[0]}, {unit}", "bold"))
            console.print(_losses(table))
    for note in _notes(summary, shown):
        console.print(Text(note, style="dim"))
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
        _print_paths(summary, console, report, program)
    if sentence := verdict(summary):
        console.print()
        console.print(_plain(sentence, "bold"))


def _notes(summary: RunSummary, units: Iterable[Unit]) -> Iterator[str]:
    if not summary.measured_texts:
        return
    yield from filter(None, (tables.legend(summary, unit) for unit in units))
    if "nats per token" in units and (note := tables.comparison_note(summary)):
        yield note


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
        kept = summary.quality_kept
        share = f"{kept.share:.1%} of the original's scores above chance"
        if kept.interval is not None:
            share += f" (95% interval: {numbers.share_interval(kept.interval)})"
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
            text, is_cut = _first_lines(
                answer.text or NO_ANSWER, console, max(1, console.width - beside)
            )
            any_is_cut |= is_cut
            table.add_row(
                _plain(f"  {name}", "dim"), Text(answer.parameters, style="dim"), text,
                style="" if answer.text else "dim",
            )  # fmt: skip
        console.print(table)
    if any_is_cut:
        console.print()
        words = f"Long texts are cut to {_ANSWER_LINES} lines here; the report has all of them."
        console.print(Text(words, style="dim"))


def _print_paths(summary: RunSummary, console: Console, report: Path, program: str) -> None:
    """Print where the models, the model of the run and the report are."""
    kept = [(_short_name(row.name), report.parent / row.path) for row in summary.models if row.path]
    if kept:
        console.print(Text("Models"))
    width = max((cell_len(name) for name, _ in kept), default=0)
    for name, path in kept:
        space = " " * (width - cell_len(name))
        console.print(_plain(f"  {name}{space}  {path}"), soft_wrap=True)
    console.print(_plain(f"Report: {report}"), soft_wrap=True)
    if summary.loading is not None:
        model = summary.loading.path
        console.print(_plain(f"Model:  {model}"), soft_wrap=True)
        ask = f'{shlex.join([program, "generate", model])} "What is a river?"'
        console.print(_plain(f"Try it: {ask}"), soft_wrap=True)


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
    if cell_len(last.plain) > width - 2:  # leave out a word, or a part of one without end
        last = Text(last.plain.rpartition(" ")[0] or last.plain)
        last.truncate(width - 2)
    return Text("\n").join([*lines[: _ANSWER_LINES - 1], last + Text(" …")]), True


def _short_name(name: str) -> str:
    return name if len(name) <= _MODEL_NAME else name[: _MODEL_NAME - 1] + "…"


def _sizes(rows: Sequence[tables.SizeRow]) -> Table:
    table = _table()
    columns = {
        "parameters": [row.parameters for row in rows], "left": [row.left for row in rows],
        "on disk": [row.disk for row in rows], "tokens/s": [row.speed for row in rows],
        "speed": [row.times for row in rows],
    }  # fmt: skip
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        cells = [Text(cells[number]) for cells in shown.values()]
        table.add_row(_plain(row.name), *cells, style="dim" if row.role == "comparison" else "")
    return table


def _losses(losses: tables.LossTable) -> Table:
    """A table of the losses on one text."""
    table = _table()
    has_change = any(row.losses[0].change.text for row in losses.rows)
    for name in ("after cut", "at the end", *(["vs original"] if has_change else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for row in losses.rows:
        (found,) = row.losses
        cells = [found.after_cut, found.at_end, *([found.change] if has_change else [])]
        style = "dim" if row.role == "comparison" else ""
        table.add_row(_plain(row.name), *(Text(c.text, _STYLES[c.way]) for c in cells), style=style)
    return table


def _table() -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        collapse_padding=True,
        show_edge=False,
    )
    table.add_column("model", overflow="fold", max_width=_NAME)
    return table


def _plain(text: str, style: str = "") -> Text:
    return Text(_clean(text), style=style)


def _clean(text: str) -> str:
    """Replace control characters, which could control the terminal, except tab and newline."""
    return "".join(
        c if c in "\t\n" or (ord(c) >= 32 and not 127 <= ord(c) < 160) else "\ufffd" for c in text
    )
