"""A mixture that changes while a training runs: what its samples are drawn from.

`regrow.training.loop.train` takes a `TrainingMixture`. After every `every` tokens, and before the
checkpoint of the same step, the loop lets the mixture measure the model (`measure`) and gives it
the losses of the first process (`after`). The mixture's `state` is saved in every checkpoint. A
training that is taken up again gives that state back (`load`) before its first step. All processes
do this alike, so each keeps a mixture of its own. A mixture changes only at
`MixtureLosses.next_sample`, so what a sample holds is a function of the seed, of the sample's
number, and of the mixtures until then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn


@dataclass(frozen=True)
class MixtureLosses:
    """Held-out losses that a mixture measured.

    Attributes:
        losses: Nats per token, by whatever it tells apart: denoisers, domains.
        tokens: Of text, trained so far.
        next_sample: Number of the first sample that was not trained on yet.
    """

    losses: Mapping[str, float]
    tokens: int
    next_sample: int


class TrainingMixture(Protocol):
    """Decides by held-out losses how the samples that follow are drawn."""

    @property
    def identity(self) -> str:
        """The rule, all its settings and what it measures on; a run resumes only under the same."""

    @property
    def every(self) -> int:
        """Tokens of text between two measurements."""

    def measure(self, model: nn.Module) -> Mapping[str, float]:
        """Held-out losses in nats per token; in evaluation mode, by every process alike."""

    def after(self, evaluation: MixtureLosses) -> None:
        """Decide what samples from ``evaluation.next_sample`` on are drawn from."""

    def shares(self) -> Mapping[str, float]:
        """The current share of each component, by the names of `measure`."""

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs to go on alike, and the history, as JSON has it."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` once gave."""
