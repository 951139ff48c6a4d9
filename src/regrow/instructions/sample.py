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
_PASSAGES = ("context", "evidence")
"""Fields that a sample can share with many others."""
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
        return "\n".join([*found, *self._said().values()])

    @property
    def passage_and_rest(self) -> tuple[str, str] | None:
        """The passage that it asks about, and what it says of it; None if it has no passage.

        Several questions on one passage share most of their words, and are not the same.
        """
        said = self._said()
        passage = [said.pop(name) for name in _PASSAGES if name in said]
        return ("\n".join(passage), "\n".join(said.values())) if passage and said else None

    def _said(self) -> dict[str, str]:
        return {
            name: value
            for name, value in self.fields.items()
            if isinstance(value, str) and name not in _ABOUT
        }

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

        Samples of one subject are never divided between training and held-out text. The subject of
        a translation is the side in English, whichever way it goes.
        """
        if self.messages:
            first = next((each for each in self.messages if each.role == "user"), self.messages[0])
            return plain(first.content)
        translated = self.fields.get("translation")
        if isinstance(translated, str) and self.fields.get("translation_language") == "en":
            return plain(translated)
        for name in SUBJECTS:
            value = self.fields.get(name)
            if value:
                return plain(value) if isinstance(value, str) else "\x1f".join(map(plain, value))
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


_SIGNS = r"\s,.;:!?\u3001\u3002\"'`\u00b4\u00ab\u00bb\u2018-\u201f\u2039\u203a\u300c-\u300f"
"""Spaces, punctuation and quotation marks of both languages, as a set of a pattern."""
_IGNORED = re.compile(rf"((?<=\d)[{_SIGNS}]++(?=\d)|\.(?=\d))|[{_SIGNS}]")
"""What is left out; group 1 holds what stays: all between two digits, and a decimal point."""


def plain(text: str) -> str:
    """The text in lower case and compatibility form, without spaces and punctuation.

    Signs of mathematics stay, as does what stands between two digits: `2.5` is not 25. A text of
    punctuation alone keeps it.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _IGNORED.sub(r"\1", folded) or "".join(folded.split())


def number_of(seed: int, purpose: str, text: str) -> int:
    """64 bits that seed, purpose and text decide."""
    data = f"{purpose}\0{seed}\0{text}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
