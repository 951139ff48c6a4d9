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
    readable,
    shard,
    whole_weights,
)
from regrow.training.distributed.stalls import Doing, watched
from regrow.training.efficiency.allocator import kept_memory
from regrow.training.efficiency.attention import can_read_text_by_text, text_by_text
from regrow.training.efficiency.layer_computation import (
    check_compilable,
    check_compiler,
    check_recomputable,
    compiled,
    recomputing,
)
from regrow.training.efficiency.micro_batches import passes
from regrow.training.efficiency.saved_tensors import saving_less
from regrow.training.mixing.losses_by_component import ComponentLosses
from regrow.training.mixing.training_mixture import MixtureLosses, TrainingMixture
from regrow.training.optimizers import make_optimizers
from regrow.training.reproducibility import environment
from regrow.training.resume import TrainingState, resume
from regrow.training.schedule import learning_rate, schedule
from regrow.training.settings import RecoverySettings
from regrow.training.step_guard import fault
from regrow.training.stop_signals import leave, stop_requests
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
    """Trains a model in place, safe to kill and call again.

    The same call on the same machine kind, counts of threads and processes, and versions ends in
    the same weights bit for bit, however often it was killed; with another count of processes, in
    the same weights but for rounding. The last checkpoint in ``directory`` is taken up; when
    the training is complete it holds the weights alone, and another call only loads them.

    Args:
        model: Float32 parameters; one process trains on the device that they are on.
        directory: For checkpoints, which no other training may use.
        identity: Hash of what the model was before training, as the caller knows it.

    Under torchrun every process calls it alike, with the whole model on the CPU; all but the first
    may have theirs on the meta device (`regrow.training.distributed.sharded_loading`). They share
    the work and the model: afterwards its parameters are DTensors, and `whole_weights` puts them
    together.

    Asked by SIGTERM or SIGINT to stop, it saves a checkpoint after the step at hand and leaves by
    SystemExit or KeyboardInterrupt.

    Raises:
        UserError: ``directory`` holds the checkpoint of another training, the objective cannot
            train this model, or too many steps in a row were skipped (``settings.skips``).
    """
    samples, learned, seed, mixtures = task.samples, task.loss, task.seed, task.mixtures
    evaluate = heldout.evaluate
    wrong = {str(parameter.dtype) for parameter in model.parameters()} - {"torch.float32"}
    if wrong:
        raise ValueError(f"training keeps its weights in float32, not {', '.join(sorted(wrong))}")
    if samples.row_length != settings.row_length:
        raise ValueError(f"rows of {samples.row_length}, settings for {settings.row_length}")
    processes = join_processes()
    device = processes.device or next(model.parameters()).device
    processes.in_all(partial(_check, model, learned, settings, processes, device))
    by_text = not settings.compile and processes.in_first(
        lambda: can_read_text_by_text(model, device, settings.precision)
    )

    learner = shard(model, learned, processes, settings.replicas, offload=settings.offload)
    optimizers = processes.in_all(lambda: make_optimizers(model, settings))
    run = {
        **{key: value for key, value in settings.decisive().items() if key != "evaluate_every"},
        "model": identity,
        "data": samples.identity,
        # In place of its name: which teacher, and which mask, the settings do not say.
        "objective": learned.identity,
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
    if mixtures is not None and resumed_at:
        mixtures.load(progress.mixtures)
    checkpoints = Checkpoints(directory, processes, background=settings.save_in_background)
    began = time.monotonic() - progress.seconds
    saved = time.monotonic()
    was_training = model.training
    try:
        with (
            stop_requests() as asked,
            recomputing(model, settings.recompute),
            compiled(model, settings.compile),
            watched(
                processes.rank,
                processes.count,
                processes.board(f"stalls {directory}"),
                settings.stall,
            ) as mark,
            text_by_text(model, by_text),
            kept_memory(),
        ):
            while progress.step < plan.steps:
                step, at = progress.step, time.monotonic()
                first = step * plan.batch_rows
                last = min(first + plan.batch_rows, plan.rows)
                rows, numbers = order.rows(first, last), np.arange(first, last)
                shares = None if mixtures is None else mixtures.shares()
                rate = learning_rate(step, plan.steps, settings)
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate

                model.train()
                with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                    # Dropout, too, depends on seed and step alone, and differs between processes.
                    purpose = "dropout" if processes.first else f"dropout {processes.rank}"
                    torch.manual_seed(int(random_stream(seed, purpose, step).random_raw()))
                    summed, counted, by_component = _accumulate(
                        learner, StepRows(samples, rows, numbers), settings, processes, device,
                        partial(mark, step + 1),
                    )  # fmt: skip
                mark(step + 1, "updating")
                # One sum, so that all take the same decisions from the same numbers.
                late = processes.first and time.monotonic() - saved >= settings.save_every
                decided = [asked(), late, checkpoints.written()]
                totals = processes.total([summed, counted, *decided, *by_component.sums()])
                loss, predicted = totals[0] / totals[1], int(totals[1])
                stop, late = totals[2] > 0, totals[3] > 0
                if totals[4] == processes.count:
                    checkpoints.finish()
                norm = _scale_and_clip(model, predicted, settings.clip)
                skipped = fault(loss, norm, progress.recent, settings.spike)
                if skipped is None:
                    for optimizer in optimizers:
                        optimizer.step()
                for optimizer in optimizers:
                    optimizer.zero_grad(set_to_none=True)

                taken = time.monotonic() - at
                before = progress.tokens
                progress.add(int(samples.lengths(rows).sum()), predicted, loss, norm, skipped)
                if skipped is not None:
                    _skip(skipped, progress, plan.steps, settings, processes)
                done = progress.step == plan.steps
                mark(step + 1, "measuring")
                heldout_loss = mixture_losses = None
                every = settings.evaluate_every
                if evaluate is not None and (done or _is_due(every, before, progress.tokens)):
                    model.eval()
                    with readable(learner):
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
                    step_seconds=taken,
                    shares=shares,
                )
                mark(step + 1, "reporting")
                if hooks.track is not None and processes.first:
                    hooks.track(report)
                mark(step + 1, "saving")
                exports = hooks.export is not None and _is_due(
                    settings.export_every, before, progress.tokens
                )
                if hooks.export is not None and exports:
                    write = partial(hooks.export, progress.step, whole_weights(model))
                    processes.in_first(write)
                if done or stop or late or exports:
                    state = {
                        "run": run,
                        "environment": machine,
                        **vars(progress),
                    }
                    checkpoints.save(
                        progress.step, model, None if done else optimizers, state,
                        wait=done or stop,
                    )  # fmt: skip
                    saved = time.monotonic()
                mark(step + 1, "reporting")
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
                    leave(asked() or signal.SIGTERM)
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
    """Raises UserError where this model cannot learn this, or not so."""
    check_positions(model, settings.row_length)
    if processes.first:  # who may be the only one that has the weights
        loss.check(model)
    check_replicas(settings.replicas, processes.count)
    if settings.offload:
        check_offload(processes.count, device)
    if settings.recompute:
        check_recomputable(model)
    if settings.compile:
        check_compilable(model)
        check_compiler(device)


def _skip(
    reason: str,
    progress: TrainingState,
    steps: int,
    settings: RecoverySettings,
    processes: Processes,
) -> None:
    """Says that a step was skipped. Raises UserError where there were too many in a row."""
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
    """What an optimiser step is computed on: rows, and the numbers of the samples that they are."""

    samples: Samples
    rows: NDArray[np.int64]
    numbers: NDArray[np.int64]


def _accumulate(
    learner: Learner,
    step: StepRows,
    settings: RecoverySettings,
    processes: Processes,
    device: torch.device,
    mark: Callable[[Doing], None],
) -> tuple[float, int, ComponentLosses]:
    """Adds up the gradients of the summed loss of this process's rows; returns it and its tokens.

    And the same by component.

    Rows of like length share a micro-batch (`regrow.training.efficiency.micro_batches`), and are
    dealt out to the processes in turn, so that none waits long for another.
    """
    samples, rows, numbers = step.samples, step.rows, step.numbers
    total = torch.zeros((), dtype=torch.float64, device=device)
    predicted = 0
    # What is recomputed or compiled decides itself what it keeps; on GPUs nobody has tried it.
    saves = device.type == "cpu" and not (settings.recompute or settings.compile)
    by_component = ComponentLosses(components_of(samples, rows, numbers), len(rows), device)
    todo = passes(samples, rows, numbers, settings.micro_batch * processes.count)
    for number, part in enumerate(todo, start=1):
        if isinstance(learner, FSDPModule):
            # Replicas add up once a step what each of them has added up in every pass.
            learner.set_requires_all_reduce(number == len(todo))
        own = part[processes.rank :: processes.count]
        # Every rank must join the collective, so an idle rank runs a row with weight zero.
        counts = len(own) > 0
        own = own if counts else part[:1]
        mark("reading samples")
        arrays = samples.batch(rows[own], numbers[own])
        batch = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        mark("computing")
        with autocast(settings.precision, device), saving_less(saves):
            loss, each = learner(batch)
        (loss * counts).backward()
        if counts:
            total += loss.detach()
            predicted += len(each)
            by_component.add(own, batch, each)
    return total.item(), predicted, by_component


def _scale_and_clip(model: nn.Module, predicted: int, clip: float) -> float:
    """Turns gradients of the sum into gradients of the clipped mean; returns their norm before."""
    gradients: list[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
    total = nn.utils.get_total_norm(gradients)
    whole = total.full_tensor() if isinstance(total, DTensor) else total
    norm = whole.item() / predicted
    factor = min(1.0, clip / (norm + 1e-6)) / predicted
    torch._foreach_mul_(gradients, factor)
    return norm


def _update_mixtures(
    mixtures: TrainingMixture, learner: Learner, processes: Processes, tokens: int, next_sample: int
) -> Mapping[str, float]:
    learner.model.eval()
    with readable(learner):
        measured = mixtures.measure(learner.model)
    losses = processes.in_first(lambda: measured)
    mixtures.after(MixtureLosses(losses, tokens, next_sample))
    return losses


def _is_due(every: int | None, before: int, after: int) -> bool:
    """Whether a multiple of so many tokens was passed."""
    return every is not None and before // every < after // every
