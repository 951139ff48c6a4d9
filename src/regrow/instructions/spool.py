"""Rows on the disk between the second pass and the result, sorted by their draws.

So the result is in random order, and the memory that this needs does not grow with it: rows are put
into buckets by the first bits of their draw, and one bucket at a time is sorted.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_ROWS_A_BUCKET = 20_000
_MOST_BUCKETS = 256


class SpoolRow(NamedTuple):
    """A row, and what the report says of it.

    Attributes:
        draw: Of the sample.
        number: Of the sample, in the order in which samples are read.
        prompt: The length of the prompt.
        answer: The length of the answer.
        shots: Examples before the question.
        row: JSON.
    """

    draw: int
    number: int
    prompt: int
    answer: int
    shots: int
    row: str


class Spool:
    """A context manager; rows are added inside it, and read after it."""

    def __init__(self, place: Path, rows: int) -> None:
        """`place`: a new directory; `rows`: about how many there will be."""
        self._buckets = min(_MOST_BUCKETS, 1 + rows // _ROWS_A_BUCKET)
        self._paths = [place / f"{number:03}" for number in range(self._buckets)]
        self._stack = ExitStack()
        place.mkdir()

    def __enter__(self) -> Self:
        self._files = [
            self._stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            for path in self._paths
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, row: SpoolRow) -> None:
        """Add a row."""
        file = self._files[row.draw * self._buckets >> 64]
        # Fixed widths, so that the lines sort as the numbers do.
        numbers = f"{row.draw:020}\t{row.number:012}\t{row.prompt}\t{row.answer}\t{row.shots}"
        file.write(f"{numbers}\t{row.row}\n")

    def rows(self) -> Iterator[SpoolRow]:
        """All rows, by their draws."""
        for path in self._paths:
            with path.open(encoding="utf-8", newline="\n") as file:
                lines = sorted(file)
            path.unlink()
            for line in lines:
                *numbers, row = line.rstrip("\n").split("\t", 5)
                draw, number, prompt, answer, shots = map(int, numbers)
                yield SpoolRow(draw, number, prompt, answer, shots, row)
