"""What may change while a training runs: which mixture its samples are drawn from.

A `Steering` is given to `regrow.training.loop.train`. Whenever it wants to (`every`), and before
the checkpoint of the same step, the loop lets it measure the model and hands it the numbers of the
first process. What it then says of itself (`state`) is in every checkpoint, and is given back
(`load`) before the first step of a training that is taken up again. All processes do this alike, so
each keeps a steering of its own. The samples of a training ask its steering how to be drawn. Since
a mixture changes only at `Evaluation.next_sample`, what a sample holds stays a function of the
seed, its number, and the mixtures until then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn


@dataclass(frozen=True)
class Evaluation:
    """What a steering measured.

    Attributes:
        losses: Nats per token, by whatever it tells apart: denoisers, domains.
        tokens: Of text, trained so far.
        next_sample: Number of the first sample that was not trained on yet.
    """

    losses: Mapping[str, float]
    tokens: int
    next_sample: int


class Steering(Protocol):
    """Learns from measurements how to draw the samples that follow."""

    @property
    def identity(self) -> str:
        """The rule, all its settings and what it measures on; a run resumes only under the same."""

    @property
    def every(self) -> int:
        """Tokens of text between two measurements."""

    def measure(self, model: nn.Module) -> Mapping[str, float]:
        """Held-out losses in nats per token; in evaluation mode, by every process alike."""

    def after(self, evaluation: Evaluation) -> None:
        """Decide what samples from ``evaluation.next_sample`` on are drawn from."""

    def shares(self) -> Mapping[str, float]:
        """The current share of each component, by the names of `measure`."""

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs to go on alike, and the history, as JSON has it."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` once gave."""
