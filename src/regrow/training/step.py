"""What a training does in a step: gradients, update, and measurements."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from regrow.common.precision import autocast
from regrow.common.random_stream import random_stream
from regrow.corpus.samples import Samples, components_of
from regrow.objectives.losses.head import check_positions
from regrow.objectives.losses.loss import Loss
from regrow.training.distributed.processes import Processes, join_processes
from regrow.training.distributed.sharding import (
    Learner,
    check_offload,
    check_replicas,
    shard,
    unsharded,
)
from regrow.training.distributed.stalls import Activity
from regrow.training.efficiency.attention import supports_document_attention
from regrow.training.efficiency.layer_computation import (
    check_compilable,
    check_compiler,
    check_recomputable,
)
from regrow.training.efficiency.micro_batches import split_into_micro_batches
from regrow.training.efficiency.saved_tensors import save_fewer_tensors
from regrow.training.embeddings import freeze_embeddings
from regrow.training.mixing.losses_by_component import ComponentLosses
from regrow.training.mixing.training_mixtures import TrainingMixtures
from regrow.training.optimizers import make_optimizers
from regrow.training.resume import TrainingState
from regrow.training.settings import RecoverySettings
from regrow.training.step_guard import skip_reason
from regrow.training.task import HeldoutMeasurement, TrainingTask


@dataclass(frozen=True, eq=False)
class Setup:
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


def set_up(model: nn.Module, task: TrainingTask, settings: RecoverySettings) -> Setup:
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
    return Setup(learner, optimizers, settings, task.seed, processes, device, separates_documents)


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


def accumulate(
    setup: Setup, step: int, rows: StepRows, set_activity: Callable[[Activity], None]
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
    setup: Setup, step_rows: StepRows, set_activity: Callable[[Activity], None]
) -> tuple[float, int, ComponentLosses]:
    """As `accumulate`, with the random state as it is.

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


def update(
    setup: Setup, state: TrainingState, loss: float, predicted: int
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


def measure(setup: Setup, state: TrainingState, heldout: HeldoutMeasurement) -> float | None:
    """Measure the held-out loss, and add it to `state`; None if there is nothing to measure."""
    if heldout.evaluate is None:
        return None
    model = setup.learner.model
    model.eval()
    with unsharded(setup.learner):
        loss = heldout.evaluate(model)
    state.heldout.append((state.tokens, loss))
    return loss


def update_mixtures(
    setup: Setup, state: TrainingState, mixtures: TrainingMixtures, next_sample: int
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
