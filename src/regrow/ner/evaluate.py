"""Let a model tag the sentences of some sets, and score what it says."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.fields import Size, Strict, refuse_bool
from regrow.common.precision import available_device, weights_dtype
from regrow.common.progress import QUIET, Progress
from regrow.ner.answers import Reading, read_answer
from regrow.ner.pieces import divide, join, reading_of_tags
from regrow.ner.prompts import Question, evaluation_question
from regrow.ner.room import ROW_LENGTH, room_of
from regrow.ner.scores import Scores, score
from regrow.ner.sentences import EntitySet, Sentence
from regrow.ner.spelling import Spelling
from regrow.ner.tags import OUTSIDE, split_tag
from regrow.objectives.prompt_form import PromptForm, prompt_form

_SPARE_TOKENS = 8
"""Of an answer beyond the longest that has the right form."""


class EvaluationSettings(Strict):
    """How the sentences are tagged.

    Attributes:
        constrained: Whether the words are given and the model chooses tags alone; otherwise it
            writes the whole answer.
        batch_size: Sentences that are tagged at once.
        limit: The most sentences of a set, from its beginning; None takes all.
        row_length: The most tokens of a prompt with its answer. A longer sentence is divided.
        seed: Decides the order of the types in each prompt.
    """

    constrained: bool = Field(default=False, strict=True)
    batch_size: Size = 16
    limit: Size | None = None
    row_length: Size = ROW_LENGTH
    seed: Annotated[int, BeforeValidator(refuse_bool), Field(ge=0)] = 0


@dataclass(frozen=True)
class SetResult:
    """The result for one set; all shares are from 0 to 1.

    Attributes:
        name: Of the set.
        sentences: Sentences tagged.
        entities: Entities that are in them.
        f1: Strict: first and last token and type must be right. Over all entities of the set.
        precision: The same.
        recall: The same.
        report_f1: The score of the OpenBA-V2 report.
        f1_by_type: The strict score of each type.
        unaligned: Entities of answers that are not in their sentence; they count as wrong.
        missing: Tokens that answers left out.
        divided: Sentences that were too long for one prompt.
        seconds: For each sentence, without loading the model.
    """

    name: str
    sentences: int
    entities: int
    f1: float
    precision: float
    recall: float
    report_f1: float
    f1_by_type: dict[str, float]
    unaligned: int
    missing: int
    divided: int
    seconds: float


@dataclass(frozen=True)
class EntityResult:
    """The results of all sets.

    Attributes:
        model: The directory of the model.
        constrained: Whether the model chose tags alone.
        without: Types that were left out.
        sets: The result for each set.
        notes: What of the files could not be kept.
    """

    model: str
    constrained: bool
    without: tuple[str, ...]
    sets: tuple[SetResult, ...]
    notes: tuple[str, ...]

    @property
    def f1(self) -> float:
        """The mean of the sets."""
        return fmean(each.f1 for each in self.sets)

    @property
    def report_f1(self) -> float:
        """The mean of the sets."""
        return fmean(each.report_f1 for each in self.sets)


def evaluate_entities(
    model: ModelDirectory,
    sets: Sequence[EntitySet],
    settings: EvaluationSettings,
    *,
    without: Sequence[str] = (),
    progress: Progress = QUIET,
) -> EntityResult:
    """Tag the sentences of some sets with a model, and score the answers.

    Args:
        model: A decoder or an encoder-decoder.
        sets: With at least one sentence each.
        settings: How the sentences are tagged.
        without: The types that were left out of the sets, for the record.
        progress: Receives the sentences done, and all of them.

    Raises:
        UserError: the model cannot be asked like this, or a prompt does not fit.
    """
    form = prompt_form(model.tokenizer, model.config)
    tagger = _Tagger(model, form, settings)
    work = [(each, _questions(each, settings)) for each in sets]
    total = sum(len(questions) for _, questions in work)
    prepared = [(each, [tagger.divided(q) for q in questions]) for each, questions in work]
    tagger.load()
    results = []
    done = 0
    for each, pieces in prepared:
        began = time.perf_counter()
        readings: list[Reading | None] = [None] * len(pieces)
        for place, reading in tagger.read(pieces):
            readings[place] = reading
            done += 1
            progress.advance(done, total)
        seconds = (time.perf_counter() - began) / len(pieces)
        sentences = each.sentences[: len(pieces)]
        found = score(sentences, [reading for reading in readings if reading is not None])
        divided = sum(len(parts) > 1 for parts in pieces)
        results.append(_result(each.name, sentences, found, divided, seconds))
    notes = tuple(note for each in sets for note in each.notes)
    return EntityResult(
        str(model.path), settings.constrained, tuple(without), tuple(results), notes
    )


def _questions(of: EntitySet, settings: EvaluationSettings) -> list[Question]:
    sentences = of.sentences[: settings.limit]
    return [evaluation_question(sentence, of, settings.seed) for sentence in sentences]


def _result(
    name: str, sentences: Sequence[Sentence], found: Scores, divided: int, seconds: float
) -> SetResult:
    return SetResult(
        name=name,
        sentences=len(sentences),
        entities=found.strict.gold,
        f1=found.strict.f1,
        precision=found.strict.precision,
        recall=found.strict.recall,
        report_f1=found.report.f1,
        f1_by_type={kind: counts.f1 for kind, counts in found.by_type.items()},
        unaligned=found.unaligned,
        missing=found.missing,
        divided=divided,
        seconds=seconds,
    )


class _Tagger:
    """A model that is asked; `load` it before `read`."""

    def __init__(
        self, model: ModelDirectory, form: PromptForm, settings: EvaluationSettings
    ) -> None:
        self._directory = model
        self._form = form
        self._settings = settings
        self._room = room_of(model.config, settings.row_length)
        self._spelling = Spelling(model.tokenizer)
        self._model: Any = None

    def load(self) -> None:
        """Load the model, on a GPU if there is one, in the type that the hardware multiplies."""
        from transformers import GenerationConfig

        device = available_device()
        dtype = weights_dtype("auto", device)
        self._directory.checkpoint  # noqa: B018 - refused in one line if it cannot be read
        self._model = self._directory.load(dtype=dtype).to(device).eval()
        own = self._model.generation_config
        # Others, such as a penalty for repetitions, would change the answer.
        self._model.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id, decoder_start_token_id=own.decoder_start_token_id,
        )  # fmt: skip

    def divided(self, question: Question) -> list[Question]:
        """The pieces of a question that fit into a row."""
        return divide(question, partial(self._room.holds, self._form, self._spelling))

    def read(self, pieces: Sequence[Sequence[Question]]) -> Iterator[tuple[int, Reading]]:
        """The readings of questions in pieces, with their places, as they are complete.

        Pieces of similar length share a batch.
        """
        every = [(place, part) for place, parts in enumerate(pieces) for part in range(len(parts))]
        every.sort(key=lambda at: -len(pieces[at[0]][at[1]].sentence.tokens))
        found: dict[tuple[int, int], Reading] = {}
        size = self._settings.batch_size
        for first in range(0, len(every), size):
            places = every[first : first + size]
            asked = [pieces[place][part] for place, part in places]
            answer = self._choose if self._settings.constrained else self._write
            found |= zip(places, answer(asked), strict=True)
            for place in dict.fromkeys(place for place, _ in places):
                parts = [found.get((place, part)) for part in range(len(pieces[place]))]
                known = [reading for reading in parts if reading is not None]
                if len(known) == len(parts):
                    yield place, join(known)

    def _choose(self, asked: Sequence[Question]) -> list[Reading]:
        from regrow.ner.forced_decoding import Blank, choose_tags

        blanks = [
            Blank(
                self._form.source(question.prompt),
                self._spelling.words(question),
                self._spelling.tags(list(question.names.values())),
                goes_on=question.offset > 0,
            )
            for question in asked
        ]
        readings = []
        chosen = choose_tags(self._model, self._form, blanks)
        for question, tags in zip(asked, chosen, strict=True):
            names = {words: name for name, words in question.names.items()}
            readings.append(reading_of_tags([_named(tag, names) for tag in tags]))
        return readings

    def _write(self, asked: Sequence[Question]) -> list[Reading]:
        from regrow.ner.free_decoding import write_answers

        sources = [self._form.source(question.prompt) for question in asked]
        longest = max(self._spelling.answer_sizes(question)[1] for question in asked)
        most = min(longest + _SPARE_TOKENS, self._positions_after(sources))
        if most < longest and len(asked) > 1:  # the longest prompt and answer do not fit together
            half = len(asked) // 2
            return self._write(asked[:half]) + self._write(asked[half:])
        answers = write_answers(self._model, self._form, sources, most)
        return [read_answer(text, question) for text, question in zip(answers, asked, strict=True)]

    def _positions_after(self, sources: Sequence[Sequence[int]]) -> int:
        """How many tokens the model can write after each of these prompts."""
        if self._room.most is None:
            return sys.maxsize
        is_decoder = self._form.decoder_start is None
        read = max(map(len, sources)) if is_decoder else 1 + len(self._form.answer_start)
        return self._room.most - read


def _named(tag: str, names: dict[str, str]) -> str:
    """A tag with the name of its type as files have it."""
    letter, words = split_tag(tag)
    return tag if tag == OUTSIDE else f"{letter}-{names[words]}"
