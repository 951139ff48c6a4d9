"""Conversations as prompts and answers in tokens, for each kind of model.

- A decoder with a chat template reads the whole conversation as the template gives it, and learns
  the answers of all its turns.
- Other decoders read each turn as a line, and write `answer eos` (`PromptForm`).
- An encoder-decoder learns each answer as a pair: it reads all turns before, with eos between them,
  in the place of the prompt of its `PromptForm`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regrow.common.errors import UserError
from regrow.corpus.conversations import ASSISTANT, Conversation, from_document
from regrow.corpus.encoding import Tokenizer, encode
from regrow.objectives.chat_segments import InexactError, chat_segments, special_names
from regrow.objectives.prompt_form import PromptForm, prompt_form
from regrow.objectives.rows.answered_texts import Segment, answered_texts
from regrow.objectives.rows.prompt_answers import Answers, PromptAnswers, prompt_answers

_HAS_SPECIAL = "have the name of a special token in their words"


@dataclass(frozen=True)
class PreparedConversations:
    """Conversations as tokens.

    Attributes:
        answers: For an encoder-decoder pairs, for a decoder texts with answers in them.
        conversations: All conversations, also those that are left out.
        left_out: How many are left out, by the reason in words.
        words: The words of the answers that are not left out, if they were asked for.
    """

    answers: Answers
    conversations: int
    left_out: Mapping[str, int]
    words: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of all prompts and answers."""
        found = self.answers
        return found.tokens if isinstance(found, PromptAnswers) else len(found.tokens)

    @property
    def answer_tokens(self) -> int:
        """Tokens of all answers, which are predicted."""
        found = self.answers
        if isinstance(found, PromptAnswers):
            return len(found.answers)
        return int(found.is_answer.sum())


def left_out_words(left_out: Mapping[str, int]) -> str:
    """What is left out, in words: `3 are longer than row_length (512)`; empty if nothing is."""
    return "; ".join(f"{count:,} {reason}" for reason, count in left_out.items())


def prepare_conversations(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    config: Any,
    row_length: int,
    *,
    keep_words: bool = False,
    limit: str = "row_length",
) -> PreparedConversations:
    """The conversations as tokens.

    A conversation that is longer than `row_length` tokens is left out and counted, as is such an
    answer of an encoder-decoder. Nothing is cut. A conversation is also left out if the template
    refuses it, or if answers cannot be told from the rest to the token.

    Args:
        documents: Conversations as `regrow.corpus.conversations.as_document` writes them.
        tokenizer: Of the model.
        config: Of the model.
        row_length: The most tokens of a prompt with its answer, or of a whole conversation.
        keep_words: Whether the words of the answers are kept too.
        limit: What `row_length` is called where it is told what is left out.

    Raises:
        UserError: nothing is left, or the model has no form for prompts.
    """
    form = prompt_form(tokenizer, config)
    left_out: Counter[str] = Counter()
    words: list[str] = []
    total = 0

    def texts() -> Iterator[list[Segment]]:
        nonlocal total
        names = special_names(tokenizer) if form.is_chat else ()
        for document in documents:
            total += 1
            conversation = from_document(document)
            answers = [turn.content for turn in conversation if turn.role == ASSISTANT]
            if any(name in turn.content for turn in conversation for name in names):
                left_out[_HAS_SPECIAL] += 1
                continue
            try:
                found = list(_texts(form, conversation))
            except (InexactError, UserError) as error:
                left_out[f"cannot be learned: {error}"] += 1
                continue
            for text in found:
                own, answers = answers[: len(text)], answers[len(text) :]
                if sum(len(part) for segment in text for part in segment) > row_length:
                    left_out[f"are longer than {limit} ({row_length:,})"] += 1
                    continue
                if keep_words:
                    words.extend(own)
                yield text

    try:
        if form.is_encoder_decoder:
            pairs = (pair for text in texts() for pair in text)
            start = form.pad if form.decoder_start is None else form.decoder_start
            found: Answers = prompt_answers(pairs, row_length, start=start, pad=form.pad)[0]
        else:
            found = answered_texts(texts(), row_length, pad=form.pad)[0]
    except UserError:
        raise UserError(
            f"no conversation is left to learn of {total:,}: {left_out_words(left_out)}"
        ) from None
    return PreparedConversations(found, total, dict(left_out), tuple(words))


def _texts(form: PromptForm, conversation: Conversation) -> Iterator[list[Segment]]:
    """The prompts and answers of each text; for an encoder-decoder, of each pair."""
    if form.is_chat:
        yield from chat_segments(form.tokenizer, conversation, form.answer_end[-1])
        return
    ids = encode([turn.content for turn in conversation], form.tokenizer)
    yield from plain_segments(
        form, list(zip((turn.role for turn in conversation), ids, strict=True))
    )


def plain_segments(form: PromptForm, turns: Sequence[tuple[str, list[int]]]) -> list[list[Segment]]:
    """The prompts and answers of each text that a model without a chat template learns.

    `turns`: the role and the tokens of each turn. For an encoder-decoder, each pair is a text.
    """
    assert not form.is_chat
    if form.is_encoder_decoder:
        return [[pair] for pair in _pairs(form, turns)]
    return [_lines(form, turns)]


def _lines(form: PromptForm, turns: Sequence[tuple[str, list[int]]]) -> list[Segment]:
    """A document of lines: each turn ends its line, and each answer with eos."""
    found: list[Segment] = []
    prompt = [*form.before]
    for role, ids in turns:
        if role == ASSISTANT:
            found.append((prompt, form.target(ids)))
            prompt = []
        else:
            prompt = [*prompt, *ids, *form.after]
    return found


def _pairs(form: PromptForm, turns: Sequence[tuple[str, list[int]]]) -> list[Segment]:
    """Each answer after all turns before it, with eos between turns."""
    found: list[Segment] = []
    history: list[int] = []
    for role, ids in turns:
        if role == ASSISTANT:
            found.append(([*form.before, *history, *form.after], form.target(ids)))
        history = [*history, *([form.answer_end[-1]] if history else []), *ids]
    return found
