"""What each command prints: tables and lines within 80 columns, or JSON."""

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from regrow.common import numbers
from regrow.common.printable import printable
from regrow.common.progress import Progress

if TYPE_CHECKING:
    from regrow.checkpoint.verify import VerifyResult
    from regrow.corpus.tokenisation import Tokenised
    from regrow.pipeline.finished import Result
    from regrow.pipeline.preview import Preview
    from regrow.pipeline.train_model import Trained
    from regrow.report.records import RunSummary
    from regrow.scoring.score_file import SavedScores
    from regrow.surgery.analysis.analysis import Analysis
    from regrow.surgery.inspection import Inspection
    from regrow.surgery.plan import Plan
    from regrow.surgery.prepared_cut import Pruned
    from regrow.writing.text_writer import WrittenText


class _SafeConsole(Console):
    """A console for text from files: it is not read as markup, and no terminal obeys it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)  # before its width is measured

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)

    def say(self, text: str, style: str | None = None) -> None:
        """Print words. On a terminal lines break between words, elsewhere there is one line.

        What is longer than a line, as a path may be, stays whole, so that it can be copied.
        """
        if self.is_terminal:
            text = textwrap.fill(
                text, max(self.width, 20), break_long_words=False, break_on_hyphens=False
            )
        self.print(text, soft_wrap=True, style=style)


OUT = _SafeConsole()
ERR = _SafeConsole(stderr=True)


def echo(text: str, *, end: str = "\n") -> None:
    """Print text as it is, without wrapping, on stdout."""
    sys.stdout.write(printable(text) + end)
    sys.stdout.flush()


def print_message(text: str) -> None:
    """Print what is being done, on stderr, apart from the result."""
    ERR.say(text, style="dim")


MESSAGES_ONLY = Progress(say=print_message)
"""For commands that print messages and no progress bar."""


def print_inspection(found: "Inspection", as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    head = "tied to the embedding" if found.tied else "of its own"
    types = ", ".join(f"{name} {_gigabytes(size)}" for name, size in found.dtypes.items())
    OUT.print(f"{found.model_type}, {found.parameters:,} parameters, weights {types}")
    if found.parameters_counted_once < found.parameters:
        OUT.print(f"{found.parameters_counted_once:,} with embedding and head counted once")
    if found.fingerprint is None:
        OUT.print("from the config alone; there are no weights")
    fixed = ", ".join(f"{name} {size}" for name, size in found.fixed.items())
    OUT.print(f"output head {head}" + (f"; fixed: {fixed}" if fixed else ""))
    if found.vocabulary_only:
        OUT.print("no blueprint for this class: only its vocabulary can be cut")
        if found.why_vocabulary_only is not None:
            OUT.print(f"since {found.why_vocabulary_only}")
    if found.derived:
        OUT.print("the blueprint was derived from the class, and proved on a small network")
    training = _gigabytes(found.parameters * 16)
    OUT.print(f"memory: {_gigabytes(found.weight_bytes)} to run, {training} to train with AdamW\n")
    table = new_table(("part", "left"), ("parameters", "right"), ("share", "right"))
    for part, count in found.parts.items():
        table.add_row(part, f"{count:,}", f"{count / found.parameters:.1%}")
    OUT.print(table)
    OUT.print()
    table = new_table(
        ("axis", "left"), ("size", "right"), ("choice", "left"), ("parameters", "right"),
        ("each", "right"), ("what can remain", "left"),
    )  # fmt: skip
    for axis in found.axes:
        table.add_row(
            axis.name, f"{axis.size:,}", axis.scope, numbers.count(axis.parameters, 2),
            f"{axis.parameters_per_index:,}", axis.sizes,
        )  # fmt: skip
    OUT.print(table)
    for name in found.ignored:
        OUT.print(f"{name}: ignored by the class, dropped by a cut")


def print_analysis(found: "Analysis", page: Path | None, as_json: bool) -> None:
    """Print the tables of an analysis; `page`: the file of its page."""
    from regrow.report.analysis_tables import (
        cost_rows,
        layer_rows,
        line_rows,
        part_rows,
        vocabulary_words,
    )

    if as_json:
        print_json(found)
        return
    OUT.print(f"{found.model_type}, {found.parameters:,} parameters\n")
    tables = (part_rows(found), line_rows(found), cost_rows(found), layer_rows(found))
    for columns, *rows in tables:
        if not rows:
            continue
        table = new_table(
            *((name, "right" if at > 1 else "left") for at, name in enumerate(columns))
        )
        for row in rows:
            table.add_row(*row)
        OUT.print(table)
        OUT.print()
    OUT.print(_measured_on(found.held_back_bytes))
    if words := vocabulary_words(found):
        OUT.print(words)
    for note in found.notes:
        OUT.print(note, style="dim")
    if page is not None:
        OUT.print(f"page    {page}", soft_wrap=True)


def _measured_on(held_back_bytes: int) -> str:
    """What the losses of a search or an analysis are over."""
    size = numbers.size(held_back_bytes)
    return f"Losses are bits per byte over {size} of text that was held back; nothing was trained."


def print_plan(found: "Plan", written: Path | None, page: Path | None, as_json: bool) -> None:
    """Print costs, candidates and stages, and the recipe itself if it was not written to a file.

    `written`: the file of the recipe. `page`: that of the page.
    """
    from regrow.report.plan_tables import candidate_rows, cost_rows, stage_rows

    if as_json:
        print_json(found)
        return
    tables = [] if found.search is None else [cost_rows(found.search), candidate_rows(found.search)]
    for columns, *rows in (*tables, stage_rows(found)):
        table = new_table(
            *((name, "right" if at > 1 else "left") for at, name in enumerate(columns))
        )
        for row in rows:
            table.add_row(*row)
        ERR.print(table)
        ERR.print()
    if found.search is not None:
        ERR.print(_measured_on(found.search.held_back_bytes))
    for note in found.notes:
        ERR.print(note, style="dim")
    if written is None:
        echo(found.recipe, end="")
    else:
        OUT.print(f"recipe  {written}", soft_wrap=True)
    if page is not None:
        ERR.print(f"page    {page}", soft_wrap=True)


def print_preview(found: "Preview", as_json: bool) -> None:
    from regrow.cli.preview_tables import cost_rows, size_rows, total_words

    if as_json:
        print_json({**_fields(found), "flops": found.flops})
        return
    OUT.print(f"{found.name}: {found.model_type}, {found.model}\n", soft_wrap=True)
    for columns, *rows in filter(None, (size_rows(found), cost_rows(found))):
        table = new_table(*((name, "right" if at else "left") for at, name in enumerate(columns)))
        for row in rows:
            table.add_row(*row)
        OUT.print(table)
        OUT.print()
    for line in total_words(found):
        OUT.print(line)


def print_pruned(result: "Pruned", dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({**_fields(result), "cut": result.cut.to_json(), "words": result.cut.words()})
        return
    table = new_table(("part", "left"), ("before", "right"), ("after", "right"), ("kept", "right"))
    rows = [*result.parts_before.items(), ("all", result.parameters_before)]
    after = {**result.parts, "all": result.parameters}
    for part, count in rows:
        table.add_row(part, f"{count:,}", f"{after[part]:,}", f"{after[part] / count:.1%}")
    OUT.print(result.cut.words())
    OUT.print(table)
    for note in result.notes:
        OUT.print(note)
    size = _gigabytes(result.nbytes)
    outcome = (
        f"nothing written; {size} would be in {result.out}"
        if dry_run
        else f"{size} in {result.out}, carved in {result.seconds:.1f} s"
    )
    OUT.print(outcome, soft_wrap=True)


def print_run(summary: "RunSummary", result: "Result", as_json: bool) -> None:
    if as_json:
        print_json(summary.model_dump(mode="json"))
        return
    print_report(summary, result.report)


def print_trained(result: "Trained", as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    OUT.print(f"{result.tokens:,} tokens in {result.seconds:,.0f} s")
    if result.skipped:
        OUT.print(f"{result.skipped:,} steps skipped")
    if result.heldout:
        (_, before), *_, (_, after) = result.heldout
        OUT.print(f"loss    {before:.4f} -> {after:.4f} {result.unit} held out")
    for note in result.notes:
        OUT.say(note, style="red")
    OUT.print(f"report  {result.report}", soft_wrap=True)
    OUT.print(f"model   {result.model}", soft_wrap=True)


def print_report(summary: "RunSummary", page: Path, *, nats: bool = False) -> None:
    from regrow.report.terminal import print_table

    print_table(summary, OUT, page, nats=nats, program=program_name())


def program_name() -> str:
    """How regrow is called in the shell: by its name if the shell finds it, else as just now."""
    called = sys.argv[0]
    return called if Path(called).name == "regrow" and shutil.which("regrow") is None else "regrow"


def print_checks(result: "VerifyResult", as_json: bool) -> None:
    if as_json:
        print_json({**_fields(result), "ok": result.ok})
        return
    for check in result.checks:
        mark = "ok  " if check.ok else "FAIL"
        detail = f": {check.detail}" if check.detail else ""
        OUT.say(f"{mark} {check.name}{detail}")


def print_tokenised(result: "Tokenised", as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    table = new_table(("source", "left"), ("documents", "right"), ("tokens", "right"))
    for source in result.sources:
        table.add_row(source.path, f"{source.documents:,}", f"{source.tokens:,}")
    if len(result.sources) > 1:
        table.add_row("all", f"{result.documents:,}", f"{result.tokens:,}")
    OUT.print(table)
    if result.taken_up:
        OUT.print(f"from a run that was stopped: {numbers.things(result.taken_up, 'document')}")
    summary = f"{result.tokens:,} tokens as {result.dtype} in {result.out}, {result.seconds:.1f} s"
    OUT.print(summary, soft_wrap=True)


def print_scored(result: "SavedScores", out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"out": out, "model": result.model, "by": result.by})
        return
    for axis, by in result.by.items():
        OUT.print(f"{axis} by {by}")
    OUT.print(f"scores  {out}", soft_wrap=True)


def print_written(result: "WrittenText", as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    if result.taken_up:
        OUT.print(f"from a run that was stopped: {numbers.things(result.taken_up, 'token')}")
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in result.dropped.items() if count)
    if dropped:
        OUT.print(f"dropped: {dropped}")
    rate = (result.tokens - result.taken_up) / result.seconds
    documents = numbers.things(result.documents, "document")
    summary = (
        f"{documents}, {result.tokens:,} tokens in {result.out}, "
        f"{result.seconds:.0f} s ({rate:,.0f} tokens/s)"
    )
    OUT.print(summary, soft_wrap=True)


def _fields(result: Any) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__dataclass_fields__}


def print_json(value: Any) -> None:
    def plain(item: Any) -> Any:
        if hasattr(item, "__dataclass_fields__"):
            return _fields(item)
        return dict(item) if isinstance(item, Mapping) else str(item)

    echo(json.dumps(_finite(json.loads(json.dumps(value, default=plain))), indent=1))


def _finite(value: Any) -> Any:
    """The same JSON with null for numbers that JSON does not have: infinite ones, and NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [*map(_finite, value)]
    return {key: _finite(each) for key, each in value.items()} if isinstance(value, dict) else value


def new_table(*columns: tuple[str, str]) -> Any:
    """A table of columns with these names, each justified `left` or `right`.

    Where the terminal is narrow, long names in the first column take more lines.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0),
        collapse_padding=True,
    )  # fmt: skip
    for number, (name, justify) in enumerate(columns):
        overflow = "fold" if number == 0 else "ellipsis"
        table.add_column(name, justify=justify, overflow=overflow)  # type: ignore[arg-type]
    return table


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
