"""A text file that a model writes itself, as training and calibration text.

The text is written in rounds (`regrow.writing.rounds`). What a round writes is a function of the
seed, its number and the rounds before it, and is saved when the round is complete. So a run that
was killed goes on with the round that was not complete, and ends in the same bits.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common import environment
from regrow.common.errors import UserError
from regrow.common.files import (
    json_bytes,
    read_json_object,
    write_atomically,
)
from regrow.common.precision import available_device, weights_dtype
from regrow.common.publishing import (
    publish_finished,
    unfinished_place,
    workplace,
)
from regrow.common.random_stream import random_stream
from regrow.corpus.parallel import (
    Progress,
    check_new,
    no_progress,
    other_work,
)
from regrow.writing.filters import LEAST_TOKENS, language_filter
from regrow.writing.prompts import (
    Start,
    brief_starts,
    prompts_sha256,
    question_starts,
    read_prompts,
)
from regrow.writing.rounds import REASONS, Sampling, write_round
from regrow.writing.text_form import TextForm, text_form
from regrow.writing.written_rounds import JOB, ROUNDS, Round, WrittenRounds

LONGEST = 512
"""The most tokens of a text; fewer if the model knows fewer positions."""
_MOST_ROWS, _LEAST_ROWS = 128, 8
_CACHE_BYTES = 1 << 32
"""The most bytes of the keys and values of a round, if it has more than `_LEAST_ROWS` rows."""
_GUESSED_TOKENS, _GUESSED_BRIEF_TOKENS = 256, 32
"""Tokens of a text, before any is written."""
_MARGIN = 1.1
"""A last round has so many more rows than are needed on average, since some texts are dropped."""
_BRIEF_EVERY = 3
"""One of so many tokens is of a brief conversation."""
_TEXT = "text.jsonl"


@dataclass(frozen=True)
class WritingSettings:
    """What a model writes.

    Attributes:
        tokens: Tokens of text, at least so many.
        prompts: A text file of questions or beginnings of texts, used in turn: each line of a
            `.txt`, or each document of another file. Without it the model writes the questions too,
            most of them after given first words (`regrow.writing.openings`).
        seed: Decides the random numbers.
        temperature: The logits are divided by it; those of brief conversations by less.
        batch_size: Texts that are written at once; None takes as many as the keys and values of the
            model allow in 4 GiB, at most 128.
        languages: Codes of ISO 639 such as `zh` and `en`; texts in others are dropped, and the
            given first words of questions are in these. An empty list keeps all.
    """

    tokens: int
    prompts: Path | None = None
    seed: int = 0
    temperature: float = 1.0
    batch_size: int | None = None
    languages: Sequence[str] = ()


@dataclass(frozen=True)
class WrittenText:
    """A text file that a model wrote.

    Attributes:
        out: The file, `{"text": ...}` a line.
        documents: Its documents.
        tokens: Their tokens, as training counts them.
        dropped: Texts that were dropped, by reason.
        sha256: Of the file.
        taken_up: Tokens that an earlier run had written.
        seconds: The time of this run.
    """

    out: Path
    documents: int
    tokens: int
    dropped: Mapping[str, int]
    sha256: str
    taken_up: int
    seconds: float


def write_text(
    model: ModelDirectory,
    out: Path,
    settings: WritingSettings,
    *,
    progress: Progress = no_progress,
) -> WrittenText:
    """Let a decoder write the new file `out`, and a record beside it, with the suffix `.json`.

    A run that was killed is resumed if model and settings are the same. The same seed gives the
    same bits on one machine with the same number of threads.

    `progress`: is told the tokens that are written, and those to write.

    Raises UserError if the model cannot write, a prompt is too long, `out` exists or was begun with
    other settings, or the model writes nothing that can be kept.
    """
    begun = time.monotonic()
    check_work(out, settings)
    form, starts = form_and_starts(model, settings.prompts, settings.languages)
    longest = longest_text(model)
    work = _work(model, settings, starts)
    with workplace(out, checkpoint=ROUNDS) as directory:
        rounds = WrittenRounds(directory, work, _NAMES)
        taken_up = rounds.tokens
        if rounds.tokens < settings.tokens:
            writer = _Writer(model, form, longest, settings, starts)
            while rounds.tokens < settings.tokens:
                rounds.add(writer.write(rounds, progress))
                rounds.check_progress(model.path)
        progress(settings.tokens, settings.tokens)
        return _publish(directory, out, rounds, settings.tokens, taken_up, begun)


def check_work(out: Path, settings: WritingSettings) -> None:
    """Raise UserError if a setting is not valid, or a new `out` cannot be written."""
    for key in ("tokens", "temperature", "batch_size"):
        value = getattr(settings, key)
        if value is not None and not 0 < value < float("inf"):
            raise UserError("give a number above 0", key=key, value=value)
    language_filter(settings.languages)
    if out.suffix != ".jsonl":
        raise UserError(f"{out}: text is written as .jsonl; give a name that ends so")
    check_new(out, "file")
    if not unfinished_place(out).exists():
        check_new(_record(out), "file")


def begun_otherwise(model: ModelDirectory, out: Path, settings: WritingSettings) -> str | None:
    """What a stopped run that writes `out` had otherwise, in a word; None if it can go on.

    Raises UserError if the model cannot write with these settings.
    """
    left = unfinished_place(out)
    if not (left / ROUNDS).is_file():  # there is nothing to go on from
        return None
    _, starts = form_and_starts(model, settings.prompts, settings.languages)
    return other_work(read_json_object(left / JOB), _work(model, settings, starts), _NAMES)


def longest_text(model: ModelDirectory) -> int:
    """The most tokens of a text that a model writes."""
    positions = getattr(model.config, "max_position_embeddings", None) or LONGEST
    return min(LONGEST, int(positions))


def written_files(out: Path) -> tuple[Path, Path]:
    """The text file and its record, once they are complete."""
    return out, _record(out)


def _record(out: Path) -> Path:
    return out.with_suffix(".json")


def form_and_starts(
    model: ModelDirectory, path: Path | None, languages: Sequence[str] = ()
) -> tuple[TextForm, list[Start]]:
    """The form of a model's texts, and how they start; brief ones take turns, and so do the others.

    `path`: a file of prompts. `languages`: of questions that the model writes.

    Raises UserError if the model cannot write with these prompts, or one is too long.
    """
    form = text_form(model, writes_questions=path is None)
    if path is None:
        if not form.is_chat:
            return form, [Start()]
        return form, [*question_starts(languages), *brief_starts(languages)]
    prompts = read_prompts(path)
    most = longest_text(model) - LEAST_TOKENS
    for number, prompt in enumerate(prompts, start=1):
        if (tokens := len(form.start(prompt))) > most:
            raise UserError(
                f"{path}: prompt {number} has {tokens:,} tokens; give at most {most:,}",
                key="prompts",
            )
    return form, [Start(prompt) for prompt in prompts]


_NAMES = {
    "model": "model", "tokens": "tokens", "prompts": "prompts", "seed": "seed",
    "temperature": "temperature", "batch_size": "batch_size", "languages": "languages",
    "openings": "first words of questions",
}  # fmt: skip
"""What decides the bytes of a text, and what a message calls it."""


def _work(
    model: ModelDirectory, settings: WritingSettings, starts: Sequence[Start]
) -> dict[str, Any]:
    """What decides the bytes of a text, as JSON."""
    prompts = [each.prompt for each in starts if each.prompt is not None]
    return {
        **asdict(settings),
        "model": [model.checkpoint.fingerprint, model.files_sha256],
        "prompts": None if settings.prompts is None else prompts_sha256(prompts),
        "languages": sorted({*settings.languages}),
        "openings": [*dict.fromkeys(each.opening for each in starts if each.opening)],
    }


class _Writer:
    """A loaded model, and how many texts it writes at once."""

    def __init__(
        self,
        model: ModelDirectory,
        form: TextForm,
        longest: int,
        settings: WritingSettings,
        starts: list[Start],
    ) -> None:
        from regrow.models.decoding import check_decoding

        device = available_device()
        self._model = model.load(dtype=weights_dtype("auto", device)).to(device)
        check_decoding(self._model)
        self._form, self._longest, self._settings = form, longest, settings
        self._brief = [each for each in starts if each.is_brief]
        self._others = [each for each in starts if not each.is_brief]
        self._is_wanted = language_filter(settings.languages)
        # Half of them have the template.
        template = len(form.start(None)) + len(form.answer_start)
        self._guessed_brief = _GUESSED_BRIEF_TOKENS + template / 2
        self._told = 0
        self._most_rows = settings.batch_size or self._rows_in_memory()

    def _rows_in_memory(self) -> int:
        import torch

        from regrow.models.decoding import DecodedRows

        token = next(iter(self._form.ends))
        row = DecodedRows(self._model, [token], 1)
        first = row.cached_bytes
        row.append(torch.tensor([token]))
        # Keys and values grow with each token; the states of a recurrent layer do not.
        most = first + (row.cached_bytes - first) * (self._longest - 1)
        return min(_MOST_ROWS, max(_LEAST_ROWS, _CACHE_BYTES // most))

    def write(self, rounds: WrittenRounds, progress: Progress) -> Round:
        """The next round."""
        settings, totals = self._settings, rounds.totals
        share = 1 / _BRIEF_EVERY if self._brief and not totals.brief.is_poor else 0.0
        left: float = settings.tokens - totals.tokens
        # As many as belong to the texts that are there and to a round of others.
        ahead = totals.tokens + min(left, self._most_rows * totals.others.mean(_GUESSED_TOKENS))
        is_brief = totals.brief.tokens < share * ahead
        if is_brief:
            kind, starts, mean = totals.brief, self._brief, totals.brief.mean(self._guessed_brief)
            left = min(left, share * settings.tokens - kind.tokens)
        else:
            kind, starts, mean = totals.others, self._others, totals.others.mean(_GUESSED_TOKENS)
        rows = int(_MARGIN * left / mean) + 1
        rows = min(self._most_rows, rows << kind.fruitless)  # where few texts can be kept
        numbers = range(kind.rows, kind.rows + rows)
        before = set(totals.seen)

        def on_step(tokens: int) -> None:
            # Some of these are dropped at the end of the round; then the number waits.
            self._told = max(self._told, min(totals.tokens + tokens, settings.tokens))
            progress(self._told, settings.tokens)

        found = write_round(
            self._model, self._form,
            [starts[number % len(starts)] for number in numbers],
            Sampling(
                settings.temperature, self._longest,
                random_stream(settings.seed, "writing", totals.rounds),
            ),
            totals.seen, on_step, self._is_wanted,
        )  # fmt: skip
        texts = [each.text for each in found if each.text is not None]
        reasons = Counter(each.reason for each in found)
        return Round(
            rows, [(text, self._form.count(text)) for text in texts],
            {reason: reasons[reason] for reason in REASONS}, sorted(totals.seen - before),
            is_brief,
        )  # fmt: skip


def _publish(
    directory: Path, out: Path, rounds: WrittenRounds, enough: int, taken_up: int, begun: float
) -> WrittenText:
    """Write texts until there are enough tokens, with the record, and give the file its name."""
    documents = tokens = brief_tokens = 0
    digest = hashlib.sha256()
    text_file = directory / _TEXT
    with text_file.open("wb") as file:
        for text, count, is_brief in (
            (*each, found.is_brief) for found in rounds for each in found.texts
        ):
            if tokens >= enough:
                break
            line = json_bytes({"text": text}, indent=None)
            file.write(line)
            digest.update(line)
            documents += 1
            tokens += count
            brief_tokens += count * is_brief
    totals = rounds.totals
    dropped: dict[str, int] = {reason: totals.dropped[reason] for reason in REASONS}
    facts = {
        **rounds.work,
        "rounds": totals.rounds,
        "documents": documents,
        "written_tokens": tokens,
        "brief_tokens": brief_tokens,
        "dropped": dropped,
        "sha256": digest.hexdigest(),
        "versions": environment.versions(),
        "machine": environment.machine(),
    }
    write_atomically(_record(out), json_bytes(facts))
    publish_finished(text_file, out)
    return WrittenText(
        out, documents, tokens, dropped, digest.hexdigest(), taken_up, time.monotonic() - begun
    )
