"""Mixtures that follow held-out losses while a training runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from regrow.common.identity import identity_of
from regrow.evaluation.heldout_components import HeldoutComponents
from regrow.objectives.dynamic_mixture import DynamicMixture
from regrow.training.mixing.training_mixture import MixtureLosses


class Mixed(Protocol):
    """Samples drawn from the components of a mixture: from denoisers, or from sources."""

    def mix_from(self, sample: int, weights: Sequence[float]) -> None:
        """From this sample on, draw by these weights: one for each component, in order."""


@dataclass(eq=False)
class FollowingMixture:
    """One mixture, the losses that it follows, and the samples that are drawn by it.

    Attributes:
        mixture: Its components are in the same order as in `mixed`.
        heldout: The held-out text of each component.
        mixed: Nothing was drawn from it yet.
    """

    mixture: DynamicMixture
    heldout: HeldoutComponents
    mixed: Mixed

    def __post_init__(self) -> None:
        if [*self.mixture.references] != [*self.heldout.samples]:
            raise ValueError(
                f"a mixture of {', '.join(self.mixture.references)}, measured of "
                f"{', '.join(self.heldout.samples)}"
            )
        self.mixed.mix_from(0, [*self.mixture.first_shares.values()])

    def become(self, mixture: DynamicMixture) -> None:
        """Put one with a longer history in its place."""
        for change in mixture.history[len(self.mixture.history) :]:
            self.mixed.mix_from(change.sample, [*change.shares.values()])
        self.mixture = mixture


@dataclass(eq=False)
class DynamicMixtures:
    """A `TrainingMixture` of one mixture or several, each a distribution of its own.

    Losses are named ``kind/component``: ``denoiser/R1``.

    Attributes:
        mixtures: By what they are of: denoiser, source.
        every: Tokens of text between two measurements.
    """

    mixtures: Mapping[str, FollowingMixture]
    every: int

    @property
    def identity(self) -> str:
        """A hash of the rules, their references, and all that is measured."""
        mixtures = {
            kind: (
                each.mixture.rule, each.mixture.first_shares, each.mixture.references,
                each.heldout.identity,
            )
            for kind, each in self.mixtures.items()
        }  # fmt: skip
        return identity_of("dynamic mixtures", every=self.every, mixtures=mixtures)

    def measure(self, model: nn.Module) -> dict[str, float]:
        return {
            f"{kind}/{name}": loss
            for kind, each in self.mixtures.items()
            for name, loss in each.heldout.losses(model).items()
        }

    def after(self, evaluation: MixtureLosses) -> None:
        for kind, each in self.mixtures.items():
            losses = {name: evaluation.losses[f"{kind}/{name}"] for name in each.mixture.references}
            each.become(
                each.mixture.updated(
                    losses, sample=evaluation.next_sample, tokens=evaluation.tokens
                )
            )

    def shares(self) -> dict[str, float]:
        return {
            f"{kind}/{name}": share
            for kind, each in self.mixtures.items()
            for name, share in each.mixture.shares.items()
        }

    def state(self) -> dict[str, Any]:
        """By kind; beside the history, what it began with and what it is held against."""
        return {
            kind: {
                "start": each.mixture.first_shares,
                "references": dict(each.mixture.references),
                "history": each.mixture.as_json(),
            }
            for kind, each in self.mixtures.items()
        }

    def load(self, state: dict[str, Any]) -> None:
        for kind, each in self.mixtures.items():
            each.become(each.mixture.resumed(state[kind]["history"]))
