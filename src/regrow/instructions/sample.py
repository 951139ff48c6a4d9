"""A sample, the one form that all files are read into, and an instruction that is made from it."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from regrow.instructions.tasks import SUBJECTS

_ABOUT = frozenset({"kind", "tagged", "text_language", "translation_language"})
"""Fields that say something about the others, or repeat them."""
Value = str | tuple[str, ...]
"""What a field holds: a text, or several, such as options."""


class Message(NamedTuple):
    """A turn of a conversation; `role`: `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Content:
    """What a record says: fields for a template, or a conversation that is ready.

    Attributes:
        task: A name of `regrow.instructions.tasks`.
        fields: The fields of the task by name; empty if the conversation is ready.
        messages: The conversation; it ends with a turn of the assistant.
        language: `en` or `zh`; empty if the text itself shows it.
    """

    task: str
    fields: Mapping[str, Value] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    language: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A content with its place.

    Attributes:
        id: Source, file and number of the record.
        source: The name of the source.
        task: As of the content.
        language: `en`, `zh`, or `other`.
        fields: As of the content.
        messages: As of the content.
    """

    id: str
    source: str
    task: str
    language: str
    fields: Mapping[str, Value]
    messages: tuple[Message, ...] = ()

    @property
    def texts(self) -> list[str]:
        """All its texts, the names of languages and the like too."""
        found = [message.content for message in self.messages]
        for value in self.fields.values():
            found += [value] if isinstance(value, str) else value
        return found

    @property
    def said(self) -> str:
        """What is compared with other texts: its words, without options and the like."""
        found = [message.content for message in self.messages]
        found += [
            value
            for name, value in self.fields.items()
            if isinstance(value, str) and name not in _ABOUT
        ]
        return "\n".join(found)

    @property
    def key(self) -> str:
        """Equal for samples that say the same, whatever their spaces, case and punctuation."""
        turns = [f"{role}:{plain(content)}" for role, content in self.messages]
        fields = [
            f"{name}={plain(value if isinstance(value, str) else chr(31).join(value))}"
            for name, value in sorted(self.fields.items())
        ]
        return "\0".join([*turns, *fields])

    @property
    def subject(self) -> str:
        """What it is about, without the answer: a passage, a question, the first turn of a user.

        Samples of one subject are never divided between training and held-out text.
        """
        if self.messages:
            first = next((each for each in self.messages if each.role == "user"), self.messages[0])
            return plain(first.content)
        for name in SUBJECTS:
            value = self.fields.get(name)
            if isinstance(value, str) and value:
                return plain(value)
        return self.key


@dataclass(frozen=True, slots=True)
class Instruction:
    """A conversation to learn from.

    Attributes:
        sample: What it was made from.
        messages: The conversation.
        task: The task of the template, which can differ from that of the sample.
        language: Of the instruction.
        template: The name of the template; empty if the conversation was ready.
        shots: Examples before the question.
    """

    sample: Sample
    messages: tuple[Message, ...]
    task: str
    language: str
    template: str = ""
    shots: int = 0


_IGNORED = re.compile(r"[\W_]+")


def plain(text: str) -> str:
    """The text in lower case and compatibility form, without spaces and punctuation.

    A text of signs alone, such as `+` or `>=`, keeps them.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _IGNORED.sub("", folded) or "".join(folded.split())


def number_of(seed: int, purpose: str, text: str) -> int:
    """64 bits that seed, purpose and text decide."""
    data = f"{purpose}\0{seed}\0{text}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
