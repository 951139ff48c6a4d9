"""What a build read, dropped and wrote, counted."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TRAIN, HELDOUT = "train", "heldout"


@dataclass
class SourceReport:
    """What became of the samples of a source.

    Attributes:
        name: Of the source.
        licence: As the configuration says it; empty if it does not.
        formats: How each of its files was read.
        records: Records that could be used.
        samples: Samples in them.
        broken: Records that could not be used, by why.
        places: Some of them, by why.
        dropped: Samples that were dropped, by why.
        left: Samples that fit and were not asked for.
        train: Instructions to train on.
        heldout: Instructions that are held out.
    """

    name: str
    licence: str = ""
    formats: dict[str, str] = field(default_factory=dict)
    records: int = 0
    samples: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    left: int = 0
    train: int = 0
    heldout: int = 0


@dataclass(frozen=True)
class Spread:
    """How long some texts are: mean, median, 95th percentile, longest."""

    mean: float
    median: int
    p95: int
    longest: int


@dataclass
class Counts:
    """The instructions of a build, counted by what they are.

    Attributes:
        tasks: By task.
        languages: By language.
        templates: By template; `ready` where none was needed.
        shots: By the number of examples before the question.
        splits: By train and heldout.
        prompts: The length of each prompt.
        answers: The length of each answer.
    """

    tasks: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    templates: Counter[str] = field(default_factory=Counter)
    shots: Counter[int] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    prompts: "array[int]" = field(default_factory=lambda: array("I"))
    answers: "array[int]" = field(default_factory=lambda: array("I"))

    def add(self, row: Mapping[str, Any], split: str, lengths: tuple[int, int], shots: int) -> None:
        """Count a row that was written."""
        self.tasks[row["task"]] += 1
        self.languages[row["language"]] += 1
        self.templates[row["template"] or "ready"] += 1
        self.shots[shots] += 1
        self.splits[split] += 1
        self.prompts.append(lengths[0])
        self.answers.append(lengths[1])

    def spreads(self) -> dict[str, Spread]:
        """How long prompts and answers are."""
        return {"prompt": _spread(self.prompts), "answer": _spread(self.answers)}


def _spread(values: Sequence[int]) -> Spread:
    lengths = np.asarray(values, dtype=np.int64)
    if not len(lengths):
        return Spread(0.0, 0, 0, 0)
    median, p95 = np.percentile(lengths, [50, 95], method="lower")
    return Spread(round(float(lengths.mean()), 1), int(median), int(p95), int(lengths.max()))


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    Attributes:
        name: Of the configuration.
        seed: Of the configuration.
        sources: What became of each source.
        tasks: Instructions by task.
        languages: Instructions by language.
        templates: Instructions by template.
        shots: Instructions by examples before the question.
        train: Instructions to train on.
        heldout: Instructions that are held out.
        unit: Of the lengths: `tokens` or `characters`.
        lengths: Of prompts and answers.
        contaminated: Samples that repeat an evaluation set, by its file.
        notes: What the user should know, a line each.
        files: The files that were written.
    """

    name: str
    seed: int
    sources: tuple[SourceReport, ...]
    tasks: Mapping[str, int]
    languages: Mapping[str, int]
    templates: Mapping[str, int]
    shots: Mapping[int, int]
    train: int
    heldout: int
    unit: str
    lengths: Mapping[str, Spread]
    contaminated: Mapping[str, int]
    notes: tuple[str, ...]
    files: tuple[str, ...]


def by_count(counter: Counter[Any]) -> dict[Any, int]:
    """The counts, the largest first, and equal ones in the order of their names."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], str(item[0]))))


def as_json(report: BuildReport) -> dict[str, Any]:
    """The report as values that JSON can hold."""
    sources = [
        {**vars(each), "broken": by_count(each.broken), "dropped": by_count(each.dropped)}
        for each in report.sources
    ]
    lengths = {name: vars(each) for name, each in report.lengths.items()}
    return {**vars(report), "sources": sources, "lengths": lengths}
