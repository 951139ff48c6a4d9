"""Any rows, by a map from the fields of a task to columns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
            fields["answer"] = self._answer(str(fields["answer"]), fields.get("options"))
        if self.labels and "options" not in fields and "options" in TASKS[self.task]:
            fields["options"] = tuple(dict.fromkeys(self.labels.values()))
        return [Content(self.task, fields)]

    def _answer(self, value: str, options: Value | None) -> str:
        """The words of an answer that is given as a label, a letter or the number of an option."""
        if self.labels:
            if value not in self.labels:
                raise BrokenError(f"answer: no label {value[:40]!r}")
            return self.labels[value]
        if not isinstance(options, tuple) or value in options:
            return value
        if len(value) == 1 and "A" <= value <= "Z" and ord(value) - 65 < len(options):
            return options[ord(value) - 65]
        if value.isdecimal() and int(value) < len(options):
            return options[int(value)]
        raise BrokenError("answer: none of the options")


def _getter(row: Mapping[str, Any] | Sequence[str]) -> Callable[[Column], Any]:
    if isinstance(row, Mapping):
        return lambda column: row.get(str(column))
    return lambda column: row[column - 1] if isinstance(column, int) and column <= len(row) else ""


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise BrokenError(f"{name}: empty")
    return value.strip()


def _listed(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_text(each, "list") for each in value)
    return tuple(part.strip() for part in str(value or "").split(";") if part.strip())
