"""Recover what a cut cost by training: from one model directory to another.

The objective (`regrow.objectives.registry`) says what is learned. By default a decoder predicts the
next token of packed documents, and an encoder-decoder fills in spans taken out of them.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.checkpoint.history import Change, change
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.files import remove
from regrow.common.publishing import make_directory
from regrow.evaluation.heldout_text import HeldoutText, loss_on
from regrow.training.cost import flops_per_token
from regrow.training.open_mixtures import Losses, open_mixtures
from regrow.training.settings import TRAINED, RecoverySettings
from regrow.training.tracking import WriteNumbers, tracking

if TYPE_CHECKING:
    from regrow.architectures import Layout
    from regrow.corpus.sources import Texts
    from regrow.training.task import StepReport, TrainingResult, TrainingTask
    from regrow.training.trainee import Trainee


@dataclass(frozen=True)
class RecoveryData:
    """The text of a recovery.

    Attributes:
        train: The text to train on.
        heldout: Held-out texts, by name. Mixtures follow the loss on them. The loss on the first
            is also measured during the training, if the settings have `evaluate_every`.
        heldout_hashes: Of the held-out texts, by name.
        references: Losses that mixtures are to get back to, if the settings give none.
    """

    train: "Texts"
    heldout: Mapping[str, HeldoutText]
    heldout_hashes: Mapping[str, str]
    references: Losses


def recover(
    source: ModelDirectory,
    place: Path,
    settings: RecoverySettings,
    data: RecoveryData,
    *,
    seed: int,
    teacher: ModelDirectory | None = None,
    on_step: Callable[["StepReport"], None] | None = None,
) -> "TrainingResult":
    """Train a model and write it to `place`; the result differs from `source` only in its weights.

    `place` contains:

    - ``model``: the result.
    - ``training``: the checkpoints, from which a killed recovery resumes.
    - ``exports``: the model during the training, if the settings have `export_every`.
    - the numbers of each step, for the tools in `settings.track` (docs/training.md).

    `teacher`: the model to distill from, if the settings distill. Under torchrun every process
    must call this.

    Raises UserError if the model cannot learn the objective, or not from this text.
    """
    import torch

    from regrow.training.checkpoints import last_checkpoint
    from regrow.training.distributed.sharding import full_state_dict
    from regrow.training.loop import train
    from regrow.training.metrics import Meter
    from regrow.training.resume import restore
    from regrow.training.task import HeldoutMeasurement, Hooks
    from regrow.training.teacher import load_teacher
    from regrow.training.trainee import load_trainee

    trainee = load_trainee(source, settings, seed)
    processes, layout = trainee.processes, trainee.layout
    loaded_teacher = None
    if settings.distill is not None:
        if teacher is None:
            raise ValueError("settings that distill, and no teacher")
        loaded_teacher = load_teacher(teacher, source, settings.precision, processes)
    task = _open_task(trainee, source, data, seed, loaded_teacher)

    def export(step: int, tokens: int, weights: Mapping[str, Any]) -> None:
        path = place / "exports" / f"step-{step:08d}"
        remove(path)
        make_directory(path.parent)
        trainee.save(weights, path, _step(settings, data, layout, tokens))

    name, text = next(iter(data.heldout.items()))

    def evaluate(trained: Any) -> float:
        return loss_on(trained, source.tokenizer, text, bits=False).loss_per_token

    last = processes.in_first(lambda: last_checkpoint(place / "training", restore))
    done = 0 if last is None else int(last.state["step"])
    config = settings.model_dump(mode="json", exclude_defaults=True)
    teacher_layout = None if loaded_teacher is None or teacher is None else teacher.layout
    meter = Meter(
        flops_per_token(settings, layout, teacher_layout),
        processes.training_device,
        processes.count,
    )

    with ExitStack() as stack, torch.enable_grad():

        def open_trackers() -> WriteNumbers | None:
            if not processes.first:
                return None
            return stack.enter_context(tracking(settings.track, place, done, config))

        write = processes.in_all(open_trackers)

        def track(report: "StepReport") -> None:
            if write is not None:
                write(report.step, meter.numbers(report))

        result = train(
            trainee.model, task, settings, directory=place / "training",
            identity=trainee.checkpoint.fingerprint,
            heldout=HeldoutMeasurement(
                data.heldout_hashes[name], evaluate if settings.evaluate_every else None
            ),
            hooks=Hooks(track, on_step, export),
        )  # fmt: skip
    weights = full_state_dict(trainee.model)
    step = _step(settings, data, layout, result.tokens)
    processes.in_first(lambda: trainee.save(weights, place / "model", step))
    return result


def _step(settings: RecoverySettings, data: RecoveryData, layout: "Layout", tokens: int) -> Change:
    """The training as a step in the history of the model; texts by name only."""
    from regrow.corpus.sources import Corpus
    from regrow.objectives.registry import objective_name

    is_encoder_decoder = layout.blueprint.is_encoder_decoder
    objective = objective_name(settings.objective, is_encoder_decoder=is_encoder_decoder)
    words = [f"{tokens:,} tokens, objective {objective}"]
    if settings.lora is not None:
        words.append(settings.lora.words())
    if settings.distill is not None:
        words.append(settings.distill.words())
    if isinstance(data.train, Corpus):
        names = [
            f"{each.name} (written by the model)" if each.model is not None else each.name
            for each in data.train.sources
        ]
        words.append(f"text: {', '.join(names)}")
    chosen = {**settings.decisive(), "tokens": settings.tokens}
    return change("training", "; ".join(words), {"recover": chosen}, layout)


def keep_untrained(source: ModelDirectory, place: Path) -> None:
    """Give the model that `recover` wrote to `place` the weights of `source`, from before.

    The trained model is moved to ``trained`` in `place`. If this is interrupted, call `recover`
    again, and then this.
    """
    from regrow.checkpoint.trained_weights import save_trained

    model, trained = place / "model", place / TRAINED
    remove(trained)
    model.rename(trained)
    untrained = source.load()
    save_trained(untrained, untrained.state_dict(), source.checkpoint, source.layout, model)


def _open_task(
    trainee: "Trainee", source: ModelDirectory, data: RecoveryData, seed: int, teacher: Any
) -> "TrainingTask":
    """The loss, the samples and the mixtures of a recovery, the same in all processes."""
    from regrow.objectives.losses.distillation import Distilled
    from regrow.objectives.losses.head import check_positions
    from regrow.objectives.losses.loss import Loss
    from regrow.objectives.registry import TrainingData, loss_and_rows, widest_row
    from regrow.training.task import TrainingTask

    settings, config = trainee.settings, trainee.model.config

    def open_in_each(shared_rows: bool) -> TrainingTask:
        tokenizer = source.tokenizer
        check_positions(
            trainee.model, settings.row_length,
            partial(widest_row, settings.objective, tokenizer, config),
        )  # fmt: skip
        training_data = TrainingData(
            data.train, tokenizer, config, settings.row_length, seed, settings.prefix, shared_rows
        )
        from_text, samples = loss_and_rows(settings.objective, training_data)
        loss: Loss = from_text
        if (distill := settings.distill) is not None and teacher is not None:
            loss = Distilled(from_text, teacher, distill.weight, distill.temperature)
        mixtures = open_mixtures(
            settings, samples, tokenizer, config, data.heldout, data.references
        )
        return TrainingTask(samples, loss, seed, mixtures)

    return trainee.open_task(open_in_each)
