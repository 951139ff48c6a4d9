"""Any rows, by a map from the fields of a task to columns."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from regrow.common.errors import UserError
from regrow.instructions.formats.format import BrokenError
from regrow.instructions.formats.translations import translation
from regrow.instructions.sample import Content, Value
from regrow.instructions.tasks import LISTS, TASKS

Column = str | int
"""The name of a column, or its number from 1."""


@dataclass(frozen=True)
class ColumnMap:
    """Where the fields of a task stand.

    Attributes:
        task: The task.
        columns: A column for each field; several for the options.
        labels: Words for the answers by what the file has; empty if they are words.
    """

    task: str
    columns: Mapping[str, Column | Sequence[Column]]
    labels: Mapping[str, str]

    def check(self) -> None:
        """Raise UserError if the task has no such field, or a field cannot have several columns."""
        for name, columns in self.columns.items():
            if name not in TASKS[self.task]:
                raise UserError(
                    f"{self.task} has the fields {', '.join(TASKS[self.task])}",
                    key=f"columns.{name}",
                )
            if not isinstance(columns, str | int) and name not in LISTS:
                raise UserError("one column is wanted", key=f"columns.{name}")

    @property
    def has_names(self) -> bool:
        """Whether columns are called by name, so that the first row of a table holds the names."""
        return any(isinstance(each, str) for each in self._all)

    @property
    def _all(self) -> list[Column]:
        return [
            each
            for columns in self.columns.values()
            for each in ([columns] if isinstance(columns, str | int) else columns)
        ]

    def missing(self, names: Sequence[str]) -> Column | None:
        """A column that a table with these names does not have; None if it has all."""
        for each in self._all:
            if each not in names if isinstance(each, str) else each > len(names):
                return each
        return None

    def read(self, row: Mapping[str, Any] | Sequence[str]) -> list[Content]:
        """The content of a row. Raises BrokenError if it lacks a field."""
        get = _getter(row)
        fields: dict[str, Value] = {}
        for name, columns in self.columns.items():
            if isinstance(columns, str | int):
                value = get(columns)
                fields[name] = _listed(value) if name in LISTS else _text(value, name)
            else:
                fields[name] = tuple(_text(get(each), name) for each in columns)
        if self.task == "translation":
            return [translation(str(fields.get("text", "")), str(fields.get("translation", "")))]
        if "answer" in fields:
            given = get(self._answer_column)
            fields["answer"] = self._answer(given, str(fields["answer"]), fields.get("options"))
        if self.labels and "options" not in fields and "options" in TASKS[self.task]:
            fields["options"] = tuple(dict.fromkeys(self.labels.values()))
        return [Content(self.task, fields)]

    @property
    def _answer_column(self) -> Column:
        column = self.columns["answer"]
        assert isinstance(column, str | int)
        return column

    def counts_from_one(self, rows: Sequence[Mapping[str, Any] | Sequence[str]]) -> int | None:
        """The number of the last option if answers are numbers from 1; None if they are not.

        `rows`: the first of a file. They count from 1 if one has the number of its options, which
        is none of the numbers from 0, and no row has 0.
        """
        if self.labels or "answer" not in self.columns or "options" not in self.columns:
            return None
        options, last = replace(self, columns={"options": self.columns["options"]}), None
        for row in rows:
            try:
                (content,) = options.read(row)
                found = content.fields["options"]
                assert isinstance(found, tuple)
                number = _number(_getter(row)(self._answer_column), found)
            except (BrokenError, ValueError):
                continue
            if number == 0:
                return None
            if number == len(found):
                last = number
        return last

    def _answer(self, given: Any, words: str, options: Value | None) -> str:
        """The words of an answer that is given as a label, a letter or the number of an option.

        `given`: as the row has it. `words`: the same as text.
        """
        if self.labels:
            if words not in self.labels:
                raise BrokenError(f"answer: no label {words[:40]!r}")
            return self.labels[words]
        if not isinstance(options, tuple):
            return words
        number = _number(given, options)
        if number is not None and 0 <= number < len(options):
            return options[number]
        if number is None and words in options:
            return words
        if number is None and len(words) == 1 and "A" <= words <= "Z":
            place = ord(words) - ord("A")
            if place < len(options):
                return options[place]
        raise BrokenError("answer: none of the options, which are numbered from 0")


def _number(given: Any, options: Sequence[str]) -> int | None:
    """The number that an answer is; None if it is words.

    A number that is no text is always the number of an option. A text, as all cells of a table are,
    is first one of the options.
    """
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    words = given.strip() if isinstance(given, str) else ""
    return int(words) if words.isdecimal() and words not in options else None


def _getter(row: Mapping[str, Any] | Sequence[str]) -> Callable[[Column], Any]:
    if isinstance(row, Mapping):
        return lambda column: row.get(str(column))
    return lambda column: row[column - 1] if isinstance(column, int) and column <= len(row) else ""


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise BrokenError(f"{name}: {value} is no number")
        return str(value)
    if value is not None and not isinstance(value, str):
        raise BrokenError(f"{name}: no text")
    if not value or not value.strip():
        raise BrokenError(f"{name}: empty")
    return value.strip()


def _listed(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_text(each, "list") for each in value)
    if isinstance(value, Mapping):
        raise BrokenError("options: an object; give a column that holds a list of texts")
    return tuple(part.strip() for part in str(value or "").split(";") if part.strip())
