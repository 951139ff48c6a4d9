"""What all benchmarks share: the options --quick and --json, results, and a table of them."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from rich import box
from rich.console import Console
from rich.table import Table

from regrow.report.svg import Svg

# Progress bars of the libraries would mix with the results.
os.environ.setdefault("TQDM_DISABLE", "1")


@dataclass(frozen=True)
class Goal:
    """A bound for the value, or for its ratio to the peer's value."""

    of: Literal["value", "ratio"]
    sense: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        return f"{self.of} {self.sense} {self.bound:g}"


@dataclass(frozen=True)
class Result:
    """One measured number, and the peer's. Without a goal it is only for reference."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.peer_value if self.peer_value else None

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        number = self.value if self.goal.of == "value" else self.ratio
        assert number is not None, f"{self.name}: a goal for the ratio needs a peer"
        return number <= self.goal.bound if self.goal.sense == "<=" else number >= self.goal.bound


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark takes."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="a smaller run, minutes at most")
    made.add_argument("--json", action="store_true", help="print a list of objects")
    return made


def say(text: str) -> None:
    """Print progress on standard error, so that standard output has only the results."""
    print(text, file=sys.stderr, flush=True)


def show(results: Sequence[Result], *, as_json: bool) -> None:
    """Print the results on standard output."""
    if as_json:
        objects = [
            asdict(r) | {"ratio": r.ratio, "goal": r.goal and str(r.goal), "met": r.met}
            for r in results
        ]
        print(json.dumps(objects, indent=1))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("measured", "value", "unit", "peer", "peer's", "ratio", "goal", "met"):
        number = column in ("value", "peer's", "ratio")
        table.add_column(column, justify="right" if number else "left")
    for r in results:
        table.add_row(
            r.name, _number(r.value), r.unit, r.peer or "", _number(r.peer_value),
            _number(r.ratio), str(r.goal or ""), {None: "", True: "yes", False: "NO"}[r.met],
        )  # fmt: skip
    width = None if sys.stdout.isatty() else 160
    Console(highlight=False, markup=False, width=width).print(table)


def write_figure(svg: Svg | None, path: Path) -> None:
    """Write a chart as an SVG file, with the style of the report page."""
    assert svg is not None, "nothing finite to draw"
    root = ElementTree.fromstring(svg.__html__())
    root.set("xmlns", "http://www.w3.org/2000/svg")
    style = ElementTree.Element("style")
    page = files("regrow.report").joinpath("page.css").read_text(encoding="utf-8")
    style.text = page + "svg text { font-family: system-ui, sans-serif; }\n"
    root.insert(0, style)
    ground = ElementTree.Element("rect", {"width": "100%", "height": "100%", "fill": "#fcfcfa"})
    root.insert(1, ground)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ElementTree.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
