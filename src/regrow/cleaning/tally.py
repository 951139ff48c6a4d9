"""What each step did with the documents: counts and examples, which add up over blocks."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from regrow.cleaning.document import Finding

EXAMPLES = 5
"""Examples of a reason that are kept: the first ones."""


@dataclass
class Example:
    """Where a reason was found, and the words that gave it."""

    document: str
    words: str


@dataclass
class ReasonTally:
    """How often a reason was found.

    Attributes:
        documents: In how many documents.
        count: How often in all of them.
        examples: The first ones.
    """

    documents: int = 0
    count: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class StepTally:
    """What a step did.

    Attributes:
        read: Documents that came to it.
        changed: Documents whose text it changed.
        dropped: Documents that it dropped.
        characters_read: Characters that came to it.
        characters_kept: Characters that went on.
        reasons: Why documents were changed or dropped.
    """

    read: int = 0
    changed: int = 0
    dropped: int = 0
    characters_read: int = 0
    characters_kept: int = 0
    reasons: dict[str, ReasonTally] = field(default_factory=dict)

    def passed(self, before: str | None, after: str | None) -> None:
        """Count a document: its text before the step, and after it or None."""
        self.read += 1
        self.dropped += after is None
        self.changed += after is not None and after != before
        self.characters_read += len(before or "")
        self.characters_kept += len(after or "")

    def found(self, document: str, findings: Iterable[Finding]) -> None:
        """Count what was found in a document."""
        for finding in findings:
            reason = self.reasons.setdefault(finding.reason, ReasonTally())
            reason.documents += 1
            reason.count += finding.count
            if len(reason.examples) < EXAMPLES:
                reason.examples.append(Example(document, finding.example))

    def add(self, other: "StepTally") -> None:
        """Add what the step did with later documents."""
        self.read += other.read
        self.changed += other.changed
        self.dropped += other.dropped
        self.characters_read += other.characters_read
        self.characters_kept += other.characters_kept
        for name, more in other.reasons.items():
            reason = self.reasons.setdefault(name, ReasonTally())
            reason.documents += more.documents
            reason.count += more.count
            reason.examples += more.examples[: EXAMPLES - len(reason.examples)]


Tally = dict[str, StepTally]
"""What the steps did, by the name of the step, in their order."""


def add_tally(whole: Tally, more: Tally) -> None:
    """Add what the steps did with later documents."""
    for name, step in more.items():
        whole.setdefault(name, StepTally()).add(step)


def tally_json(tally: Tally) -> dict[str, Any]:
    """The counts as values that JSON can hold."""
    return {name: asdict(step) for name, step in tally.items()}


def tally_from(values: Mapping[str, Any]) -> Tally:
    """The counts that `tally_json` gave."""
    return {name: _step_from(step) for name, step in values.items()}


def _step_from(values: Mapping[str, Any]) -> StepTally:
    reasons = {
        name: ReasonTally(
            each["documents"], each["count"], [Example(**one) for one in each["examples"]]
        )
        for name, each in values["reasons"].items()
    }
    return StepTally(**{**values, "reasons": reasons})
