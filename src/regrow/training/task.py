"""What a training is given, and what it tells: the nouns of `regrow.training.loop.train`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from regrow.corpus.samples import Samples
from regrow.objectives.losses.loss import Loss
from regrow.training.mixing.training_mixture import TrainingMixture

Evaluate = Callable[[nn.Module], float]
"""Held-out loss per token of a model, in nats."""

Export = Callable[[int, dict[str, Tensor]], None]
"""Writes what a model is after a step, given its number and the state dict."""


@dataclass(frozen=True)
class StepReport:
    """One optimiser step.

    Attributes:
        step: 1 for the first.
        steps: How many there will be.
        tokens: Of text, trained so far.
        loss: Nats per predicted token, before the step's update.
        gradient_norm: Of the loss per token, before clipping.
        heldout: Held-out loss per token, where it was measured after this step.
        mixture_losses: What the mixtures measured after this step, where they did.
        seconds: Since training began, in all runs that led here.
        skipped: Why no update was made, in words; None where one was.
        component_losses: The loss of each denoiser and domain that the step has tokens of, by
            ``kind/component``. Empty if the samples are not drawn from a mixture
            (`regrow.corpus.samples.HasComponents`).
        step_tokens: Of text, in this step.
        step_seconds: From the first of its samples to its update.
        shares: By which its samples were drawn, where mixtures decide that.
    """

    step: int
    steps: int
    tokens: int
    loss: float
    gradient_norm: float
    learning_rate: float
    heldout: float | None
    mixture_losses: Mapping[str, float] | None
    seconds: float
    skipped: str | None
    component_losses: Mapping[str, float]
    step_tokens: int
    step_seconds: float
    shares: Mapping[str, float] | None


@dataclass(frozen=True)
class TrainingResult:
    """What a training was.

    Attributes:
        curve: (tokens trained after the step, loss per token before its update), one a step that
            was not skipped.
        heldout: (tokens trained, held-out loss per token), as often as it was measured.
        tokens: Of text, trained on.
        predicted: Tokens predicted, which the losses are means over.
        seconds: Wall time of all runs that led here, held-out measurements included.
        resumed_at: Step after which this call took up the work; 0 for a fresh start.
        skipped: Steps without an update, since the loss or the gradient was out of all measure.
        mixtures: What they said of themselves last; empty without any, or before they measured.
    """

    curve: list[tuple[int, float]]
    heldout: list[tuple[int, float]]
    tokens: int
    predicted: int
    seconds: float
    resumed_at: int
    skipped: int
    mixtures: Mapping[str, Any]


@dataclass(frozen=True)
class TrainingTask:
    """What a model learns, and from which rows.

    Attributes:
        samples: Rows of text.
        loss: What is learned from a batch of them.
        seed: Decides the data order, and dropout where the model has any.
        mixtures: How the samples are drawn, where that changes while the training runs.
    """

    samples: Samples
    loss: Loss
    seed: int
    mixtures: TrainingMixture | None = None


@dataclass(frozen=True)
class HeldoutLoss:
    """What is measured while a training runs.

    Attributes:
        identity: Hash of the text. What was measured on another text before a training was taken
            up again is dropped.
        evaluate: Called every ``evaluate_every`` tokens and at the end, with the model in
            evaluation mode; by every process, each with all of the text. None measures nothing.
    """

    identity: str = ""
    evaluate: Evaluate | None = None


@dataclass(frozen=True)
class Hooks:
    """What the first process calls while a training runs.

    Attributes:
        track: After each step, and before its checkpoint if there is one.
        on_step: The same, after its checkpoint.
        export: Given the weights every ``export_every`` tokens, before a checkpoint of the same
            step; again after a kill that came between the two.
    """

    track: Callable[[StepReport], None] | None = None
    on_step: Callable[[StepReport], None] | None = None
    export: Export | None = None


NOTHING_MEASURED = HeldoutLoss()
NO_HOOKS = Hooks()
