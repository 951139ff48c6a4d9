"""Train a model to tag named entities, as prompts and answers."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from regrow.checkpoint.history import history_of
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.common.fields import Size, Strict, refuse_bool
from regrow.common.files import json_bytes, read_json_object, write_atomically
from regrow.common.outputs import check_new_directory
from regrow.common.progress import QUIET, Progress, Update
from regrow.common.publishing import publish_finished, remove_strays, workplace
from regrow.common.validation_errors import validated
from regrow.corpus.parallel import check_same_work
from regrow.ner.pieces import divide
from regrow.ner.prompts import MOST_TYPES, Question, training_question
from regrow.ner.room import ROW_LENGTH, room_of
from regrow.ner.sentences import EntitySet
from regrow.ner.spelling import Spelling
from regrow.objectives.prompt_form import PromptForm, prompt_form
from regrow.training.fine_tuning import TuningData, check_tuning_settings, fine_tune
from regrow.training.settings import RecoverySettings

if TYPE_CHECKING:
    from regrow.objectives.rows.prompt_answers import PromptAnswers
    from regrow.training.task import StepReport, TrainingResult

_JOB = "job.json"
_EPOCHS_APART = 1_000_003
"""Between the seeds of two trainings, so that none has an epoch in common with the next seed."""
_BYTES_OF_A_CHECKPOINT = 12
"""For each parameter: the weight and two running averages, in float32."""


class EntityTraining(Strict):
    """What is trained on.

    Attributes:
        epochs: How often each sentence is used, each time with the types in another order.
        most_types: The most types in a prompt, beyond those that are in the sentence.
        limit: The most sentences of a set, from its beginning; None takes all.
        seed: Decides types, data order, and which examples share a row.
    """

    epochs: Size = 3
    most_types: Size = MOST_TYPES
    limit: Size | None = None
    seed: Annotated[int, BeforeValidator(refuse_bool), Field(ge=0)] = 0


@dataclass(frozen=True)
class TrainedTagger:
    """The result of a training.

    Attributes:
        model: A plain Hugging Face directory.
        examples: Prompts with their answers, over all epochs.
        tokens: Tokens of prompts and answers trained on.
        curve: For each step, the tokens trained after it, and the loss per answer token before its
            update.
        heldout: The loss per answer token on the held-out sentences at the end; None without any.
        seconds: Wall time, summed over all calls of this training.
        skipped: Steps without an update.
        notes: What of the files could not be kept.
    """

    model: Path
    examples: int
    tokens: int
    curve: list[tuple[int, float]]
    heldout: float | None
    seconds: float
    skipped: int
    notes: tuple[str, ...]


def train_tagger(
    model: ModelDirectory,
    out: Path,
    train: Sequence[EntitySet],
    how: EntityTraining,
    *,
    heldout: Sequence[EntitySet] = (),
    settings: Mapping[str, Any] | None = None,
    progress: Progress = QUIET,
) -> TrainedTagger:
    """Train a model on some sets and write it to `out`; a killed training goes on when repeated.

    With several processes, the first calls this inside `Processes.lead`, and the others train with
    it.

    Args:
        model: A decoder or an encoder-decoder.
        out: A new or empty directory.
        train: The sets to train on.
        how: What is trained on.
        heldout: Sets on which the loss is measured.
        settings: Keys of `regrow.training.settings.RecoverySettings`. By default, `tokens` are
            those of all epochs, and `row_length` is 1,024 or the positions of the model.
        progress: Receives the state of the training.

    Raises:
        UserError: a setting is not valid, a prompt does not fit, or `out` cannot be written.
    """
    from regrow.training.distributed.processes import join_processes

    remove_strays(out)
    check_new_directory(out, model.path)
    history_of(model.path, model.layout)  # its card may be damaged
    given = dict(settings or {})
    given.setdefault("row_length", _row_length(model.config))
    is_encoder_decoder = bool(model.config.is_encoder_decoder)
    checked = _checked(given, is_encoder_decoder=is_encoder_decoder)
    form = prompt_form(model.tokenizer, model.config)
    writer = _ExampleWriter(form, model.config, checked.row_length, how)
    data = TuningData(
        writer.pairs(train, how.epochs), writer.pairs(heldout, 1) if heldout else None,
        words=_words(train, how),
    )  # fmt: skip
    if "tokens" not in given:
        given["tokens"] = data.train.tokens
        checked = _checked(given, is_encoder_decoder=is_encoder_decoder)
    parameters = model.layout.parameters()
    check_free_space(out, model.weight_bytes + _BYTES_OF_A_CHECKPOINT * parameters)
    work = {
        "model": model.checkpoint.fingerprint,
        "examples": [data.train.identity, data.heldout and data.heldout.identity],
        "settings": checked.decisive(),
        "seed": how.seed,
    }
    with workplace(out, checkpoint=_JOB) as place:
        _check_job(place, work)
        tuning = partial(fine_tune, model, place, checked, data, seed=how.seed)
        join_processes().call(tuning)
        result = tuning(on_step=_reporter(progress))
        publish_finished(place / "model", out)
    notes = tuple(note for each in (*train, *heldout) for note in each.notes)
    return _trained(out, len(data.train), result, notes)


def _words(train: Sequence[EntitySet], how: EntityTraining) -> str:
    """What is trained on, in one line for the card: names of sets, and no paths."""
    sentences = sum(len(each.sentences[: how.limit]) for each in train)
    names = ", ".join(PurePath(each.name).name for each in train)
    left_out = sorted({name for each in train for name in each.left_out})
    words = [f"named entities of {names}", f"{sentences:,} sentences, epochs: {how.epochs}"]
    words += [f"types left out: {', '.join(left_out)}"] if left_out else []
    words += [f"seed {how.seed}"] if how.seed else []
    return "; ".join(words)


def _checked(given: Mapping[str, Any], *, is_encoder_decoder: bool) -> RecoverySettings:
    """The settings with these values. Raises UserError if they are not valid."""
    try:
        settings = validated(RecoverySettings, given)
        check_tuning_settings(settings, is_encoder_decoder=is_encoder_decoder)
    except UserError as error:
        raise error.within("settings.") from None
    return settings


def _row_length(config: Any) -> int:
    """The row length by default: as many tokens as the model has positions, at most 1,024."""
    return min(ROW_LENGTH, room_of(config, ROW_LENGTH).most or ROW_LENGTH)


def _check_job(place: Path, work: Mapping[str, Any]) -> None:
    """Note what is done here. Raises UserError if a killed training did something else."""
    job = place / _JOB
    if not job.is_file():
        write_atomically(job, json_bytes(work))
        return
    names = {"model": "weights", "examples": "data", "settings": "settings", "seed": "seed"}
    now = {name: _as_json(value) for name, value in work.items()}
    check_same_work(place, read_json_object(job), now, names)


def _as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file."""
    import json

    return json.loads(json.dumps(value))


def _trained(
    out: Path, examples: int, result: "TrainingResult", notes: tuple[str, ...]
) -> TrainedTagger:
    return TrainedTagger(
        model=out,
        examples=examples,
        tokens=result.tokens,
        curve=result.curve,
        heldout=result.heldout_curve[-1][1] if result.heldout_curve else None,
        seconds=result.seconds,
        skipped=result.skipped,
        notes=notes,
    )


def _reporter(progress: Progress) -> "Callable[[StepReport], None]":
    began = time.monotonic()
    first: int | None = None

    def report(step: "StepReport") -> None:
        nonlocal first
        first = step.step if first is None else first
        share = step.step / step.steps
        passed, done = time.monotonic() - began, step.step - first + 1
        progress.update(
            Update(
                stage="training",
                doing=f"step {step.step:,} of {step.steps:,}",
                share=share,
                seconds_left=passed / done * (step.steps - step.step),
                loss=step.loss,
                tokens_per_second=step.step_tokens / max(step.step_seconds, 1e-9),
            )
        )

    return report


class _ExampleWriter:
    """Writes sentences as prompts and answers that fit into a row."""

    def __init__(self, form: PromptForm, config: Any, row_length: int, how: EntityTraining) -> None:
        self._form = form
        self._spelling = Spelling(form.tokenizer)
        self._row_length = row_length
        self._how = how
        most = room_of(config, row_length).most
        if most is not None and most < row_length:
            raise UserError(
                f"the model has {most} positions; give at most so many",
                key="settings.row_length", value=row_length,
            )  # fmt: skip

    def pairs(self, sets: Sequence[EntitySet], epochs: int) -> "PromptAnswers":
        """The prompts and answers of all sentences, each once in each epoch, as tokens."""
        from regrow.objectives.rows.prompt_answers import prompt_answers

        start = self._form.decoder_start
        rows, longer = prompt_answers(
            self._examples(sets, epochs), self._row_length,
            start=self._form.pad if start is None else start, pad=self._form.pad,
        )  # fmt: skip
        assert not longer, "divided so that all fit"
        return rows

    def _examples(
        self, sets: Sequence[EntitySet], epochs: int
    ) -> Iterator[tuple[list[int], list[int]]]:
        for epoch in range(epochs):
            seed = self._how.seed * _EPOCHS_APART + epoch
            for of in sets:
                for sentence in of.sentences[: self._how.limit]:
                    question = training_question(sentence, of, seed, self._how.most_types)
                    for part in divide(question, self._fits):
                        yield self._tokens(part)

    def _tokens(self, question: Question) -> tuple[list[int], list[int]]:
        answer = self._form.target(self._spelling.answer(question))
        return self._form.source(question.prompt), answer

    def _fits(self, question: Question) -> bool:
        prompt, answer = self._tokens(question)
        return len(prompt) + len(answer) <= self._row_length
