"""Read the samples of a source, and count what could not be read."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from regrow.common.errors import UserError
from regrow.common.progress import told
from regrow.instructions.config import InstructionSource, files_of
from regrow.instructions.entities import read_entities
from regrow.instructions.formats.flan import COLUMNS, read_flan
from regrow.instructions.formats.format import BrokenError
from regrow.instructions.formats.registry import FORMATS, is_entities, recognise
from regrow.instructions.language import language_of
from regrow.instructions.parallel import read_parallel
from regrow.instructions.records import Opened, Record, open_records
from regrow.instructions.sample import Content, Sample, Value
from regrow.instructions.tasks import TASKS

_LOOKED_AT = 50
"""Records by which a format is recognised."""
_MOST_PLACES = 3
"""Examples of broken records that are named for each reason."""
_NAME = re.compile(r"[A-Za-z_]\w*")
"""The name of a column. A question has more words."""
Read = Callable[[Any], Sequence[Content]]


@dataclass
class Reading:
    """What was read of a source.

    Attributes:
        formats: How each file was read, by its path below what the files have in common.
        records: Records that gave a sample.
        broken: Records that gave none, by why.
        places: The first broken records of each reason.
        notes: What of its files could not be kept, one line each.
        labelled: Samples whose answer is one of the labels of the source.
        unlabelled: Samples whose answer is none, and the first such answer.
    """

    formats: dict[str, str] = field(default_factory=dict)
    records: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    labelled: int = 0
    unlabelled: tuple[int, str] = (0, "")

    def lose(self, reason: str, where: str) -> None:
        """Count a broken record."""
        self.broken[reason] += 1
        places = self.places.setdefault(reason, [])
        if len(places) < _MOST_PLACES:
            places.append(where)


def read_source(source: InstructionSource, reading: Reading, seed: int) -> Iterator[Sample]:
    """The samples of a source, in the order of its paths and files.

    Args:
        source: the source.
        reading: is told what is read.
        seed: decides which types of entities are asked for.

    Raises UserError if a file has no known format, or nothing in it can be used.
    """
    files = files_of(source.path)
    if source.translation is not None and len(files) > 1:
        raise UserError(f"{source.title}: {len(files)} files, but one translation; give one path")
    base = Path(os.path.commonpath([file.absolute().parent for file in files]))
    several = ", file" if len(files) > 1 else ""
    for file in told(files, f"reading {source.title}{several}"):
        before = reading.records
        name = file.absolute().relative_to(base)
        for number, contents in _file(source, file, str(name), reading, seed):
            reading.records += bool(contents)
            for place, content in enumerate(contents):
                identity = f"{source.title}/{name}#{number}" + (f".{place + 1}" if place else "")
                yield _sample(content, source, identity, reading)
        if reading.records == before:
            raise UserError(f"{file}: nothing that can be used{_why(reading)}")
    if source.labels and not reading.labelled:
        raise UserError(
            f"{source.title}: labels: no sample has one of them as its answer or type; leave them "
            "out, or give those of the file"
        )
    if reading.unlabelled[0]:
        count, first = reading.unlabelled
        reading.notes.append(
            f"{count:,} answers are none of the labels, such as {first[:40]!r}; they stay as they "
            "are"
        )


def _why(reading: Reading) -> str:
    common = reading.broken.most_common(1)
    if not common:
        return ""
    reason, count = common[0]
    return f"; {count:,} records: {reason} ({reading.places[reason][0]})"


def _sample(content: Content, source: InstructionSource, identity: str, reading: Reading) -> Sample:
    task = content.task
    if source.task is not None and source.task != task:
        unknown = content.fields.keys() - set(TASKS[source.task])
        if unknown:
            raise UserError(
                f"{source.title}: task {source.task} has no field {min(unknown)}, which its "
                f"samples have; leave the task out: they are {task}"
            )
        task = source.task
    fields = _relabelled(content.fields, source, reading) if source.labels else content.fields
    sample = Sample(identity, source.title, task, "", fields, content.messages)
    language = source.language or content.language or language_of(sample.texts)
    return Sample(identity, source.title, task, language, fields, content.messages)


def _relabelled(
    fields: Mapping[str, Value], source: InstructionSource, reading: Reading
) -> Mapping[str, Value]:
    """The fields with words for the labels in answer and options; labels are counted."""
    labels, answer = source.labels, fields.get("answer")
    types = fields.get("types")
    if types is not None:  # Entities have them already.
        reading.labelled += any(name in labels.values() for name in types)
        return fields
    if not isinstance(answer, str):
        return fields
    if source.columns:  # An answer that is no label is broken there.
        reading.labelled += 1
        return fields
    if answer in labels:
        reading.labelled += 1
    else:
        count, first = reading.unlabelled
        reading.unlabelled = count + 1, first or answer
    options = fields.get("options")
    found = {**fields, "answer": labels.get(answer, answer)}
    if isinstance(options, tuple):
        found["options"] = tuple(labels.get(each, each) for each in options)
    return found


def _file(
    source: InstructionSource, path: Path, name: str, reading: Reading, seed: int
) -> Iterator[tuple[int, Sequence[Content]]]:
    """The contents of each record of a file that has some."""
    if source.translation is not None:
        reading.formats[name] = f"parallel text with {source.translation.name}"
        pairs = read_parallel(path, source.translation)
        for number, parts in groupby(pairs, key=lambda pair: pair[0]):
            found = []
            for _, content, problem in parts:
                if content is None:
                    reading.lose(problem, f"{name}: {number}")
                else:
                    found.append(content)
            yield number, found
        return
    opened = open_records(path)
    first = [record for record in islice(opened.records(), _LOOKED_AT) if not record.problem]
    values = [record.value for record in first if isinstance(record.value, dict)]
    if (
        source.format is None
        and not source.columns
        and (opened.kind == "tags" or is_entities(values))
    ):
        reading.formats[name] = f"named entities in {opened.kind}"
        contents = read_entities(
            path, is_json=opened.kind != "tags", labels=source.labels,
            language=source.language or "", seed=seed, note=reading.notes.append,
        )  # fmt: skip
        for number, content in enumerate(contents, start=1):
            yield number, [content]
        return
    read, words, header = _reader(source, opened, first)
    reading.formats[name] = words
    records = opened.records() if header is None else _named(opened.records(), header)
    for record in records:
        if record.problem:
            reading.lose(record.problem, f"{name}: {record.number}")
            continue
        try:
            yield record.number, read(record.value)
        except BrokenError as error:
            reading.lose(str(error), f"{name}: {record.number}")
        except (KeyError, TypeError, AttributeError, ValueError):
            reading.lose("another form than the rest", f"{name}: {record.number}")


def _named(records: Iterator[Record], header: list[str]) -> Iterator[Record]:
    """The rows of a table as objects; the header is passed over, also where it is repeated."""
    for record in records:
        if record.problem:
            yield record
        elif len(record.value) != len(header):
            yield Record(record.number, None, "another number of columns than the header")
        elif record.value != header:
            yield Record(record.number, dict(zip(header, record.value, strict=True)))


def _reader(
    source: InstructionSource, opened: Opened, first: Sequence[Record]
) -> tuple[Read, str, list[str] | None]:
    """How the records of a file are read, in words too, and the header of a table or None."""
    path, values = opened.path, [record.value for record in first]
    if not values:
        raise UserError(f"{path}: {opened.kind}, of which no record can be read")
    if opened.kind == "text":
        raise UserError(
            f"{path}: plain text; give JSON, TSV, CSV or Parquet, or name its `translation`"
        )
    is_table = isinstance(values[0], list)
    if source.columns:
        return _mapped(source, path, values, is_table=is_table)
    if source.format == "flan":
        return read_flan, f"flan: {opened.kind} of question, answer and rationale", None
    if is_table:
        header = values[0]
        named = [dict(zip(header, row, strict=False)) for row in values[1:]]
        chosen = source.format and FORMATS[source.format]
        if (
            len(set(header)) == len(header)
            and named
            and (chosen or any(form.takes(row) for form in FORMATS.values() for row in named))
        ):
            chosen = chosen or recognise(named, str(path))
            return chosen.read, _words(chosen.name, chosen.keys), header
        widths = {len(row) for row in values}
        if widths == {COLUMNS} and opened.kind == "TSV":
            if all(_NAME.fullmatch(cell) for cell in header):
                raise UserError(
                    f"{path}: TSV with the columns {', '.join(header)}, which are no known names; "
                    "give `columns` and `task`, or `format`"
                )
            return read_flan, "flan: TSV of question, answer and rationale", None
        raise UserError(
            f"{path}: {opened.kind} with {len(header)} columns and no known names; give `columns` "
            "and `task`"
        )
    objects = [value for value in values if isinstance(value, dict)]
    form = FORMATS[source.format] if source.format else recognise(objects, str(path))
    return form.read, _words(form.name, form.keys), None


def _words(name: str, keys: Sequence[str]) -> str:
    return f"{name}: keys {', '.join(keys)}"


def _objects(rows: Sequence[list[str]], header: list[str] | None) -> Sequence[Any]:
    """The rows of a table as objects, if it has a header."""
    if header is None:
        return rows
    return [dict(zip(header, row, strict=True)) for row in rows[1:] if len(row) == len(header)]


def _mapped(
    source: InstructionSource, path: Path, values: Sequence[Any], *, is_table: bool
) -> tuple[Read, str, list[str] | None]:
    """How records are read by a map of columns.

    Raises UserError if none of the first has a column, or answers are numbers from 1.
    """
    columns = source.column_map
    rows = [value for value in values if isinstance(value, dict)]
    names = [*dict.fromkeys(key for row in rows for key in row)]
    if is_table:
        names = values[0] if columns.has_names else [""] * max(map(len, values))
    missing = columns.missing(names)
    if missing is not None:
        has = f"its columns are {', '.join(names)}" if columns.has_names else (
            f"it has {len(names)} columns"
        )  # fmt: skip
        raise UserError(f"{path}: no column {missing!r}; {has}")
    header = names if is_table and columns.has_names else None
    last = columns.counts_from_one(_objects(values, header) if is_table else rows)
    if last is not None:
        raise UserError(
            f"{path}: the answers are numbers from 1 to {last}, and options are numbered from 0; "
            "give numbers from 0, or letters from A"
        )
    return columns.read, f"columns {', '.join(map(str, source.columns))}", header
