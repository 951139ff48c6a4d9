"""A document on its way through the steps of cleaning, and what a step decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it came from.

    Attributes:
        text: The text.
        id: Names the document for ever: source, file and number of the record.
        source: The name of the source in the configuration.
        facts: What steps found out, such as ``language``; written beside the text.
    """

    text: str
    id: str
    source: str
    facts: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a step changed or dropped a document.

    Attributes:
        reason: A short name that is counted, such as ``e-mail address``.
        example: The words that gave the reason, in a few dozen characters.
        count: How often it was found in the document.
    """

    reason: str
    example: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step made of a document.

    Attributes:
        document: The document as it goes on; None if it is dropped.
        findings: Why it was changed or dropped; empty if it is kept as it was.
    """

    document: Document | None
    findings: tuple[Finding, ...] = ()


class Step(Protocol):
    """Keeps, changes or drops a document by itself alone, so that any process can do it."""

    name: ClassVar[str]
    """As the configuration names the step."""

    def apply(self, document: Document) -> Outcome: ...
