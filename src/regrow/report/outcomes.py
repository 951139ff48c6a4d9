"""The outcome of a recovery in words."""

from collections.abc import Iterable
from dataclasses import dataclass

from regrow.common import numbers
from regrow.report.records import Outcome, StageRow


@dataclass(frozen=True)
class Part:
    """The texts for which the loss went one way: `better`, `worse` or `unchanged`."""

    way: str
    words: str


def trained_path(stage: StageRow) -> str:
    """Where the trained weights of a stage are if they are not kept, from the run's directory."""
    return f"stages/{stage.name}/trained"


def worse_lines(found: Outcome, trained: str, training: str = "recovery") -> list[str]:
    """A line for each text that got worse, and one if the trained weights are not kept.

    `trained`: where the trained weights are if they are not kept. `training`: what it is called.
    """
    lines = [
        f"{training} made {text} worse: {_change(*found.texts[text])} {found.unit}"
        for text in found.worse
    ]
    if found.kept == "before":
        several = len(found.texts) > 1
        why = f" on average ({_change(*found.mean)} {found.unit})" if several else ""
        lines.append(
            f"{training} did not help{why}, so the model has the weights from before; the trained "
            f"weights are in {trained}"
        )
    return lines


def parts(found: Outcome) -> list[Part]:
    """How the loss of each text changed: `better on docs 2.1 -> 1.9`."""
    ways = (("better", found.better), ("worse", found.worse))
    told = [Part(way, f"{way} on {_listed(found, texts)}") for way, texts in ways if texts]
    same = [f"{text} {numbers.decimal(found.texts[text][1], 3)}" for text in found.unchanged]
    return [*told, Part("unchanged", f"unchanged on {', '.join(same)}")] if same else told


def _listed(found: Outcome, texts: Iterable[str]) -> str:
    return ", ".join(f"{text} {_change(*found.texts[text])}" for text in texts)


def _change(before: float, after: float) -> str:
    """Both values with 3 decimals, or with more if they would look the same."""
    shown = [(numbers.decimal(before, n), numbers.decimal(after, n)) for n in (3, 6)]
    one, other = next((pair for pair in shown if pair[0] != pair[1]), shown[0])
    return f"{one} -> {other}"
