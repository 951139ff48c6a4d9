"""The arguments and results of `regrow.training.loop.train`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from regrow.corpus.samples import Samples
from regrow.objectives.losses.loss import Loss
from regrow.training.mixing.training_mixtures import TrainingMixtures

Evaluate = Callable[[nn.Module], float]
"""Gives the held-out loss of a model, in nats per token."""

Export = Callable[[int, int, dict[str, Tensor]], None]
"""Exports a model, given the step, the tokens that were trained until then, and the state dict."""


@dataclass(frozen=True)
class StepReport:
    """Report of one optimiser step.

    Attributes:
        step: Number of the step; the first is 1.
        steps: Number of steps of the whole training.
        tokens: Tokens of text trained on so far.
        loss: Nats per predicted token, before the step's update.
        gradient_norm: Norm of the gradient of the loss per token, before clipping.
        heldout: Held-out loss per token after this step; None if it was not measured.
        mixture_losses: Held-out losses of the mixtures after this step; None if they were not
            measured.
        seconds: Wall time of the training so far, in all its runs.
        skipped: Why there was no update, in words; None if there was one.
        component_losses: The loss of each denoiser and domain that the step has tokens of, by
            ``kind/component``. Empty if the samples are not drawn from a mixture
            (`regrow.corpus.samples.HasComponents`).
        step_tokens: Tokens of text in this step.
        step_seconds: Wall time from reading the first sample to the update.
        shares: Shares of the components that the step's samples were drawn by; None without
            mixtures.
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
    """Result of a training.

    Attributes:
        curve: (tokens trained on after the step, loss per token before its update) of each step
            that was not skipped.
        heldout_curve: (tokens trained on, held-out loss per token) of each measurement.
        tokens: Tokens of text trained on.
        predicted: Tokens predicted; the losses are means over these.
        seconds: Wall time of all runs of the training, with held-out measurements.
        resumed_at: Step after which this call resumed; 0 for a fresh start.
        skipped: Steps without an update, because loss or gradient was not finite or far above its
            recent median.
        mixtures: The last state of the mixtures; empty if there are none, or before their first
            measurement.
    """

    curve: list[tuple[int, float]]
    heldout_curve: list[tuple[int, float]]
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
        loss: The loss of a batch of rows.
        seed: Decides the data order, and dropout if the model has any.
        mixtures: Change how the samples are drawn while the training runs; None for no change.
    """

    samples: Samples
    loss: Loss
    seed: int
    mixtures: TrainingMixtures | None = None


@dataclass(frozen=True)
class HeldoutMeasurement:
    """How the held-out loss is measured while a training runs.

    Attributes:
        identity: Hash of the text. A resumed training drops measurements on another text.
        evaluate: Called every ``evaluate_every`` tokens and at the end, with the model in
            evaluation mode. Every process calls it, each with the whole text. None measures
            nothing.
    """

    identity: str = ""
    evaluate: Evaluate | None = None


@dataclass(frozen=True)
class Hooks:
    """Functions that the first process calls while a training runs.

    Attributes:
        track: Called after each step, before its checkpoint if there is one.
        on_step: Called after each step, after its checkpoint.
        export: Called every ``export_every`` tokens with the weights, before a checkpoint of the
            same step. If the process is killed between the two, it is called again.
    """

    track: Callable[[StepReport], None] | None = None
    on_step: Callable[[StepReport], None] | None = None
    export: Export | None = None


NOTHING_MEASURED = HeldoutMeasurement()
NO_HOOKS = Hooks()
