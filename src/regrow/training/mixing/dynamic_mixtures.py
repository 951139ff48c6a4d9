"""Mixtures that follow held-out losses while a training runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from regrow.common.identity import identity_of
from regrow.evaluation.heldout_components import HeldoutComponents
from regrow.objectives.dynamic_mixture import DynamicMixture
from regrow.training.mixing.training_mixture import MixtureLosses


class MixedSamples(Protocol):
    """Samples that are drawn from the components of a mixture: denoisers or sources."""

    def mix_from(self, sample: int, weights: Sequence[float]) -> None:
        """Draw by these weights from this sample on; one weight for each component, in order."""


@dataclass(eq=False)
class MeasuredMixture:
    """A mixture, the held-out text that its losses are measured on, and the samples it controls.

    Attributes:
        mixture: Its components have the same order as in `mixed`.
        heldout: The held-out text of each component.
        mixed: The samples; none may have been drawn before.
    """

    mixture: DynamicMixture
    heldout: HeldoutComponents
    mixed: MixedSamples

    def __post_init__(self) -> None:
        if [*self.mixture.references] != [*self.heldout.samples]:
            raise ValueError(
                f"a mixture of {', '.join(self.mixture.references)}, measured of "
                f"{', '.join(self.heldout.samples)}"
            )
        self.mixed.mix_from(0, [*self.mixture.first_shares.values()])

    def replace_mixture(self, mixture: DynamicMixture) -> None:
        """Replace the mixture by one with a longer history, and apply its new changes."""
        for change in mixture.history[len(self.mixture.history) :]:
            self.mixed.mix_from(change.sample, [*change.shares.values()])
        self.mixture = mixture


@dataclass(eq=False)
class DynamicMixtures:
    """A `TrainingMixture` of one mixture or several, each of a different kind.

    Losses are named ``kind/component``, such as ``denoiser/R1``.

    Attributes:
        mixtures: By kind: denoiser, domain.
        every: Tokens of text between two measurements.
    """

    mixtures: Mapping[str, MeasuredMixture]
    every: int

    @property
    def identity(self) -> str:
        """A hash of rules, references, first shares and held-out texts.

        Later shares do not enter the hash, since the training computes them.
        """
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

    def update(self, evaluation: MixtureLosses) -> None:
        for kind, each in self.mixtures.items():
            losses = {name: evaluation.losses[f"{kind}/{name}"] for name in each.mixture.references}
            each.replace_mixture(
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
        """The first shares, references and history of each mixture, by kind."""
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
            each.replace_mixture(each.mixture.resumed(state[kind]["history"]))
