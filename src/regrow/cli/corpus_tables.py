"""The tables of `regrow corpus build`."""

from typing import TYPE_CHECKING

from regrow.cli.output import OUT, new_table, print_json
from regrow.common import numbers

if TYPE_CHECKING:
    from regrow.cleaning.built import BuiltCorpus

_REASONS = 5
"""Reasons of a step that are shown."""
_SHOWN = 24
"""Characters of an example."""


def print_built(result: "BuiltCorpus", as_json: bool) -> None:
    """Print what each step did, why, and what the corpus holds."""
    from regrow.report.corpus_tables import mixture_rows, reason_rows, step_rows, summary_line

    if as_json:
        print_json({"out": result.out, **result.to_json()})
        return
    head, *rows = step_rows(result)
    table = new_table(*((name, "right" if at else "left") for at, name in enumerate(head)))
    for row in rows:
        table.add_row(*row)
    OUT.print(table)
    why = new_table(("step", "left"), ("reason", "left"), ("documents", "right"), ("", "left"))
    for step in result.steps:
        for reason, documents, _, example in reason_rows(step, _REASONS)[1:]:
            shown = example if len(example) <= _SHOWN else f"{example[: _SHOWN - 1]}…"
            why.add_row(step.name, reason, documents, shown)
    if why.row_count:
        OUT.print(why)
    if any(row.times != 1 for row in result.mixture.rows) or len(result.mixture.rows) > 1:
        head, *rows = mixture_rows(result)
        table = new_table(*((name, "right" if at else "left") for at, name in enumerate(head)))
        for row in rows:
            table.add_row(*row)
        OUT.print(table)
    for note in result.mixture.notes:
        OUT.say(f"note: {note}")
    OUT.say(summary_line(result))
    files = numbers.things(len(result.files), "file")
    OUT.print(f"corpus  {result.out}, {files}; report  {result.page}", soft_wrap=True)
