"""The interface of a mixture whose shares change while a training runs.

`regrow.training.loop.train` takes a `TrainingMixture`. After every `every` tokens, and before the
checkpoint of the same step, the loop has the mixture measure the model (`measure`) and passes it
the losses of the first process (`update`). The mixture's `state` is saved in every checkpoint. A
resumed training restores it (`load`) before its first step. Every process does this with its own
copy of the mixture. The shares change only at `MixtureLosses.next_sample`, so a sample is a
function of the seed, of the sample's number, and of the shares until then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn


@dataclass(frozen=True)
class MixtureLosses:
    """Held-out losses that a mixture measured.

    Attributes:
        losses: Nats per token, by component.
        tokens: Tokens of text trained on so far.
        next_sample: Number of the first sample that was not trained on yet.
    """

    losses: Mapping[str, float]
    tokens: int
    next_sample: int


class TrainingMixture(Protocol):
    """Decides from held-out losses how the next samples are drawn."""

    @property
    def identity(self) -> str:
        """A hash of the rule, its settings and its held-out text.

        A training resumes only with the same identity.
        """

    @property
    def every(self) -> int:
        """Tokens of text between two measurements."""

    def measure(self, model: nn.Module) -> Mapping[str, float]:
        """Held-out losses in nats per token.

        Every process calls this, with the model in evaluation mode.
        """

    def update(self, evaluation: MixtureLosses) -> None:
        """Set the shares for samples from ``evaluation.next_sample`` on."""

    def shares(self) -> Mapping[str, float]:
        """The current share of each component, by the names of `measure`."""

    def state(self) -> dict[str, Any]:
        """The state that a resumed training needs, and the history, as JSON values."""

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""
