"""What a corpus is that was built: files, sizes, and what each step did."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regrow.cleaning.mixture import Mixture
from regrow.cleaning.tally import StepTally

DOCUMENTS, REPORT, HITS, STORE = "documents", "report.json", "contamination.jsonl", "tokens"
PAGE = "report.html"


@dataclass(frozen=True)
class NamedTally:
    """A step, and what it did."""

    name: str
    tally: StepTally


@dataclass(frozen=True)
class BuiltCorpus:
    """A corpus that was built.

    Attributes:
        out: Its directory.
        files: The files of its documents, in order.
        documents: How many there are in them; a document that is taken twice counts twice.
        characters: Their characters.
        tokens: Their tokens in the store, with the end tokens of documents; None without a store.
        steps: What each step did, in order.
        mixture: How much of each source was there and was taken.
        settings: The configuration.
        read_notes: What was read and what was not, in sentences.
    """

    out: Path
    files: tuple[Path, ...]
    documents: int
    characters: int
    tokens: int | None
    steps: tuple[NamedTally, ...]
    mixture: Mixture
    settings: dict[str, Any]
    read_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the report should know."""
        return (*self.mixture.notes, *self.read_notes)

    @property
    def read(self) -> int:
        """The documents that were read, with those that cannot be used."""
        return self.steps[0].tally.read

    @property
    def page(self) -> Path:
        """The page of the report."""
        return self.out / PAGE

    def to_json(self) -> dict[str, Any]:
        """The report as values for JSON, without times: the same work gives the same."""
        return {
            "documents": self.documents,
            "characters": self.characters,
            "tokens": self.tokens,
            "read": self.read,
            "files": [path.name for path in self.files],
            "steps": [{"name": step.name, **asdict(step.tally)} for step in self.steps],
            "mixture": {
                "unit": self.mixture.unit,
                "sources": [{**asdict(row), "times": row.times} for row in self.mixture.rows],
                "notes": list(self.mixture.notes),
            },
            "notes": list(self.read_notes),
            "settings": self.settings,
        }


def most_dropped(steps: Sequence[NamedTally]) -> str:
    """Which step dropped most, in words; if none dropped anything, why nothing was read."""
    most = max(steps, key=lambda step: step.tally.dropped)
    if not most.tally.dropped:
        first = next(iter(steps[0].tally.reasons.items()), None)
        if first is None:
            return "there was none"
        reason, found = first
        where = f" ({found.examples[0].document})" if found.examples else ""
        return f"none could be read: {reason}{where}"
    reasons = sorted(most.tally.reasons.items(), key=lambda pair: -pair[1].documents)
    why = f" ({reasons[0][0]})" if reasons else ""
    return f"{most.name} dropped {most.tally.dropped:,} of {most.tally.read:,}{why}"
