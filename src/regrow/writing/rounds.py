"""One round of writing: some texts that a model begins together.

A row is one text. A row whose start is given reads one token of it at each step, and then writes.
So starts may differ in length, and all rows have the same length at all times. A complete row
leaves; from time to time the cache is cut down to the rows that are left. When seven of eight texts
are complete, the others break off, since a step costs nearly as much for few rows as for many.
Brief conversations do not break off.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import takewhile
from typing import Any, Literal

import numpy as np
import torch

from regrow.corpus.packing import start_and_end
from regrow.models.decoding import DecodedRows, draw
from regrow.writing.filters import LEAST_TOKENS, first_sentence, is_repetitive, is_sentence
from regrow.writing.prompts import Start
from regrow.writing.text_form import TextForm

Reason = Literal["repetitive", "short", "long", "other language", "duplicate"]
"""Why a text was dropped; `long`: a question or a brief answer did not end in time; `short`: also a
brief answer that does not begin with a sentence."""
REASONS: tuple[Reason, ...] = ("repetitive", "short", "long", "other language", "duplicate")

_CHECK_EVERY = 64
_LEFT = 7 / 8
"""The cache is cut down when so few of its rows are left, since that copies it."""
_BROKEN_OFF = 1 / 8
"""The share of the texts that break off."""
_BRIEF_QUESTION, _BRIEF_ANSWER = 0.7, 0.1
"""The temperature of brief conversations is so many times that of others. So questions are about
things that the model knows, and answers are what it holds most likely."""
_BRIEF_TOKENS = 32
"""The most tokens of a brief question, and of its answer."""


@dataclass(frozen=True)
class Written:
    """A text of a round.

    Attributes:
        text: The text; None if it was dropped.
        reason: Why it was dropped.
    """

    text: str | None
    reason: Reason | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: The logits are divided by it; by less in brief conversations.
        longest: The most tokens of a text.
        stream: The random numbers.
    """

    temperature: float
    longest: int
    stream: np.random.BitGenerator


@dataclass
class _Row:
    """A text that is being written.

    Attributes:
        prompt: What was given, or the question once it is written.
        given: Ids that are still to be read.
        is_question: Whether the model is writing the question.
        start: How the text starts.
        opening: The given first words of a question, as the tokenizer decodes them.
        written: Ids of the turn that the model is writing, after those of its given first words.
        result: Once it is complete.
    """

    prompt: str | None
    given: deque[int]
    is_question: bool
    start: Start
    opening: str
    written: list[int] = field(default_factory=list)
    result: Written | None = None

    @property
    def temperature(self) -> float:
        """Relative to that of other texts."""
        if not self.start.is_brief:
            return 1.0
        return _BRIEF_QUESTION if self.is_question else _BRIEF_ANSWER


def write_round(
    model: Any,
    form: TextForm,
    starts: Sequence[Start],
    sampling: Sampling,
    seen: set[str],
    on_step: Callable[[int], None] = lambda tokens: None,
    is_wanted: Callable[[str], bool] | None = None,
) -> list[Written]:
    """One text for each start, in order.

    The result is a function of the arguments alone, on one machine.

    Args:
        model: a decoder of transformers.
        form: of its texts.
        starts: how each text starts.
        sampling: how tokens are drawn.
        seen: marks of earlier texts; those of this round are added.
        on_step: is told the tokens that were written, after each step.
        is_wanted: whether the words of a text are in a language that is wanted; None wants all.
    """
    given = [form.start(each.prompt, each.opening) for each in starts]
    if not (shared := _common_prefix(given)):
        shared = [start_and_end(form.tokenizer)[0]]
        given = [shared + ids for ids in given]
    opened = [form.opening(each.opening) for each in starts]
    rows = [
        _Row(
            start.prompt, deque(ids[len(shared) :]), form.is_chat and start.prompt is None,
            start, form.question(opening), opening,
        )
        for start, ids, opening in zip(starts, given, opened, strict=True)
    ]  # fmt: skip
    decoded = DecodedRows(model, shared, len(rows))
    device = decoded.logits.device
    rows_of_head = decoded.logits.shape[-1]  # more or fewer than the tokenizer has tokens
    special = (token for token in form.forbidden if token < rows_of_head)
    forbidden = torch.tensor(
        sorted({*special, *range(len(form.tokenizer), rows_of_head)}),
        device=device, dtype=torch.int64,
    )  # fmt: skip
    random = np.random.Generator(sampling.stream)
    places = list(range(len(rows)))  # the row at each place of the batch
    tokens, longest = 0, sampling.longest
    broken_off = 0 if any(each.is_brief for each in starts) else _BROKEN_OFF * len(rows)
    for length in range(len(shared) + 1, longest + 1):
        uniform = random.random(len(rows), dtype=np.float32)[places]
        logits = decoded.logits.index_fill(1, forbidden, -torch.inf)
        temperature = torch.tensor([sampling.temperature * rows[row].temperature for row in places])
        drawn = draw(logits, temperature.to(device), torch.from_numpy(uniform).to(device)).tolist()
        following = [
            _next(rows[row], token, form, seen, is_wanted)
            for row, token in zip(places, drawn, strict=True)
        ]
        active = [at for at, row in enumerate(places) if rows[row].result is None]
        tokens += len(active)
        on_step(tokens)
        if len(active) <= broken_off:
            break
        if len(active) <= _LEFT * len(places):
            decoded.keep(active)
            places, following = ([each[at] for at in active] for each in (places, following))
        if length < longest:
            decoded.append(torch.tensor(following))
    for row in rows:
        if row.result is None:
            row.result = _finished(row, form, seen, is_wanted, is_complete=False)
    return [row.result for row in rows if row.result is not None]


def _next(
    row: _Row, drawn: int, form: TextForm, seen: set[str], is_wanted: Callable[[str], bool] | None
) -> int:
    """The next token of a row: one that is given, or else the one that was drawn."""
    if row.result is not None:
        return drawn
    if row.given:
        return row.given.popleft()
    if drawn not in form.ends:
        row.written.append(drawn)
        if row.start.is_brief:
            _end_brief(row, form, seen, is_wanted)
            return drawn
        recent = row.written[-2 * _CHECK_EVERY :]
        if len(row.written) % _CHECK_EVERY == 0 and is_repetitive(recent):
            row.result = Written(None, "repetitive")
        return drawn
    if not row.is_question:
        row.result = _finished(row, form, seen, is_wanted, is_complete=True)
        return drawn
    question = form.question(row.written)
    if question == row.opening or (reason := _reason(row.written)) == "short":
        row.result = Written(None, "short")
    elif reason is not None or not _is_new(question, seen):
        row.result = Written(None, reason or "duplicate")
    else:
        row.prompt, row.is_question, row.written = question, False, []
        row.given.extend(form.answer_start[1:])
        return form.answer_start[0]
    return drawn


def _end_brief(
    row: _Row, form: TextForm, seen: set[str], is_wanted: Callable[[str], bool] | None
) -> None:
    """End the answer of a brief conversation after its first sentence, or drop it."""
    sentence = None if row.is_question else first_sentence(form.question(row.written))
    if sentence is not None:
        row.written = form.ids(sentence)
        row.result = _finished(row, form, seen, is_wanted, is_complete=True)
    elif len(row.written) > _BRIEF_TOKENS:
        row.result = Written(None, "long")


def _finished(
    row: _Row,
    form: TextForm,
    seen: set[str],
    is_wanted: Callable[[str], bool] | None,
    *,
    is_complete: bool,
) -> Written:
    """The result of a row; `is_complete`: whether the model ended it."""
    if row.is_question or row.given or (row.start.is_brief and not is_complete):
        return Written(None, "long")
    if row.start.is_brief:
        reason: Reason | None = None if is_sentence(form.question(row.written)) else "short"
    else:
        reason = _reason(row.written)
    if reason is not None:
        return Written(None, reason)
    if is_wanted is not None and not is_wanted(form.words(row.prompt or "", row.written)):
        return Written(None, "other language")
    if form.is_chat and not row.start.is_plain:
        text = form.conversation(row.prompt or "", row.written, is_complete=is_complete)
    else:
        text = form.words(row.prompt or "", row.written)
    return Written(text) if _is_new(text, seen) else Written(None, "duplicate")


def _reason(written: Sequence[int]) -> Reason | None:
    """Why a turn is dropped; None if it is kept."""
    if len(written) < LEAST_TOKENS:
        return "short"
    return "repetitive" if is_repetitive(written) else None


def _mark(text: str) -> str:
    """A hash of a text, the same for texts that differ only in case and space."""
    return sha256(" ".join(text.casefold().split()).encode()).hexdigest()[:32]


def _is_new(text: str, seen: set[str]) -> bool:
    """Whether no text like this was seen; then it is seen from now on."""
    mark = _mark(text)
    is_new = mark not in seen
    seen.add(mark)
    return is_new


def _common_prefix(starts: list[list[int]]) -> list[int]:
    """The tokens that all starts begin with."""
    first, last = min(starts), max(starts)
    return [
        a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    ]
