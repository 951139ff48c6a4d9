"""The one training loop."""

import logging
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from regrow.corpus.samples import data_order
from regrow.training.checkpoints import Checkpoints
from regrow.training.distributed.processes import Processes
from regrow.training.distributed.sharding import full_state_dict
from regrow.training.distributed.stalls import watch_for_stalls
from regrow.training.efficiency.allocator import keep_freed_memory
from regrow.training.efficiency.attention import using_document_attention
from regrow.training.efficiency.layer_computation import compiled_layers, recomputed_layers
from regrow.training.optimizers import set_learning_rate
from regrow.training.reproducibility import environment
from regrow.training.resume import TrainingState, resume
from regrow.training.schedule import learning_rate, schedule
from regrow.training.settings import RecoverySettings
from regrow.training.step import StepRows, accumulate, measure, set_up, update, update_mixtures
from regrow.training.stop_signals import catch_stop_signals, exit_by_signal
from regrow.training.task import (
    NO_HOOKS,
    NOTHING_MEASURED,
    HeldoutMeasurement,
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
    heldout: HeldoutMeasurement = NOTHING_MEASURED,
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
        UserError: ``directory`` holds the checkpoint of another training, the loss cannot
            train this model, or too many steps in a row were skipped (``settings.skips``).
    """
    setup = set_up(model, task, settings)
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

                own_loss, own_predicted, by_component = accumulate(setup, step, rows, set_activity)
                set_activity("updating")
                # Sum over processes, so that all decide the same from the same numbers.
                save_is_due = processes.first and time.monotonic() - saved >= settings.save_every
                flags = [stop_signal(), save_is_due, checkpoints.is_written()]
                totals = processes.total([own_loss, own_predicted, *flags, *by_component.sums()])
                loss, predicted = totals[0] / totals[1], int(totals[1])
                stop, save_is_due = totals[2] > 0, totals[3] > 0
                if totals[4] == processes.count:
                    checkpoints.finish()
                norm, skipped = update(setup, state, loss, predicted)
                step_seconds = time.monotonic() - step_began

                before = state.tokens
                state.add(rows.tokens, predicted, loss, norm, skipped)
                if skipped is not None:
                    _report_skip(skipped, state, timetable.steps, settings, processes)
                done = state.step == timetable.steps
                set_activity("measuring")
                heldout_loss = None
                if done or _is_due(settings.evaluate_every, before, state.tokens):
                    heldout_loss = measure(setup, state, heldout)
                mixture_losses = None
                if mixtures is not None and _is_due(mixtures.every, before, state.tokens):
                    mixture_losses = update_mixtures(setup, state, mixtures, next_sample=last)
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
                    weights = full_state_dict(model)
                    write = partial(hooks.export, state.step, state.tokens, weights)
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
        heldout_curve=state.heldout,
        tokens=state.tokens,
        predicted=state.predicted,
        seconds=state.seconds,
        resumed_at=resumed_at,
        skipped=state.skipped,
        mixtures=state.mixtures,
    )


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


def _is_due(every: int | None, before: int, after: int) -> bool:
    """Whether the count of tokens passed a multiple of `every`."""
    return every is not None and before // every < after // every
