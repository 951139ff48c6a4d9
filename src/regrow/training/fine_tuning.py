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
    from regrow.training.task import StepReport, TrainingResult, TrainingTask

TRAINING = "training"
"""The directory of the checkpoints."""
_NOT_HERE = ("objective", "denoisers", "domains", "distill", "export_every")
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


def check_tuning_settings(settings: RecoverySettings) -> None:
    """Raise UserError if a setting means nothing for prompts and answers."""
    for name in _NOT_HERE:
        if getattr(settings, name) is not None:
            raise UserError("has no meaning for prompts and answers; leave it out", key=name)


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
    from regrow.checkpoint.trained_weights import save_trained
    from regrow.common.files import remove
    from regrow.training.distributed.processes import join_processes
    from regrow.training.distributed.sharded_loading import load_in_first_process
    from regrow.training.distributed.sharding import full_state_dict
    from regrow.training.loop import train
    from regrow.training.lora import add_adapters, without_adapters
    from regrow.training.task import HeldoutMeasurement, Hooks

    processes = join_processes()
    checkpoint, layout = processes.in_all(lambda: (source.checkpoint, source.layout))
    model = load_in_first_process(source.path, torch.float32, processes)
    if (lora := settings.lora) is not None:
        processes.in_all(lambda: add_adapters(model, lora, seed))
    task = _task(model, settings, data.train, seed)
    evaluate = None if data.heldout is None else _heldout_loss(settings, data.heldout)
    identity = "" if data.heldout is None else data.heldout.identity
    with torch.enable_grad():
        result = train(
            model, task, settings, directory=place / TRAINING, identity=checkpoint.fingerprint,
            heldout=HeldoutMeasurement(identity, evaluate), hooks=Hooks(on_step=on_step),
        )  # fmt: skip
    weights = full_state_dict(model)
    # Without settings, since no recipe does this: the keys of a recovery would train on text.
    step = change("training", _words(data, settings, result), {}, layout)

    def save() -> None:
        remove(place / "model")
        plain = without_adapters(weights, lora)
        save_trained(plain, checkpoint, layout, place / "model", step)

    processes.in_first(save)
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


def _task(
    model: Any, settings: RecoverySettings, pairs: "PromptAnswers", seed: int
) -> "TrainingTask":
    """The loss and the rows, the same in all processes; a single process moves the model."""
    from regrow.objectives.answers import answer_loss_and_rows
    from regrow.objectives.losses.shared_row_attention import supports_shared_rows
    from regrow.training.distributed.processes import join_processes
    from regrow.training.task import TrainingTask

    processes = join_processes()
    shared_rows = settings.shared_rows
    if shared_rows is None:
        shared_rows = processes.in_first(
            lambda: bool(model.config.is_encoder_decoder) and supports_shared_rows(model)
        )

    def open_in_each() -> TrainingTask:
        loss, rows = answer_loss_and_rows(
            pairs, model.config, seed, prefix=settings.prefix, shared_rows=bool(shared_rows)
        )
        if processes.count == 1:  # several processes shard it before it is on a GPU
            model.to(processes.training_device)
        return TrainingTask(rows, loss, seed)

    return processes.in_all(open_in_each)
