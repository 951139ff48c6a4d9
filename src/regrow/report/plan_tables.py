"""The tables of a plan, as text: a row of column names, then the rows.

The first two columns of each table are text, the others are numbers.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from regrow.common.numbers import count, rate, signed

if TYPE_CHECKING:
    from regrow.surgery.plan import Plan
    from regrow.surgery.search.search import AxisCosts, SizeSearch

Rows = list[tuple[str, ...]]


def cost_rows(search: "SizeSearch") -> Rows:
    """What each axis costs alone."""
    return axis_rows(search.axes, search.original)


def axis_rows(axes: Sequence["AxisCosts"], original: float) -> Rows:
    """What each axis costs alone; `original`: bits per byte of the original."""
    rows: Rows = [("axis", "cut to", "parameters", "bits per byte", "more")]
    rows.append(("original", "", "", f"{original:.3f}", ""))
    for axis in axes:
        for number, cut in enumerate(axis.cuts):
            name = f"{axis.axis}, {axis.size:,}" if number == 0 else ""
            more = signed(cut.bits_per_byte - original, 3)
            rows.append(
                (name, f"{cut.size:,}", count(cut.parameters), f"{cut.bits_per_byte:.3f}", more)
            )
    return rows


def candidate_rows(search: "SizeSearch") -> Rows:
    """The candidates, the best measured first."""
    columns = ["candidate", "what remains", "parameters", "predicted", "measured"]
    timed = search.tokens_per_second is not None
    rows: Rows = [(*columns, *(["tokens/s"] if timed else []))]
    for number, each in enumerate(search.candidates, start=1):
        name = f"{number}, by fixed costs" if each.fixed_costs else str(number)
        row = [name, remaining(each.sizes), count(each.parameters), f"{each.predicted:.3f}",
               f"{each.measured:.3f}"]  # fmt: skip
        rows.append((*row, *([rate(each.tokens_per_second)] if timed else [])))
    return rows


def stage_rows(plan: "Plan") -> Rows:
    """The sizes and parameters after each stage."""
    rows: Rows = [("stage", "what remains", "parameters", "left")]
    rows.append(("original", "", f"{plan.parameters_before:,}", "100%"))
    for stage in plan.stages:
        share = stage.parameters / plan.parameters_before
        rows.append((stage.name, remaining(stage.sizes), f"{stage.parameters:,}", f"{share:.0%}"))
    return rows


def remaining(sizes: Mapping[str, int]) -> str:
    """Sizes by axis in words."""
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())
