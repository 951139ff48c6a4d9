"""Conversations: turns of a system, a user and an assistant, whose answers a model learns.

A record is in OpenAI's form, or a pair of a prompt and its answer. Inside regrow a conversation is
passed on as one text, its messages as JSON. So what is done with documents (hashes, a part that is
put aside, copies) is done with conversations too.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

PAIRS = (("prompt", "completion"), ("inputs", "targets"))
"""The keys of a prompt and its answer, in the two forms that are read."""
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_ROLES = (SYSTEM, USER, ASSISTANT)


class Turn(NamedTuple):
    """A turn of a conversation: who speaks (`system`, `user`, `assistant`), and the words."""

    role: str
    content: str


Conversation = tuple[Turn, ...]


def conversation_of(record: Mapping[str, Any]) -> Conversation:
    """The conversation of a line or a row, up to its last answer.

    `record` has `messages`, a list of `role` and `content`; or `prompt` and `completion`, or
    `inputs` and `targets`, which are a text each. Other keys are ignored.

    Raises ValueError, in words, if it is none, or no turn is the assistant's.
    """
    messages = record.get("messages")
    if messages is None:
        keys = next((each for each in PAIRS if all(key in record for key in each)), None)
        if keys is None and {"input", "target"} <= record.keys():
            raise ValueError(
                "has 'input' and 'target', the form for other tools; give the file with 'messages' "
                "(of `regrow instructions build`: train.jsonl)"
            )
        if keys is None:
            raise ValueError("has no 'messages', nor 'prompt' and 'completion'")
        roles = (USER, ASSISTANT)
        messages = [{"role": r, "content": record[k]} for r, k in zip(roles, keys, strict=True)]
    if not isinstance(messages, list):
        raise ValueError("messages: not a list")
    turns = [_turn(message, number) for number, message in enumerate(messages, start=1)]
    while turns and turns[-1].role != ASSISTANT:
        turns.pop()
    if not turns:
        raise ValueError("messages: none is the assistant's, so there is no answer to learn")
    return tuple(turns)


def as_document(conversation: Iterable[Turn]) -> str:
    """The text that a conversation is passed on as."""
    messages = [turn._asdict() for turn in conversation]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def from_document(document: str) -> Conversation:
    """The conversation of a text that `as_document` made."""
    messages = json.loads(document)["messages"]
    return tuple(Turn(each["role"], each["content"]) for each in messages)


def _turn(message: Any, number: int) -> Turn:
    where = f"message {number}"
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise ValueError(f"{where}: not a role and a content")
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise ValueError(f"{where}: the role {str(role)[:40]!r} is not {', '.join(_ROLES)}")
    if role == SYSTEM and number > 1:
        raise ValueError(f"{where}: the role system, which only the first message can have")
    if not isinstance(content, str):
        raise ValueError(f"{where}: the content is not a text")
    if not content.strip():
        raise ValueError(f"{where}: the content is empty")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: half a surrogate pair, which is not Unicode text") from None
    return Turn(role, content)
