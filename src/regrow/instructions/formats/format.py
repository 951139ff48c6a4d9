"""What a format is, and helpers to read the values of a record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regrow.instructions.sample import Content, Message

Fields = Mapping[str, Any]


class BrokenError(Exception):
    """A record that cannot be used; the argument says why, in a few words."""


@dataclass(frozen=True)
class Format:
    """A way in which published files say something.

    Attributes:
        name: As `format` of a source gives it.
        keys: Keys that every record has; more keys are more specific.
        fits: Whether a record with these keys has values of the right kinds.
        read: The contents of a record. Raises BrokenError.
    """

    name: str
    keys: tuple[str, ...]
    fits: Callable[[Fields], bool]
    read: Callable[[Fields], Sequence[Content]]

    def takes(self, record: Fields) -> bool:
        """Whether a record is of this format."""
        return all(key in record for key in self.keys) and self.fits(record)


def text(record: Fields, key: str) -> str:
    """The text under a key, without spaces around it. Raises BrokenError if there is none."""
    value = record.get(key)
    if not isinstance(value, str):
        raise BrokenError(f"{key}: text is expected")
    if not value.strip():
        raise BrokenError(f"{key}: empty")
    return value.strip()


def may_be_text(record: Fields, key: str) -> str:
    """The same; nothing where the key is missing or empty."""
    value = record.get(key)
    return value.strip() if isinstance(value, str) else ""


def is_text(record: Fields, *keys: str) -> bool:
    """Whether all these values are texts."""
    return all(isinstance(record.get(key), str) for key in keys)


def conversation(task: str, turns: Sequence[tuple[str, str]]) -> Content:
    """A conversation that is ready: turns of user and assistant after at most one system turn.

    What a user says after the last answer is left out.

    Raises BrokenError if the turns do not alternate, a turn is empty, or there is no answer.
    """
    messages = [Message(role, content.strip()) for role, content in turns]
    while messages and messages[-1].role != "assistant":
        messages.pop()
    if not messages:
        raise BrokenError("no answer")
    first = 1 if messages[0].role == "system" else 0
    if not messages[0].content and first:
        del messages[0]
        first = 0
    for place, message in enumerate(messages[first:]):
        if message.role != ("user", "assistant")[place % 2]:
            raise BrokenError("turns of user and assistant do not alternate")
        if not message.content:
            raise BrokenError("an empty turn")
    return Content(task, messages=tuple(messages))


def labelled(record: Fields, key: str, labels: Mapping[str, str]) -> str:
    """The words for the label under a key. Raises BrokenError if it is another."""
    value = str(record.get(key))
    if value not in labels:
        raise BrokenError(f"{key}: no label {value[:40]!r}")
    return labels[value]
