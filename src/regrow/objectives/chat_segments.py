"""The tokens of a conversation in a chat template, and which of them a model has to write.

A template is a program, so where an answer begins and ends is found by rendering: up to each
answer, and with it. What cannot be told apart to the token is refused, and never guessed.

An answer is the tokens after the prompt for it, up to the special token that ends its turn. In a
template without such a token it ends where the template stops, and the last answer with eos.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from regrow.corpus.conversations import ASSISTANT, Conversation
from regrow.corpus.encoding import Tokenizer
from regrow.objectives.rows.answered_texts import Segment
from regrow.tokenizers.chat_rendering import render_chat


class InexactError(ValueError):
    """The answers of a conversation cannot be told from the rest to the token."""


@dataclass(frozen=True)
class _Answer:
    """An answer in a rendered conversation.

    Attributes:
        asked: The text up to where the answer begins.
        answered: The text up to where the template stops after it.
    """

    asked: str
    answered: str


def special_names(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The names of all special tokens."""
    added = tokenizer.added_tokens_decoder.values()
    names = [*tokenizer.all_special_tokens, *(str(each) for each in added if each.special)]
    return tuple(dict.fromkeys(names))


def chat_segments(
    tokenizer: Tokenizer, conversation: Conversation, end: int
) -> Iterator[list[Segment]]:
    """The prompts and answers of a conversation as tokens, text by text.

    Usually this is one text, the whole conversation as the template gives it. If the template
    changes earlier turns when later ones follow (it may take out what a model thought), each answer
    is a text of its own, after the turns before it as the template then gives them.

    `end`: the eos token.

    Raises InexactError if an answer cannot be told from the rest, and UserError if the template
    cannot be rendered.
    """
    messages = [turn._asdict() for turn in conversation]
    found = []
    for number, turn in enumerate(conversation):
        if turn.role == ASSISTANT:
            asked = render_chat(tokenizer, messages[:number], add_generation_prompt=True)
            answered = render_chat(tokenizer, messages[: number + 1], add_generation_prompt=False)
            _check(asked, answered, conversation[: number + 1])
            found.append(_Answer(asked, answered))
    whole = found[-1].answered
    # Each text begins with the one before it if the last one begins with all of them.
    if all(whole.startswith(each.answered) for each in found):
        yield _segments(tokenizer, found, end)
    else:
        for each in found:
            yield _segments(tokenizer, [each], end)


def _check(asked: str, answered: str, turns: Conversation) -> None:
    """Raise InexactError if the answer does not follow its prompt, or words are missing."""
    if not answered.startswith(asked):
        raise InexactError("the template begins an answer otherwise than it asks for it")
    *before, last = turns
    for turn in before:
        # Of earlier answers, a template may leave out what the model thought.
        if turn.role != ASSISTANT and turn.content.split()[-1] not in asked:
            raise InexactError(f"the template leaves out words of the role {turn.role}")
    if last.content.split()[-1] not in answered[len(asked) :]:
        raise InexactError("the template leaves out words of an answer")


def _segments(tokenizer: Tokenizer, answers: Sequence[_Answer], end: int) -> list[Segment]:
    """The prompts and answers of one text, which begins with all texts of `answers`."""
    special = {tokenizer.convert_tokens_to_ids(name) for name in special_names(tokenizer)}
    whole = answers[-1].answered
    ids = _ids(tokenizer, whole)
    found = _in_whole(tokenizer, answers, ids, special)
    if found is None:
        found = _in_pieces(tokenizer, answers, special)
        tokens = [token for prompt, answer in found for token in (*prompt, *answer)]
        # Behind the last answer, a template may write more: a line end behind the end of a turn.
        if not _spelled(tokenizer, ids).startswith(_spelled(tokenizer, tokens)):
            raise InexactError("the tokenizer joins an answer with what stands before it")
    if not found[0][0]:
        raise InexactError("the template puts nothing before an answer")
    prompt, answer = found[-1]
    closed = [token for token in answer if token in special]
    if not closed:
        found[-1] = (prompt, [*answer, end])
    return found


def _in_whole(
    tokenizer: Tokenizer, answers: Sequence[_Answer], ids: list[int], special: set[int]
) -> list[Segment] | None:
    """The segments, if the whole text begins with the tokens of each text; else None.

    Then the prompts have the tokens that a model is asked with.
    """
    found: list[Segment] = []
    done = 0
    for each in answers:
        asked, answered = _ids(tokenizer, each.asked), _ids(tokenizer, each.answered)
        begin = len(asked)
        stop = begin + _end_of_answer(tokenizer, answered[begin:], special)
        if ids[:begin] != asked or ids[:stop] != answered[:stop]:
            return None
        found.append((ids[done:begin], ids[begin:stop]))
        done = stop
    return found


def _in_pieces(
    tokenizer: Tokenizer, answers: Sequence[_Answer], special: set[int]
) -> list[Segment]:
    """The segments, with the text divided where answers begin and each piece tokenised alone."""
    whole = answers[-1].answered
    begins = [len(each.asked) for each in answers]
    prompt = _ids(tokenizer, whole[: begins[0]])
    found: list[Segment] = []
    for each, begin, stop in zip(answers, begins, [*begins[1:], len(whole)], strict=True):
        piece = _ids(tokenizer, whole[begin:stop])
        answered = _ids(tokenizer, each.answered[begin:])
        length = _end_of_answer(tokenizer, answered, special)
        if piece[:length] != answered[:length]:
            raise InexactError("the tokenizer joins an answer with what follows it")
        found.append((prompt, piece[:length]))
        prompt = piece[length:]
    return found


def _end_of_answer(tokenizer: Tokenizer, ids: Sequence[int], special: set[int]) -> int:
    """How many of these tokens are the answer's: up to the first special one, if there is one.

    `ids`: of the text from where an answer begins to where the template stops after it.

    Raises InexactError if words follow.
    """
    for place, token in enumerate(ids):
        if token in special:
            rest = [each for each in ids[place + 1 :] if each not in special]
            if tokenizer.decode(rest).strip():
                raise InexactError("the template puts a special token into an answer")
            return place + 1
    return len(ids)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _spelled(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of tokens as the vocabulary has it, with the signs for spaces."""
    tokens: list[Any] = tokenizer.convert_ids_to_tokens(list(ids))
    return "".join(map(str, tokens))
