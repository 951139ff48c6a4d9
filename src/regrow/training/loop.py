"""The one training loop."""

import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from regrow.common.precision import autocast
from regrow.common.random_stream import random_stream
from regrow.corpus.samples import Samples, components_of, data_order
from regrow.objectives.losses.head import check_positions
from regrow.objectives.losses.loss import Loss
from regrow.training.checkpoints import Checkpoints
from regrow.training.distributed.processes import Processes, join_processes
from regrow.training.distributed.sharding import (
    Learner,
    check_offload,
    check_replicas,
    full_state_dict,
    shard,
    unsharded,
)
from regrow.training.distributed.stalls import Activity, watch_for_stalls
from regrow.training.efficiency.allocator import keep_freed_memory
from regrow.training.efficiency.attention import (
    supports_document_attention,
    using_document_attention,
)
from regrow.training.efficiency.layer_computation import (
    check_compilable,
    check_compiler,
    check_recomputable,
    compiled_layers,
    recomputed_layers,
)
from regrow.training.efficiency.micro_batches import split_into_micro_batches
from regrow.training.efficiency.saved_tensors import save_fewer_tensors
from regrow.training.embeddings import freeze_embeddings
from regrow.training.mixing.losses_by_component import ComponentLosses
from regrow.training.mixing.training_mixtures import TrainingMixtures
from regrow.training.optimizers import make_optimizers, set_learning_rate
from regrow.training.reproducibility import environment
from regrow.training.resume import TrainingState, resume
from regrow.training.schedule import learning_rate, schedule
from regrow.training.settings import RecoverySettings
from regrow.training.step_guard import skip_reason
from regrow.training.stop_signals import catch_stop_signals, exit_by_signal
from regrow.training.task import (
    NO_HOOKS,
    NOTHING_MEASURED,
    HeldoutLoss,
    Hooks,
    StepReport,
    TrainingResult,
    TrainingTask,
)

_log = logging.getLogger(__name__)


def train(
    model: nn.Module,
    task: TrainingTask,
    settings: RecoverySettings,
    *,
    directory: Path,
    identity: str = "",
    heldout: HeldoutLoss = NOTHING_MEASURED,
    hooks: Hooks = NO_HOOKS,
) -> TrainingResult:
    """Train a model in place. A killed training resumes if this is called again.

    The same call with the same versions, kind of machine, and numbers of threads and processes
    gives the same weights to the bit, however often it was killed. With another number of processes
    the weights differ by rounding. A call resumes from the last checkpoint in ``directory``. The
    checkpoint of a complete training has only the weights; another call then just loads them.

    Args:
        model: Has float32 parameters; a single process trains on their device.
        directory: For the checkpoints of this training alone.
        identity: Hash of the model before training.

    Under torchrun every process must call this, with the whole model on the CPU. In all processes
    but the first the model may be on the meta device
    (`regrow.training.distributed.sharded_loading`). The processes shard the model, so afterwards
    its parameters are DTensors; `full_state_dict` gathers them. With an ``embedding_rate`` of 0,
    embeddings and head stay without a gradient afterwards.

    At SIGTERM or SIGINT it finishes the current step, saves a checkpoint, and raises SystemExit or
    KeyboardInterrupt.

    Raises:
        UserError: ``directory`` holds the checkpoint of another training, the objective cannot
            train this model, or too many steps in a row were skipped (``settings.skips``).
    """
    setup = _set_up(model, task, settings)
    processes, mixtures = setup.processes, task.mixtures
    identities = _identities(task, settings, identity)
    order = data_order(task.samples, task.seed)
    timetable = schedule(settings, task.samples, order)
    machine = environment(setup.device, settings.precision, processes.count, settings.replicas)
    state = resume(
        directory, identities, model, setup.optimizers, timetable.steps, machine, processes
    )
    if state.heldout_identity != heldout.identity:
        state.heldout, state.heldout_identity = [], heldout.identity
    resumed_at = state.step
    if mixtures is not None and state.mixtures:  # empty before the first measurement
        mixtures.load(state.mixtures)
    checkpoints = Checkpoints(directory, processes, background=settings.save_in_background)
    began = time.monotonic() - state.seconds
    saved = time.monotonic()
    was_training = model.training
    try:
        with (
            catch_stop_signals() as stop_signal,
            recomputed_layers(model, settings.recompute),
            compiled_layers(model, settings.compile),
            watch_for_stalls(
                processes.rank,
                processes.count,
                processes.shared_store(f"stalls {directory}"),
                settings.stall,
            ) as set_progress,
            using_document_attention(model, setup.separates_documents),
            keep_freed_memory(),
        ):
            while state.step < timetable.steps:
                step, step_began = state.step, time.monotonic()
                set_activity = partial(set_progress, step + 1)
                first = step * timetable.batch_rows
                last = min(first + timetable.batch_rows, timetable.rows)
                rows = StepRows(task.samples, order.rows(first, last), np.arange(first, last))
                shares = None if mixtures is None else mixtures.shares()
                rate = learning_rate(step, timetable.steps, settings)
                set_learning_rate(setup.optimizers, rate)

                own_loss, own_predicted, by_component = _accumulate(setup, step, rows, set_activity)
                set_activity("updating")
                # Sum over processes, so that all decide the same from the same numbers.
                save_is_due = processes.first and time.monotonic() - saved >= settings.save_every
                flags = [stop_signal(), save_is_due, checkpoints.is_written()]
                totals = processes.total([own_loss, own_predicted, *flags, *by_component.sums()])
                loss, predicted = totals[0] / totals[1], int(totals[1])
                stop, save_is_due = totals[2] > 0, totals[3] > 0
                if totals[4] == processes.count:
                    checkpoints.finish()
                norm, skipped = _update(setup, state, loss, predicted)
                step_seconds = time.monotonic() - step_began

                before = state.tokens
                state.add(rows.tokens, predicted, loss, norm, skipped)
                if skipped is not None:
                    _report_skip(skipped, state, timetable.steps, settings, processes)
                done = state.step == timetable.steps
                set_activity("measuring")
                heldout_loss = None
                if done or _is_due(settings.evaluate_every, before, state.tokens):
                    heldout_loss = _measure(setup, state, heldout)
                mixture_losses = None
                if mixtures is not None and _is_due(mixtures.every, before, state.tokens):
                    mixture_losses = _update_mixtures(setup, state, mixtures, next_sample=last)
                state.seconds = time.monotonic() - began
                report = StepReport(
                    step=state.step,
                    steps=timetable.steps,
                    tokens=state.tokens,
                    loss=loss,
                    gradient_norm=norm,
                    learning_rate=rate,
                    heldout=heldout_loss,
                    mixture_losses=mixture_losses,
                    seconds=state.seconds,
                    skipped=skipped,
                    component_losses=by_component.means(totals[5:]),
                    step_tokens=state.tokens - before,
                    step_seconds=step_seconds,
                    shares=shares,
                )
                set_activity("reporting")
                if hooks.track is not None and processes.first:
                    hooks.track(report)
                set_activity("saving")
                export_is_due = hooks.export is not None and _is_due(
                    settings.export_every, before, state.tokens
                )
                if hooks.export is not None and export_is_due:
                    write = partial(hooks.export, state.step, full_state_dict(model))
                    processes.in_first(write)
                if done or stop or save_is_due or export_is_due:
                    checkpoints.save(
                        state.step, model, None if done else setup.optimizers,
                        {"run": identities, "environment": machine, **vars(state)},
                        wait=done or stop,
                    )  # fmt: skip
                    saved = time.monotonic()
                set_activity("reporting")
                if hooks.on_step is not None and processes.first:
                    hooks.on_step(report)
                if stop:
                    _report_stop(state, timetable.steps, processes)
                    exit_by_signal(stop_signal() or signal.SIGTERM)
    finally:
        checkpoints.abandon()
        model.train(was_training)
        model.zero_grad(set_to_none=True)
    return TrainingResult(
        curve=state.curve,
        heldout=state.heldout,
        tokens=state.tokens,
        predicted=state.predicted,
        seconds=state.seconds,
        resumed_at=resumed_at,
        skipped=state.skipped,
        mixtures=state.mixtures,
    )


@dataclass(frozen=True, eq=False)
class _Setup:
    """What all steps of a training work with.

    Attributes:
        learner: The model and its loss, sharded.
        separates_documents: Whether attention is computed text by text.
    """

    learner: Learner
    optimizers: list[torch.optim.Optimizer]
    settings: RecoverySettings
    seed: int
    processes: Processes
    device: torch.device
    separates_documents: bool


def _set_up(model: nn.Module, task: TrainingTask, settings: RecoverySettings) -> _Setup:
    """Check that the model can be trained, and shard it.

    Raises UserError if it cannot learn with this loss, or with these settings.
    """
    wrong_dtypes = {str(parameter.dtype) for parameter in model.parameters()} - {"torch.float32"}
    if wrong_dtypes:
        raise ValueError(
            f"training keeps its weights in float32, not {', '.join(sorted(wrong_dtypes))}"
        )
    if task.samples.row_length != settings.row_length:
        raise ValueError(f"rows of {task.samples.row_length}, settings for {settings.row_length}")
    processes = join_processes()
    device = processes.device or next(model.parameters()).device
    processes.in_all(partial(_check, model, task.loss, settings, processes, device))
    separates_documents = not settings.compile and processes.in_first(
        lambda: supports_document_attention(model, device, settings.precision)
    )
    if settings.embedding_rate == 0:
        freeze_embeddings(model)
    learner = shard(model, task.loss, processes, settings.replicas, offload=settings.offload)
    optimizers = processes.in_all(lambda: make_optimizers(model, settings))
    return _Setup(learner, optimizers, settings, task.seed, processes, device, separates_documents)


def _identities(task: TrainingTask, settings: RecoverySettings, model: str) -> dict[str, Any]:
    """Everything that decides the weights, by name; `model`: hash of the model before training."""
    decisive = settings.decisive()
    decisive.pop("evaluate_every", None)
    return {
        **decisive,
        "model": model,
        "data": task.samples.identity,
        # Replaces the name in the settings, which does not say which teacher or mask is used.
        "objective": task.loss.identity,
        "mixtures": None if task.mixtures is None else task.mixtures.identity,
        "seed": task.seed,
    }


def _check(
    model: nn.Module,
    loss: Loss,
    settings: RecoverySettings,
    processes: Processes,
    device: torch.device,
) -> None:
    """Raise UserError if the model cannot learn with this loss, or with these settings."""
    check_positions(model, settings.row_length)
    if processes.first:  # it may be the only one that has the weights
        loss.check(model)
    check_replicas(settings.replicas, processes.count)
    if settings.offload:
        check_offload(processes.count, device)
    if settings.recompute:
        check_recomputable(model)
    if settings.compile:
        check_compilable(model)
        check_compiler(device)


def _report_skip(
    reason: str,
    state: TrainingState,
    steps: int,
    settings: RecoverySettings,
    processes: Processes,
) -> None:
    """Log that a step was skipped. Raises UserError if too many in a row were skipped."""
    where = f"training: {reason} at step {state.step} of {steps}"
    if state.skipped_in_a_row >= min(settings.skips, steps):
        raise processes.error(
            f"{where}, after {state.skipped_in_a_row - 1} steps skipped in a row; "
            f"a learning_rate below {settings.learning_rate:g} should be right"
        )
    if processes.first:
        _log.warning("%s; no update", where)


def _report_stop(state: TrainingState, steps: int, processes: Processes) -> None:
    """Log that the training was asked to stop."""
    if processes.first:
        _log.warning(
            "training: asked to stop; saved after step %d of %d, from where the same call goes on",
            state.step,
            steps,
        )


@dataclass(frozen=True)
class StepRows:
    """The samples of an optimiser step: their rows, and their numbers in the training."""

    samples: Samples
    rows: NDArray[np.int64]
    numbers: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """Text tokens in all rows."""
        return int(self.samples.lengths(self.rows).sum())


def _accumulate(
    setup: _Setup, step: int, rows: StepRows, set_activity: Callable[[Activity], None]
) -> tuple[float, int, ComponentLosses]:
    """Accumulate the gradients of the summed loss of this process's rows.

    `step`: the number of the step, counted from 0.

    Returns the summed loss, the number of predicted tokens, and both by component.
    """
    device, processes = setup.device, setup.processes
    setup.learner.model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Dropout depends only on the seed, the step and the process.
        purpose = "dropout" if processes.first else f"dropout {processes.rank}"
        torch.manual_seed(int(random_stream(setup.seed, purpose, step).random_raw()))
        return _accumulate_micro_batches(setup, rows, set_activity)


def _accumulate_micro_batches(
    setup: _Setup, step_rows: StepRows, set_activity: Callable[[Activity], None]
) -> tuple[float, int, ComponentLosses]:
    """As `_accumulate`, with the random state as it is.

    Rows of similar length share a micro-batch (`regrow.training.efficiency.micro_batches`). The
    rows of a micro-batch are dealt to the processes in turn, so that none waits long for another.
    """
    learner, settings = setup.learner, setup.settings
    processes, device = setup.processes, setup.device
    samples, rows, numbers = step_rows.samples, step_rows.rows, step_rows.numbers
    total = torch.zeros((), dtype=torch.float64, device=device)
    predicted = 0
    # Recomputed or compiled layers decide themselves what to save; on GPUs this was not tried.
    saves_fewer = device.type == "cpu" and not (settings.recompute or settings.compile)
    by_component = ComponentLosses(components_of(samples, rows, numbers), len(rows), device)
    micro_batches = split_into_micro_batches(
        samples, rows, numbers, settings.micro_batch * processes.count
    )
    for number, part in enumerate(micro_batches, start=1):
        if isinstance(learner, FSDPModule):
            # Replicas sum their gradients once in each step, after its last micro-batch.
            learner.set_requires_all_reduce(number == len(micro_batches))
        own = part[processes.rank :: processes.count]
        # Every rank must join the collective, so an idle rank runs a row with weight zero.
        counts = len(own) > 0
        own = own if counts else part[:1]
        set_activity("reading samples")
        arrays = samples.batch(rows[own], numbers[own])
        batch = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        set_activity("computing")
        with autocast(settings.precision, device), save_fewer_tensors(saves_fewer):
            loss, each = learner(batch)
        (loss * counts).backward()
        if counts:
            total += loss.detach()
            predicted += len(each)
            by_component.add(own, batch, each)
    return total.item(), predicted, by_component


def _scale_and_clip(model: nn.Module, predicted: int, clip: float) -> float:
    """Scale the gradients of the summed loss to the mean and clip them.

    Returns the norm of the mean's gradient before clipping.
    """
    gradients: list[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
    total = nn.utils.get_total_norm(gradients)
    full = total.full_tensor() if isinstance(total, DTensor) else total
    norm = full.item() / predicted
    factor = min(1.0, clip / (norm + 1e-6)) / predicted
    torch._foreach_mul_(gradients, factor)
    return norm


def _update(
    setup: _Setup, state: TrainingState, loss: float, predicted: int
) -> tuple[float, str | None]:
    """Update the weights with the accumulated gradients, and clear these.

    `loss`: nats per token of the step. `predicted`: its predicted tokens, of all processes.

    Returns the norm of the gradient before clipping, and why there was no update; None if there
    was one.
    """
    norm = _scale_and_clip(setup.learner.model, predicted, setup.settings.clip)
    skipped = skip_reason(loss, norm, state.recent, setup.settings.spike)
    if skipped is None:
        for optimizer in setup.optimizers:
            optimizer.step()
    for optimizer in setup.optimizers:
        optimizer.zero_grad(set_to_none=True)
    return norm, skipped


def _measure(setup: _Setup, state: TrainingState, heldout: HeldoutLoss) -> float | None:
    """Measure the held-out loss, and add it to `state`; None if there is nothing to measure."""
    if heldout.evaluate is None:
        return None
    model = setup.learner.model
    model.eval()
    with unsharded(setup.learner):
        loss = heldout.evaluate(model)
    state.heldout.append((state.tokens, loss))
    return loss


def _update_mixtures(
    setup: _Setup, state: TrainingState, mixtures: TrainingMixtures, next_sample: int
) -> Mapping[str, float]:
    """Measure the losses that the mixtures follow, and change their shares.

    `next_sample`: number of the first sample that was not trained on yet.
    """
    model = setup.learner.model
    model.eval()
    with unsharded(setup.learner):
        measured = mixtures.measure(model)
    losses = setup.processes.in_first(lambda: measured)
    mixtures.update(losses, tokens=state.tokens, next_sample=next_sample)
    state.mixtures = mixtures.state()
    return losses


def _is_due(every: int | None, before: int, after: int) -> bool:
    """Whether the count of tokens passed a multiple of `every`."""
    return every is not None and before // every < after // every
