"""The complete rounds of an unfinished text, on the disk, and what they add up to.

A run that was killed reads them, and goes on.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from regrow.common.errors import UserError
from regrow.common.files import (
    json_bytes,
    parse_json_object,
    read_json_object,
    write_atomically,
)
from regrow.common.publishing import sync_descriptor
from regrow.corpus.parallel import check_same_work

JOB, ROUNDS = "job.json", "rounds.jsonl"
"""What decides the bytes of a text, and its complete rounds, in the workplace of the text."""
_LEAST_BRIEF, _JUDGED_ROWS = 0.2, 100
"""If fewer of so many brief conversations can be kept, there are no more of them."""
_FRUITLESS_ROUNDS, _FRUITLESS_ROWS = 3, 100


@dataclass(frozen=True)
class Round:
    """What a round wrote: texts with their tokens, dropped texts by reason, marks (`rounds`)."""

    rows: int
    texts: list[tuple[str, int]]
    dropped: dict[str, int]
    marks: list[str]
    is_brief: bool = False

    def check(self) -> None:
        """Raise TypeError or ValueError if a damaged file gave values of other types."""
        numbers = [self.rows, *self.dropped.values(), *(tokens for _, tokens in self.texts)]
        words = [*self.marks, *(text for text, _ in self.texts)]
        if any(type(n) is not int for n in numbers) or any(type(w) is not str for w in words):
            raise TypeError
        if type(self.is_brief) is not bool:
            raise TypeError


@dataclass
class KindTotals:
    """Totals of the rounds of brief conversations, or of those of other texts.

    Attributes:
        fruitless: The last rounds of which no text can be kept.
        fruitless_rows: Their texts.
        is_poor: Whether too few of a hundred texts or more in a row could be kept.
    """

    rows: int = 0
    tokens: int = 0
    fruitless: int = 0
    fruitless_rows: int = 0
    is_poor: bool = False
    _judged_rows: int = 0
    _judged_texts: int = 0

    def add(self, found: Round) -> None:
        self.rows += found.rows
        self.tokens += sum(tokens for _, tokens in found.texts)
        self.fruitless = 0 if found.texts else self.fruitless + 1
        self.fruitless_rows = 0 if found.texts else self.fruitless_rows + found.rows
        self._judged_rows += found.rows
        self._judged_texts += len(found.texts)
        if self._judged_rows >= _JUDGED_ROWS:
            self.is_poor |= self._judged_texts < _LEAST_BRIEF * self._judged_rows
            self._judged_rows = self._judged_texts = 0

    def mean(self, guessed: float) -> float:
        """Tokens of a text, with those that are dropped; a guess before any is kept."""
        return self.tokens / self.rows if self.tokens else guessed

    @property
    def is_hopeless(self) -> bool:
        return self.fruitless >= _FRUITLESS_ROUNDS and self.fruitless_rows >= _FRUITLESS_ROWS


@dataclass
class Totals:
    rounds: int = 0
    brief: KindTotals = field(default_factory=KindTotals)
    others: KindTotals = field(default_factory=KindTotals)
    dropped: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)

    @property
    def tokens(self) -> int:
        return self.brief.tokens + self.others.tokens

    def add(self, found: Round) -> None:
        self.rounds += 1
        (self.brief if found.is_brief else self.others).add(found)
        self.dropped.update(found.dropped)
        self.seen.update(found.marks)


class WrittenRounds:
    """The complete rounds of an unfinished text, one line of a file each, and their totals."""

    def __init__(self, directory: Path, work: Mapping[str, Any], names: Mapping[str, str]) -> None:
        """Read the rounds of an earlier run. Raises UserError if it did other work.

        `work`: what decides the bytes of the text. `names`: what a message calls its parts.
        """
        self.work = work
        self._path = directory / ROUNDS
        self.totals = Totals()
        if self._path.is_file():
            check_same_work(directory, read_json_object(directory / JOB), work, names)
            data = self._path.read_bytes()
            os.truncate(self._path, data.rfind(b"\n") + 1)  # an incomplete line of a killed run
            for found in self:
                self.totals.add(found)
        else:
            write_atomically(directory / JOB, json_bytes(work))

    def __iter__(self) -> Iterator[Round]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    found = Round(**parse_json_object(line, ""))
                    found.check()
                except (UserError, TypeError, ValueError, AttributeError):
                    raise UserError(
                        f"{self._path}:{number}: damaged; delete {self._path.parent} to begin anew"
                    ) from None
                yield found

    @property
    def tokens(self) -> int:
        return self.totals.tokens

    def add(self, found: Round) -> None:
        """Append a round, and wait until it is on the disk."""
        with self._path.open("ab") as file:
            file.write(json_bytes(asdict(found), indent=None))
            file.flush()
            sync_descriptor(file.fileno())
        self.totals.add(found)

    def check_progress(self, where: Path) -> None:
        """Raise UserError if the last rounds gave nothing."""
        if self.totals.others.is_hopeless:
            dropped = ", ".join(f"{n:,} {reason}" for reason, n in self.totals.dropped.items() if n)
            advice = "ask for fewer tokens, or give more `prompts`"
            if self.totals.dropped["other language"]:
                wanted = ", ".join(self.work["languages"])
                advice = f"{advice} in {wanted}, or allow more `languages`"
            raise UserError(
                f"{where}: of the last {self.totals.others.fruitless_rows} texts none can be kept "
                f"(dropped so far: {dropped}); {advice}"
            )
