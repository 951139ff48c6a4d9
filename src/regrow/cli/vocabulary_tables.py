"""What the commands of `regrow vocab` print."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.cli.output import OUT, new_table, print_json
from regrow.common import numbers

if TYPE_CHECKING:
    from regrow.surgery.grow_vocabulary import Grown
    from regrow.vocabulary.sizing import VocabularyPlan
    from regrow.vocabulary.token_counting import Counted


def print_counted(result: "Counted", as_json: bool) -> None:
    counts = result.counts
    if as_json:
        print_json({"out": result.out, **counts.to_json(), "seconds": result.seconds})
        return
    table = new_table(
        ("source", "left"), ("script", "left"), ("documents", "right"), ("text", "right"),
        ("tokens", "right"), ("per character", "right"),
    )  # fmt: skip
    for group, row in zip(counts.groups, counts.counts.sum(axis=1).tolist(), strict=True):
        table.add_row(
            group.source, group.script, f"{group.documents:,}", numbers.size(group.bytes),
            f"{row:,}", f"{row / group.characters:.3f}",
        )  # fmt: skip
    OUT.print(table)
    if result.taken_up:
        taken_up = numbers.things(result.taken_up, "document")
        OUT.print(f"counted by a run that was stopped: {taken_up}")
    total = counts.total
    used = int((total > 0).sum())
    OUT.print(f"{total.sum():,} tokens, {used:,} of {len(total):,} ids among them")
    OUT.print(f"counts  {result.out}", soft_wrap=True)


def print_grown(result: "Grown", as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    # A token that is part of a character cannot be shown.
    whole = [repr(token) for token in result.tokens if "\ufffd" not in token]
    shown = ", ".join([*whole[:8], *(["..."] if len(result.tokens) > 8 else [])])
    OUT.print(f"{len(result.tokens):,} more tokens: {shown}")
    if result.note:
        OUT.say(f"{result.note}; --least lowers that, or give more text")
    table = new_table(
        ("tokens per character", "left"), ("before", "right"), ("after", "right"),
        ("change", "right"),
    )  # fmt: skip
    for name, before in result.per_character_before.items():
        after = result.per_character[name]
        change = numbers.change(before, after, 1)
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", change)
    OUT.print(table)
    more = numbers.change(result.parameters_before, result.parameters, 1)
    OUT.print(f"vocabulary {result.size_before:,} -> {result.size:,}, {more} parameters")
    outcome = (
        f"model  {result.out}" if result.written else f"nothing written; {result.out} was asked for"
    )
    OUT.print(outcome, soft_wrap=True)


def print_vocabulary_plan(plan: "VocabularyPlan", written: Sequence[Path], as_json: bool) -> None:
    """Print the tables of sizes and languages; `written`: the files that were written."""
    from regrow.vocabulary.plan_tables import (
        language_rows,
        size_rows,
        suggestion,
        to_json,
        warning,
    )

    if as_json:
        print_json({**to_json(plan), "written": [str(path) for path in written]})
        return
    for columns, *rows in filter(None, (size_rows(plan), language_rows(plan))):
        table = new_table(*((name, "right" if at else "left") for at, name in enumerate(columns)))
        for row in rows:
            table.add_row(*row)
        OUT.print(table)
        OUT.print()
    OUT.print(suggestion(plan))
    if found := warning(plan):
        OUT.print(found, style="red")
    for path in written:
        OUT.print(f"written  {path}", soft_wrap=True)
