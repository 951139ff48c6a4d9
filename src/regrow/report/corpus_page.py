"""The page of a corpus that was built: what each step did, with reasons and examples."""

from pathlib import Path
from typing import TYPE_CHECKING

from regrow.common import numbers
from regrow.common.files import write_atomically
from regrow.report.corpus_tables import (
    example_rows,
    mixture_rows,
    reason_rows,
    step_rows,
    summary_line,
)
from regrow.report.svg import WIDTH, Scale, Svg, add, canvas, shorten
from regrow.report.templates import render

if TYPE_CHECKING:
    from regrow.cleaning.built import BuiltCorpus

_LEFT, _RIGHT, _TOP, _ROW = 150.0, WIDTH - 110.0, 8.0, 20.0


def kept_chart(built: "BuiltCorpus") -> Svg | None:
    """The characters that are left after each step; None if there was nothing to read."""
    sizes = [(step.name, step.tally.characters_kept) for step in built.steps]
    first = built.steps[0].tally.characters_read
    if not first:
        return None
    words = "; ".join(f"{name}: {size / first:.1%}" for name, size in sizes)
    root = canvas("Characters left after each step", _TOP + _ROW * len(sizes) + 6, f"{words}.")
    x = Scale(0, first, _LEFT, _RIGHT)
    for number, (name, size) in enumerate(sizes):
        y = _TOP + _ROW * number
        label = shorten(name, 24)
        add(root, "text", "tick", label, x=_LEFT - 6, y=y + 12, text_anchor="end")
        width = max(0.5, x(size) - _LEFT)
        add(root, "rect", "bar after", x=_LEFT, y=y + 2, width=width, height=_ROW - 6)
        value = f"{numbers.count(size)}, {size / first:.1%}"
        add(root, "text", "value", value, x=x(size) + 6, y=y + 12)
    return Svg(root)


def render_corpus(built: "BuiltCorpus") -> str:
    """The page as HTML, without network and scripts. All text is escaped."""
    steps = step_rows(built)
    reasons = [
        (step.name, reason_rows(step, most=100), example_rows(step))
        for step in built.steps
        if step.tally.reasons
    ]
    mixture = mixture_rows(built)
    return render(
        "corpus.html",
        name=built.out.resolve().name,
        summary=summary_line(built),
        notes=built.notes,
        chart=kept_chart(built),
        steps=(steps[0], steps[1:]),
        mixture=(mixture[0], mixture[1:]),
        reasons=[
            (name, why[0], why[1:], examples[0], examples[1:]) for name, why, examples in reasons
        ],
    )


def write_corpus_page(built: "BuiltCorpus", target: Path) -> None:
    """Write the page to `target`, completely or not at all."""
    write_atomically(target, render_corpus(built).encode())
