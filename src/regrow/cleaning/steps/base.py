"""What all steps of cleaning share: settings that pydantic checks, and findings."""

import importlib.util
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from regrow.cleaning.document import Document, Finding, Outcome
from regrow.common.errors import UserError
from regrow.common.fields import Strict

_EXAMPLE = 60
"""Characters of an example."""
NOTHING_LEFT = "nothing left"
"""The reason of a document that a step made empty."""


class CleaningStep(Strict, ABC):
    """A step with its settings; what it does depends on the settings and the document only.

    A step can be pickled. It loads its packages when it is first applied in a process.

    Raises:
        UserError: When a step is made: a package that it needs is not installed.
    """

    name: ClassVar[str]
    """As the configuration names the step."""
    needs: ClassVar[Mapping[str, str]] = {}
    """The modules that the step imports, each with the name of its package."""

    def model_post_init(self, _context: Any, /) -> None:
        for module, package in self.required().items():
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"{package} is not installed; pip install 'regrow[clean]'", key=self.name
                )

    def required(self) -> Mapping[str, str]:
        """The modules that the step imports with these settings."""
        return self.needs

    @abstractmethod
    def apply(self, document: Document) -> Outcome:
        """What the step makes of a document."""


def shortened(text: str) -> str:
    """The beginning of a text, on one line, as an example of a finding."""
    line = " ".join(text[: 4 * _EXAMPLE].split())
    return line if len(line) <= _EXAMPLE else line[: _EXAMPLE - 1] + "…"


def kept(document: Document, **facts: str | float) -> Outcome:
    """The document as it was, with new facts."""
    return Outcome(replace(document, facts={**document.facts, **facts}) if facts else document)


def dropped(reason: str, example: str) -> Outcome:
    """No document, for one reason."""
    return Outcome(None, (Finding(reason, shortened(example)),))


def changed(document: Document, text: str, found: "Findings") -> Outcome:
    """The document with another text; it is dropped if only white space is left of it.

    A document that was empty before stays as it was.
    """
    findings = found.findings()
    if text == document.text:
        return Outcome(document, findings)
    if not text.strip() and document.text.strip():
        return Outcome(None, (*findings, Finding(NOTHING_LEFT, shortened(document.text))))
    return Outcome(replace(document, text=text), findings)


class Findings:
    """Counts what was found in a document, by reason, with the first example of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count something; nothing if `count` is 0."""
        if count:
            self._counts[reason] += count
            self._examples.setdefault(reason, shortened(example))

    def findings(self) -> tuple[Finding, ...]:
        """What was found, in the order in which it was first found."""
        return tuple(Finding(r, self._examples[r], n) for r, n in self._counts.items())
