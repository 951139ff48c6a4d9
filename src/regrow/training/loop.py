"""The one training loop."""

import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
    samples, objective, seed, mixtures = task.samples, task.loss, task.seed, task.mixtures
    evaluate = heldout.evaluate
    wrong_dtypes = {str(parameter.dtype) for parameter in model.parameters()} - {"torch.float32"}
    if wrong_dtypes:
        raise ValueError(
            f"training keeps its weights in float32, not {', '.join(sorted(wrong_dtypes))}"
        )
    if samples.row_length != settings.row_length:
        raise ValueError(f"rows of {samples.row_length}, settings for {settings.row_length}")
    processes = join_processes()
    device = processes.device or next(model.parameters()).device
    processes.in_all(partial(_check, model, objective, settings, processes, device))
    separates_documents = not settings.compile and processes.in_first(
        lambda: supports_document_attention(model, device, settings.precision)
    )

    if settings.embedding_rate == 0:
        freeze_embeddings(model)
    learner = shard(model, objective, processes, settings.replicas, offload=settings.offload)
    optimizers = processes.in_all(lambda: make_optimizers(model, settings))
    run = {
        **{key: value for key, value in settings.decisive().items() if key != "evaluate_every"},
        "model": identity,
        "data": samples.identity,
        # Replaces the name in the settings, which does not say which teacher or mask is used.
        "objective": objective.identity,
        "mixtures": None if mixtures is None else mixtures.identity,
        "seed": seed,
    }
    order = data_order(samples, seed)
    plan = schedule(settings, samples, order)
    machine = environment(device, settings.precision, processes.count, settings.replicas)
    progress = resume(directory, run, model, optimizers, plan.steps, machine, processes)
    if progress.heldout_identity != heldout.identity:
        progress.heldout, progress.heldout_identity = [], heldout.identity
    resumed_at = progress.step
    if mixtures is not None and progress.mixtures:  # empty before the first measurement
        mixtures.load(progress.mixtures)
    checkpoints = Checkpoints(directory, processes, background=settings.save_in_background)
    began = time.monotonic() - progress.seconds
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
            using_document_attention(model, separates_documents),
            keep_freed_memory(),
        ):
            while progress.step < plan.steps:
                step, step_began = progress.step, time.monotonic()
                first = step * plan.batch_rows
                last = min(first + plan.batch_rows, plan.rows)
                rows, numbers = order.rows(first, last), np.arange(first, last)
                shares = None if mixtures is None else mixtures.shares()
                rate = learning_rate(step, plan.steps, settings)
                set_learning_rate(optimizers, rate)

                model.train()
                with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                    # Dropout depends only on the seed, the step and the process.
                    purpose = "dropout" if processes.first else f"dropout {processes.rank}"
                    torch.manual_seed(int(random_stream(seed, purpose, step).random_raw()))
                    loss_sum, own_predicted, by_component = _accumulate(
                        learner, StepRows(samples, rows, numbers), settings, processes, device,
                        partial(set_progress, step + 1),
                    )  # fmt: skip
                set_progress(step + 1, "updating")
                # Sum over processes, so that all decide the same from the same numbers.
                save_is_due = processes.first and time.monotonic() - saved >= settings.save_every
                flags = [stop_signal(), save_is_due, checkpoints.is_written()]
                totals = processes.total([loss_sum, own_predicted, *flags, *by_component.sums()])
                loss, predicted = totals[0] / totals[1], int(totals[1])
                stop, save_is_due = totals[2] > 0, totals[3] > 0
                if totals[4] == processes.count:
                    checkpoints.finish()
                norm = _scale_and_clip(model, predicted, settings.clip)
                skipped = skip_reason(loss, norm, progress.recent, settings.spike)
                if skipped is None:
                    for optimizer in optimizers:
                        optimizer.step()
                for optimizer in optimizers:
                    optimizer.zero_grad(set_to_none=True)

                step_seconds = time.monotonic() - step_began
                before = progress.tokens
                progress.add(int(samples.lengths(rows).sum()), predicted, loss, norm, skipped)
                if skipped is not None:
                    _report_skip(skipped, progress, plan.steps, settings, processes)
                done = progress.step == plan.steps
                set_progress(step + 1, "measuring")
                heldout_loss = mixture_losses = None
                every = settings.evaluate_every
                if evaluate is not None and (done or _is_due(every, before, progress.tokens)):
                    model.eval()
                    with unsharded(learner):
                        heldout_loss = evaluate(model)
                    progress.heldout.append((progress.tokens, heldout_loss))
                if mixtures is not None and _is_due(mixtures.every, before, progress.tokens):
                    mixture_losses = _update_mixtures(
                        mixtures, learner, processes, progress.tokens, last
                    )
                    progress.mixtures = mixtures.state()
                progress.seconds = time.monotonic() - began
                report = StepReport(
                    step=progress.step,
                    steps=plan.steps,
                    tokens=progress.tokens,
                    loss=loss,
                    gradient_norm=norm,
                    learning_rate=rate,
                    heldout=heldout_loss,
                    mixture_losses=mixture_losses,
                    seconds=progress.seconds,
                    skipped=skipped,
                    component_losses=by_component.means(totals[5:]),
                    step_tokens=progress.tokens - before,
                    step_seconds=step_seconds,
                    shares=shares,
                )
                set_progress(step + 1, "reporting")
                if hooks.track is not None and processes.first:
                    hooks.track(report)
                set_progress(step + 1, "saving")
                export_is_due = hooks.export is not None and _is_due(
                    settings.export_every, before, progress.tokens
                )
                if hooks.export is not None and export_is_due:
                    write = partial(hooks.export, progress.step, full_state_dict(model))
                    processes.in_first(write)
                if done or stop or save_is_due or export_is_due:
                    saved_state = {
                        "run": run,
                        "environment": machine,
                        **vars(progress),
                    }
                    checkpoints.save(
                        progress.step, model, None if done else optimizers, saved_state,
                        wait=done or stop,
                    )  # fmt: skip
                    saved = time.monotonic()
                set_progress(step + 1, "reporting")
                if hooks.on_step is not None and processes.first:
                    hooks.on_step(report)
                if stop:
                    if processes.first:
                        _log.warning(
                            "training: asked to stop; saved after step %d of %d, "
                            "from where the same call goes on",
                            progress.step,
                            plan.steps,
                        )
                    exit_by_signal(stop_signal() or signal.SIGTERM)
    finally:
        checkpoints.abandon()
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
        mixtures=progress.mixtures,
    )


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
    progress: TrainingState,
    steps: int,
    settings: RecoverySettings,
    processes: Processes,
) -> None:
    """Log that a step was skipped. Raises UserError if too many in a row were skipped."""
    where = f"training: {reason} at step {progress.step} of {steps}"
    if progress.skipped_in_a_row >= min(settings.skips, steps):
        raise processes.error(
            f"{where}, after {progress.skipped_in_a_row - 1} steps skipped in a row; "
            f"a learning_rate below {settings.learning_rate:g} should be right"
        )
    if processes.first:
        _log.warning("%s; no update", where)


@dataclass(frozen=True)
class StepRows:
    """The samples of an optimiser step: their rows, and their numbers in the training."""

    samples: Samples
    rows: NDArray[np.int64]
    numbers: NDArray[np.int64]


def _accumulate(
    learner: Learner,
    step: StepRows,
    settings: RecoverySettings,
    processes: Processes,
    device: torch.device,
    set_activity: Callable[[Activity], None],
) -> tuple[float, int, ComponentLosses]:
    """Accumulate the gradients of the summed loss of this process's rows.

    Returns the summed loss, the number of predicted tokens, and both by component.

    Rows of similar length share a micro-batch (`regrow.training.efficiency.micro_batches`). The
    rows of a micro-batch are dealt to the processes in turn, so that none waits long for another.
    """
    samples, rows, numbers = step.samples, step.rows, step.numbers
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


def _update_mixtures(
    mixtures: TrainingMixtures,
    learner: Learner,
    processes: Processes,
    tokens: int,
    next_sample: int,
) -> Mapping[str, float]:
    learner.model.eval()
    with unsharded(learner):
        measured = mixtures.measure(learner.model)
    losses = processes.in_first(lambda: measured)
    mixtures.update(losses, tokens=tokens, next_sample=next_sample)
    return losses


def _is_due(every: int | None, before: int, after: int) -> bool:
    """Whether the count of tokens passed a multiple of `every`."""
    return every is not None and before // every < after // every
