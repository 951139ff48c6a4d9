"""The mixtures of a training: what they measure, and the samples that they control."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from regrow.common.identity import identity_of
from regrow.corpus.samples import MixedSamples
from regrow.evaluation.heldout_components import HeldoutComponents
from regrow.training.mixing.dynamic_mixture import DynamicMixture


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
class TrainingMixtures:
    """The mixtures that decide how the samples of a training are drawn, each of another kind.

    After every `every` tokens, and before the checkpoint of the same step, the training loop lets
    them measure the model, and gives the losses of the first process to `update`. Their `state` is
    saved in every checkpoint, and a resumed training loads it before its first step. Every process
    does this with its own copy. Shares change only at the sample that `update` is told, so a sample
    is a function of the seed, of its number, and of the shares until then.

    Losses and shares are named ``kind/component``, such as ``denoiser/R1``.

    Attributes:
        mixtures: By kind (`regrow.corpus.shares`).
        every: Tokens of text between two measurements.
    """

    mixtures: Mapping[str, MeasuredMixture]
    every: int

    @property
    def identity(self) -> str:
        """A hash of rules, references, first shares and held-out texts.

        A training resumes only with the same identity. Later shares do not enter the hash, since
        the training computes them.
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
        """Held-out losses in nats per token; every process calls this."""
        return {
            f"{kind}/{name}": loss
            for kind, each in self.mixtures.items()
            for name, loss in each.heldout.losses(model).items()
        }

    def update(self, losses: Mapping[str, float], *, tokens: int, next_sample: int) -> None:
        """Set the shares for samples that were not trained on yet.

        `losses`: as from `measure`. `tokens`: tokens of text trained on so far. `next_sample`:
        number of the first sample that was not trained on yet.
        """
        for kind, each in self.mixtures.items():
            own = {name: losses[f"{kind}/{name}"] for name in each.mixture.references}
            each.replace_mixture(each.mixture.updated(own, sample=next_sample, tokens=tokens))

    def shares(self) -> dict[str, float]:
        """The current share of each component."""
        return {
            f"{kind}/{name}": share
            for kind, each in self.mixtures.items()
            for name, share in each.mixture.shares.items()
        }

    def state(self) -> dict[str, Any]:
        """The first shares, references and history of each mixture, by kind, as JSON values."""
        return {
            kind: {
                "start": each.mixture.first_shares,
                "references": dict(each.mixture.references),
                "history": each.mixture.as_json(),
            }
            for kind, each in self.mixtures.items()
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""
        for kind, each in self.mixtures.items():
            each.replace_mixture(each.mixture.resumed(state[kind]["history"]))
