"""Train back what a cut cost: from one model directory to another.

The objective (`regrow.objectives.registry`) says what is learned. By default a decoder predicts the
next token of packed documents, and an encoder-decoder fills in spans taken out of them.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.reader import open_checkpoint
from regrow.models.loading import load_tokenizer
from regrow.training.cost import flops_per_token
from regrow.training.mixtures import Losses, make_steering
from regrow.training.settings import RecoverySettings
from regrow.training.tracking import Write, tracking

if TYPE_CHECKING:
    from regrow.corpus.samples import Samples
    from regrow.corpus.sources import Texts
    from regrow.objectives.losses.loss import Loss
    from regrow.training.loop import StepReport, TrainingResult
    from regrow.training.mixing.dynamic_mixtures import MixtureSteering


def recover(
    source: Path,
    out: Path,
    settings: RecoverySettings,
    text: "Texts",
    *,
    seed: int,
    training: Path,
    heldout: Path,
    heldout_identity: str,
    texts: Mapping[str, Path],
    references: Losses,
    on_step: Callable[["StepReport"], None] | None = None,
    teacher: Path | None = None,
) -> "TrainingResult":
    """Train the model of `source` and write it to `out`, as `source` in all but the weights.

    `training`: directory for checkpoints; a killed recovery goes on from the last. `heldout`: the
    text that is measured on the way, where the settings ask for that, and its hash. `texts`,
    `references`: what mixtures follow, by name, and the losses to get back to, where the settings
    give none (`regrow.training.mixtures`).
    `teacher`: where the settings distill, the directory of the model that is learned from.
    Numbers of each step go beside `out`, to what `settings.track` says (`docs/training.md`).
    Where the settings export, the model as it then is lies in ``exports`` beside `out`. Processes
    that torchrun started call it alike.
    Raises UserError where the model cannot learn this, or from this text.
    """
    import torch

    from regrow.checkpoint.trained_weights import save_trained
    from regrow.evaluation.heldout import text_loss
    from regrow.objectives.losses.distillation import Distilled
    from regrow.objectives.losses.shared_row_attention import supports_shared_rows
    from regrow.objectives.registry import TrainingData, loss_and_rows
    from regrow.training.checkpoints import last_checkpoint
    from regrow.training.distributed.processes import join_processes
    from regrow.training.distributed.sharded_loading import load_in_first
    from regrow.training.distributed.sharding import whole_weights
    from regrow.training.loop import train
    from regrow.training.metrics import Meter
    from regrow.training.teacher import load_teacher

    processes = join_processes()
    checkpoint = processes.in_all(lambda: open_checkpoint(source))
    layout = processes.in_all(lambda: bind_checkpoint(checkpoint))
    model = load_in_first(source, torch.float32, processes)
    shared_rows = settings.shared_rows
    if shared_rows is None:
        shared_rows = processes.in_first(
            lambda: bool(model.config.is_encoder_decoder) and supports_shared_rows(model)
        )
    whom = None
    if settings.distill is not None:
        if teacher is None:
            raise ValueError("settings that distill, and no teacher")
        whom = load_teacher(teacher, source, settings.precision, processes)

    def prepared() -> "tuple[Any, Samples, Loss, MixtureSteering | None]":
        tokenizer = load_tokenizer(source)
        data = TrainingData(text, tokenizer, model.config, settings.row_length, seed)
        loss, samples = loss_and_rows(
            settings.objective, data, prefix=settings.prefix, shared_rows=shared_rows
        )
        objective: Loss = loss
        if settings.distill is not None and whom is not None:
            objective = Distilled(loss, whom, settings.distill.weight, settings.distill.temperature)
        steering = make_steering(settings, samples, tokenizer, model.config, texts, references)
        if processes.count == 1:  # several share it out before it is on a GPU
            model.to(processes.trains_on)
        return tokenizer, samples, objective, steering

    tokenizer, samples, objective, steering = processes.in_all(prepared)

    def export(step: int, weights: Mapping[str, Any]) -> None:
        path = out.parent / "exports" / f"step-{step:08d}"
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_trained(weights, checkpoint, layout, path)

    def evaluate(trained: Any) -> float:
        return text_loss(trained, tokenizer, heldout, bits=False).loss_per_token

    last = processes.in_first(lambda: last_checkpoint(training))
    done = 0 if last is None else int(last.state["step"])
    config = settings.model_dump(mode="json", exclude_defaults=True)
    learned_from = None
    if settings.distill is not None and teacher is not None:
        learned_from = processes.in_all(lambda: bind_checkpoint(open_checkpoint(teacher)))
    meter = Meter(
        flops_per_token(settings, layout, learned_from),
        processes.trains_on,
        processes.count,
    )

    with ExitStack() as stack, torch.enable_grad():

        def opened() -> Write | None:
            if not processes.first:
                return None
            return stack.enter_context(tracking(settings.track, out.parent, done, config))

        write = processes.in_all(opened)

        def track(report: "StepReport") -> None:
            if write is not None:
                write(report.step, meter.numbers(report))

        result = train(
            model, samples, objective, settings, seed=seed, directory=training,
            identity=checkpoint.fingerprint, track=track, on_step=on_step,
            evaluate=evaluate if settings.evaluate_every else None,
            heldout_identity=heldout_identity, steering=steering, export=export,
        )  # fmt: skip
    weights = whole_weights(model)
    processes.in_first(lambda: save_trained(weights, checkpoint, layout, out))
    return result
