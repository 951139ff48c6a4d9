"""Fine-tune a model on prompts and answers: from one model directory to another."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.training.settings import RecoverySettings

if TYPE_CHECKING:
    from regrow.objectives.rows.prompt_answers import PromptAnswers
    from regrow.training.task import StepReport, TrainingResult

TRAINING = "training"
"""The directory of the checkpoints."""
_NOT_HERE = ("objective", "denoisers", "domains", "distill", "export_every", "track")
"""Settings that mean nothing for prompts and answers."""


@dataclass(frozen=True)
class TuningData:
    """Prompts and answers as tokens.

    Attributes:
        train: To train on.
        heldout: To measure the loss per answer token on; None measures nothing.
        words: What they are, for the card of the model; with names in place of paths.
    """

    train: "PromptAnswers"
    heldout: "PromptAnswers | None" = None
    words: str = "prompts and answers"


def check_tuning_settings(settings: RecoverySettings, *, is_encoder_decoder: bool) -> None:
    """Raise UserError if a setting means nothing for prompts and answers, or for the model."""
    for name in _NOT_HERE:
        if getattr(settings, name) not in (None, ()):
            raise UserError("has no meaning for prompts and answers; leave it out", key=name)
    settings.check_kind("instructions", is_encoder_decoder=is_encoder_decoder)


def fine_tune(
    source: ModelDirectory,
    place: Path,
    settings: RecoverySettings,
    data: TuningData,
    *,
    seed: int,
    on_step: Callable[["StepReport"], None] | None = None,
) -> "TrainingResult":
    """Train a model to answer, and write it to ``place/model``.

    The checkpoints are in ``place/training``; a training that was killed resumes if this is called
    again. Under torchrun every process must call this.

    Raises UserError if the model cannot be trained like this.
    """
    import torch

    from regrow.checkpoint.history import change
    from regrow.common.files import remove
    from regrow.objectives.answers import answer_loss_and_rows
    from regrow.training.distributed.sharding import full_state_dict
    from regrow.training.loop import train
    from regrow.training.task import HeldoutMeasurement, Hooks, TrainingTask
    from regrow.training.trainee import load_trainee

    trainee = load_trainee(source, settings, seed)

    def open_in_each(shared_rows: bool) -> TrainingTask:
        loss, rows = answer_loss_and_rows(
            data.train, trainee.model.config, seed, prefix=settings.prefix, shared_rows=shared_rows
        )
        return TrainingTask(rows, loss, seed)

    task = trainee.open_task(open_in_each)
    evaluate = None if data.heldout is None else _heldout_loss(settings, data.heldout)
    identity = "" if data.heldout is None else data.heldout.identity
    with torch.enable_grad():
        result = train(
            trainee.model, task, settings, directory=place / TRAINING,
            identity=trainee.checkpoint.fingerprint, heldout=HeldoutMeasurement(identity, evaluate),
            hooks=Hooks(on_step=on_step),
        )  # fmt: skip
    weights = full_state_dict(trainee.model)
    # Without settings, since no recipe does this: the keys of a recovery would train on text.
    step = change("training", _words(data, settings, result), {}, trainee.layout)

    def save() -> None:
        remove(place / "model")
        trainee.save(weights, place / "model", step)

    trainee.processes.in_first(save)
    return result


def _words(data: TuningData, settings: RecoverySettings, result: "TrainingResult") -> str:
    """What was done, in one line for the card."""
    words = [data.words, f"{result.tokens:,} tokens, loss on the answers"]
    if settings.lora is not None:
        words.append(settings.lora.words())
    given = [
        f"{name} {value}"
        for name, value in settings.decisive().items()
        if name != "tokens" and isinstance(value, str | int | float)
    ]
    words += [f"settings: {', '.join(given)}"] if given else []
    if result.heldout_curve:
        words.append(f"held out: {result.heldout_curve[-1][1]:.4f} nats per answer token")
    return "; ".join(words)


def _heldout_loss(settings: RecoverySettings, pairs: "PromptAnswers") -> "Callable[[Any], float]":
    """A function of the model that gives its loss per answer token."""
    from regrow.evaluation.answer_loss import answer_loss

    return lambda trained: answer_loss(
        trained, pairs, precision=settings.precision, prefix=settings.prefix
    )[0]
