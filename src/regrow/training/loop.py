"""The one training loop."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regrow.corpus.samples import Samples, data_order, random_stream
from regrow.errors import UserError
from regrow.objectives.objective import Objective
from regrow.precision import autocast
from regrow.training.checkpoint import (
    Checkpoint,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from regrow.training.environment import environment
from regrow.training.guard import RECENT, fault
from regrow.training.optimizers import make_optimizers
from regrow.training.schedule import learning_rate, schedule
from regrow.training.settings import RecoverySettings
from regrow.training.signals import leave, stop_requests

_log = logging.getLogger(__name__)

_NO_EFFECT_ON_WEIGHTS = {"evaluate_every", "save_every"}

Evaluate = Callable[[nn.Module], float]
"""Held-out loss per token of a model, in nats."""


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
        seconds: Since training began, in all runs that led here.
        skipped: Why no update was made, in words; None where one was.
    """

    step: int
    steps: int
    tokens: int
    loss: float
    gradient_norm: float
    learning_rate: float
    heldout: float | None
    seconds: float
    skipped: str | None


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
    """

    curve: list[tuple[int, float]]
    heldout: list[tuple[int, float]]
    tokens: int
    predicted: int
    seconds: float
    resumed_at: int
    skipped: int


@dataclass
class _Progress:
    step: int = 0
    tokens: int = 0
    predicted: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    heldout: list[tuple[int, float]] = field(default_factory=list)
    heldout_identity: str = ""
    recent: list[tuple[float, float]] = field(default_factory=list)
    skipped: int = 0
    skipped_in_a_row: int = 0

    def add(
        self, tokens: int, predicted: int, loss: float, norm: float, skipped: str | None
    ) -> None:
        """One step more. Tokens of a skipped one count for the budget, not for the curves."""
        self.step += 1
        self.tokens += tokens
        if skipped is not None:
            self.skipped += 1
            self.skipped_in_a_row += 1
            return
        self.predicted += predicted
        self.skipped_in_a_row = 0
        self.curve.append((self.tokens, loss))
        self.recent = [*self.recent, (loss, norm)][-RECENT:]


def train(
    model: nn.Module,
    samples: Samples,
    objective: Objective,
    settings: RecoverySettings,
    *,
    seed: int,
    directory: Path,
    identity: str = "",
    evaluate: Evaluate | None = None,
    heldout_identity: str = "",
    on_step: Callable[[StepReport], None] | None = None,
) -> TrainingResult:
    """Trains a model in place, safe to kill and call again.

    The same call on the same machine kind, thread count and versions ends in the same weights bit
    for bit, however often it was killed. The last checkpoint in ``directory`` is taken up; when
    the training is complete it holds the weights alone, and another call only loads them.

    Args:
        model: Float32 parameters, on the device to train on.
        seed: Decides the data order, and dropout where the model has any.
        directory: For checkpoints, which no other training may use.
        identity: Hash of what the model was before training, as the caller knows it.
        evaluate: Measured every ``evaluate_every`` tokens and at the end, with the model in
            evaluation mode.
        heldout_identity: Hash of the text that is measured; what was measured on another before
            this call took up the work is dropped.
        on_step: Called after each step, and after its checkpoint if there is one.

    Asked by SIGTERM or SIGINT to stop, it saves a checkpoint after the step at hand and leaves by
    SystemExit or KeyboardInterrupt.

    Raises:
        UserError: ``directory`` holds the checkpoint of another training, the objective cannot
            train this model, or too many steps in a row were skipped (``settings.skips``).
    """
    wrong = {str(parameter.dtype) for parameter in model.parameters()} - {"torch.float32"}
    if wrong:
        raise ValueError(f"training keeps its weights in float32, not {', '.join(sorted(wrong))}")
    if samples.row_length != settings.row_length:
        raise ValueError(f"rows of {samples.row_length}, settings for {settings.row_length}")
    objective.check(model)

    device = next(model.parameters()).device
    optimizers = make_optimizers(model, settings)
    run = {
        "model": identity,
        "data": samples.identity,
        "objective": objective.identity,
        "seed": seed,
        **settings.model_dump(mode="json", exclude=_NO_EFFECT_ON_WEIGHTS),
    }
    order = data_order(samples, seed)
    plan = schedule(settings, samples, order)
    progress = _resume(last_checkpoint(directory), run, model, optimizers, plan.steps, device)
    if progress.heldout_identity != heldout_identity:
        progress.heldout, progress.heldout_identity = [], heldout_identity
    resumed_at = progress.step
    began = time.monotonic() - progress.seconds
    saved = time.monotonic()
    was_training = model.training
    try:
        with stop_requests() as asked:
            while progress.step < plan.steps:
                step = progress.step
                first = step * plan.batch_rows
                last = min(first + plan.batch_rows, plan.rows)
                rows, numbers = order.rows(first, last), np.arange(first, last)
                rate = learning_rate(step, plan.steps, settings)
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate

                model.train()
                with torch.random.fork_rng():
                    # Dropout, too, depends on seed and step alone.
                    torch.manual_seed(int(random_stream(seed, "dropout", step).random_raw()))
                    loss, predicted = _accumulate(
                        model, samples, objective, settings, rows, numbers, device
                    )
                norm = _scale_and_clip(model, predicted, settings.clip)
                skipped = fault(loss, norm, progress.recent, settings.spike)
                if skipped is None:
                    for optimizer in optimizers:
                        optimizer.step()
                for optimizer in optimizers:
                    optimizer.zero_grad(set_to_none=True)

                before = progress.tokens
                progress.add(int(samples.lengths(rows).sum()), predicted, loss, norm, skipped)
                if skipped is not None:
                    _skip(skipped, progress, plan.steps, settings)
                stop = asked()
                done = progress.step == plan.steps
                heldout = None
                if evaluate is not None and (done or _is_due(before, progress.tokens, settings)):
                    model.eval()
                    heldout = evaluate(model)
                    progress.heldout.append((progress.tokens, heldout))
                progress.seconds = time.monotonic() - began
                if done or stop or time.monotonic() - saved >= settings.save_every:
                    state = {
                        "run": run,
                        "environment": environment(device, settings.precision),
                        **vars(progress),
                    }
                    save_checkpoint(
                        directory, progress.step, model, None if done else optimizers, state
                    )
                    saved = time.monotonic()
                if on_step is not None:
                    on_step(
                        StepReport(
                            step=progress.step,
                            steps=plan.steps,
                            tokens=progress.tokens,
                            loss=loss,
                            gradient_norm=norm,
                            learning_rate=rate,
                            heldout=heldout,
                            seconds=progress.seconds,
                            skipped=skipped,
                        )
                    )
                if stop:
                    _log.warning(
                        "training: asked to stop; saved after step %d of %d, the same call goes on",
                        progress.step,
                        plan.steps,
                    )
                    leave(stop)
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)
    return TrainingResult(
        curve=progress.curve,
        heldout=progress.heldout,
        tokens=progress.tokens,
        predicted=progress.predicted,
        seconds=progress.seconds,
        resumed_at=resumed_at,
        skipped=progress.skipped,
    )


def _skip(reason: str, progress: _Progress, steps: int, settings: RecoverySettings) -> None:
    """Says that a step was skipped. Raises UserError where there were too many in a row."""
    where = f"training: {reason} at step {progress.step} of {steps}"
    if progress.skipped_in_a_row >= min(settings.skips, steps):
        raise UserError(
            f"{where}, after {progress.skipped_in_a_row - 1} steps skipped in a row; "
            f"a learning_rate below {settings.learning_rate:g} should be right"
        )
    _log.warning("%s; no update", where)


def _accumulate(
    model: nn.Module,
    samples: Samples,
    objective: Objective,
    settings: RecoverySettings,
    rows: NDArray[np.int64],
    numbers: NDArray[np.int64],
    device: torch.device,
) -> tuple[float, int]:
    """Adds up the gradients of the summed loss; returns loss per token and tokens.

    Rows of like length share a micro-batch, so that little is padding.
    """
    by_length = np.argsort(-samples.lengths(rows), kind="stable")
    rows, numbers = rows[by_length], numbers[by_length]
    total = torch.zeros((), dtype=torch.float64, device=device)
    predicted = 0
    for first in range(0, len(rows), settings.micro_batch):
        part = slice(first, first + settings.micro_batch)
        arrays = samples.batch(rows[part], numbers[part])
        batch = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        with autocast(settings.precision, device):
            loss, tokens = objective(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        predicted += tokens
    return total.item() / predicted, predicted


def _scale_and_clip(model: nn.Module, predicted: int, clip: float) -> float:
    """Turns gradients of the sum into gradients of the clipped mean; returns their norm before."""
    gradients: list[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients).item() / predicted
    factor = min(1.0, clip / (norm + 1e-6)) / predicted
    torch._foreach_mul_(gradients, factor)
    return norm


def _is_due(before: int, after: int, settings: RecoverySettings) -> bool:
    every = settings.evaluate_every
    return every is not None and before // every < after // every


def _resume(
    checkpoint: Checkpoint | None,
    run: dict[str, Any],
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    steps: int,
    device: torch.device,
) -> _Progress:
    if checkpoint is None:
        return _Progress()
    state = checkpoint.state
    for key, value in run.items():
        theirs = state["run"].get(key)
        if theirs != value:
            raise UserError(
                f"{checkpoint.path}: a checkpoint of another training ({key} was {theirs}, "
                f"now {value}); remove {checkpoint.path.parent} or name another directory"
            )
    now = environment(device, run["precision"])
    changed = [
        f"{key} was {state['environment'].get(key)}, now {value}"
        for key, value in now.items()
        if state["environment"].get(key) != value
    ]
    if changed:
        _log.warning(
            "%s: resumed elsewhere than it was written, so the weights may differ in their last "
            "bits: %s",
            checkpoint.path,
            "; ".join(changed),
        )
    complete = state["step"] == steps
    load_checkpoint(checkpoint, model, None if complete else optimizers)
    return _Progress(
        step=state["step"],
        tokens=state["tokens"],
        predicted=state["predicted"],
        seconds=state["seconds"],
        curve=[(tokens, loss) for tokens, loss in state["curve"]],
        heldout=[(tokens, loss) for tokens, loss in state["heldout"]],
        heldout_identity=state["heldout_identity"],
        recent=[(loss, norm) for loss, norm in state["recent"]],
        skipped=state["skipped"],
        skipped_in_a_row=state["skipped_in_a_row"],
    )
