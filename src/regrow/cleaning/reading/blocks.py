"""Read inputs in blocks of whole records; damaged and too large parts are named and left out.

Memory is bounded by the largest record, 64 MB. A block carries what went wrong on its way, so that
work that goes on after a kill counts it once.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from regrow.cleaning.reading.inputs import Input
from regrow.cleaning.reading.unpacking import Damage, unpacked
from regrow.common.errors import UserError, one_line
from regrow.corpus.parquet_rows import read_rows, row_after
from regrow.corpus.reading import Reading
from regrow.corpus.text import LONGEST, Position

BLOCK_BYTES = 1 << 20
_BYTES_A_ROW = 4096
_SKIP = 1 << 20
TOO_LONG = f"longer than {LONGEST >> 20} MB"


class Problem(NamedTuple):
    """Something that cannot be read.

    Attributes:
        reason: What is wrong, the same words for all files.
        where: The file and the place in it.
    """

    reason: str
    where: str


@dataclass(frozen=True)
class RawBlock:
    """Consecutive whole records of an input.

    Attributes:
        input: The file or data set.
        key: The key or the column that holds the text.
        first: The number of its first record.
        after: Where the next block begins.
        records: Lines; a whole text or page; the values of rows; or the records of a WARC file.
        problems: What was left out on the way.
        read: Bytes of the input that were read so far.
        numbers: The number of each record, from 1, if others stand between them.
    """

    input: Input
    key: str
    first: int
    after: Position
    records: bytes | tuple[Any, ...]
    problems: tuple[Problem, ...]
    read: int
    numbers: tuple[int, ...] | None = None


def read_raw(
    given: Input, key: str, subset: str | None, split: str, start: Position
) -> Iterator[RawBlock]:
    """The records of an input from `start` on, in blocks of about 1 MB.

    Args:
        given: what is read.
        key: the key or the column that holds the text.
        subset: the configuration of a data set.
        split: the split of a data set.
        start: where to begin: 0, or `after` of a block.

    Raises:
        UserError: a data set cannot be opened. What is wrong in a file raises nothing.
    """
    if given.format == "dataset":
        yield from _rows_of_dataset(given, key, open_dataset(given.path, subset, split), start)
    elif given.format == "parquet":
        yield from _rows_of_parquet(given, key, start)
    else:
        blocks = {"jsonl": _lines, "text": _lines, "html": _page, "warc": _records}[given.format]
        try:
            with given.path.open("rb") as file:
                yield from blocks(_Stream(given, key, file, start))
        except OSError as error:
            reason = f"cannot be read: {error.strerror or one_line(str(error))}"
            problem = Problem(reason, str(given.path))
            yield RawBlock(given, key, start.record, start, (), (problem,), given.nbytes)


class _Stream:
    """The unpacked bytes of a file, and the damages that belong to a block of them.

    Reading runs ahead of the blocks. A damage belongs to the block that holds the byte before it,
    or the first one; blocks that are made again after a kill are then the same.
    """

    def __init__(self, given: Input, key: str, file: BinaryIO, start: Position) -> None:
        self.given, self.key, self.start = given, key, start
        self._file = file
        self._damages: list[Damage] = []
        self.text = unpacked(file, given.compression, self._damages.append)

    def skip(self) -> None:
        """Go to the start."""
        if not self.given.compression:
            self.text.seek(self.start.offset)
            return
        left = self.start.offset
        while left and (data := self.text.read(min(left, _SKIP))):
            left -= len(data)

    def block(
        self, place: Position, after: Position, records: bytes | tuple[Any, ...], *more: Problem
    ) -> RawBlock:
        """A block with its problems; whatever follows it is looked at first."""
        self.text.peek(1)
        found = [
            Problem(each.reason, f"{self.given.path}: {each.where}")
            for each in self._damages
            if place.offset < each.offset <= after.offset or each.offset == place.offset == 0
        ]
        read = self._file.tell()
        return RawBlock(self.given, self.key, place.record, after, records, (*found, *more), read)


def _lines(stream: _Stream) -> Iterator[RawBlock]:
    """Blocks of lines; or whole files, cut at line ends into documents of about 32 MB.

    A document becomes a line of JSON of at most 64 MB, in which line ends and quotes are two bytes.
    """
    text, place = stream.text, stream.start
    stream.skip()
    size = BLOCK_BYTES if stream.given.format == "jsonl" else LONGEST // 2
    while True:
        data = text.read(size)
        if not data:
            break
        taken, problems = len(data), list[Problem]()
        if not data.endswith(b"\n"):
            more = text.readline(LONGEST)
            taken += len(more)
            data += more
            if len(more) == LONGEST and not more.endswith(b"\n"):
                data = data[: data.rfind(b"\n") + 1]
                line = place.record + data.count(b"\n") + 1
                problems.append(Problem(TOO_LONG, f"{stream.given.path}: line {line:,}"))
                taken += _skip_line(text)
        lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data)) + len(problems)
        after = Position(place.offset + taken, place.record + lines)
        yield stream.block(place, after, data, *problems)
        place = after
    if place.offset == 0:
        yield _nothing(stream)


def _skip_line(text: BinaryIO) -> int:
    """Read to the end of the line, in bounded memory; the bytes that were skipped."""
    skipped = 0
    while more := text.readline(_SKIP):
        skipped += len(more)
        if more.endswith(b"\n"):
            break
    return skipped


def _page(stream: _Stream) -> Iterator[RawBlock]:
    """The whole file as one page."""
    if stream.start.offset:
        return
    data = stream.text.read(LONGEST + 1)
    after = Position(max(1, len(data)), 1)
    if not data:
        yield _nothing(stream)
    elif len(data) > LONGEST:
        yield stream.block(Position(), after, b"", Problem(TOO_LONG, str(stream.given.path)))
    else:
        yield stream.block(Position(), after, data)


def _nothing(stream: _Stream) -> RawBlock:
    """The block of a file without content."""
    block = stream.block(Position(), Position(1, 0), b"")
    if block.problems:
        return block
    return stream.block(
        Position(), Position(1, 0), b"", Problem("empty file", str(stream.given.path))
    )


# WARC

_MOST_HEADER = 1 << 20
_BEGINS = re.compile(rb"WARC/1\.\d\r?\n")
_WANTED = (b"response", b"conversion", b"resource")


def _records(stream: _Stream) -> Iterator[RawBlock]:
    """The records of a WARC file that may hold text, whole, as bytes.

    After a damaged record, the next line that begins as a record does is searched.
    """
    stream.skip()
    lines = _PushBack(stream.text)
    place, number = stream.start, stream.start.record
    records: list[tuple[int, bytes]] = []
    problems: list[Problem] = []
    is_lost = False
    while header := _header(lines):
        begins = _BEGINS.match(header) is not None
        number += begins
        where = f"{stream.given.path}: record {number:,}"
        record, problem = _record(header, lines) if begins else (None, DAMAGED_RECORD)
        if problem and not (is_lost and not begins):
            problems.append(Problem(problem, where))
        is_lost = problem is not None
        if record is not None:
            records.append((number, record))
        if lines.taken >= BLOCK_BYTES and not is_lost:  # else the next block could not know it
            after = Position(place.offset + lines.taken, number)
            yield _numbered(stream, place, after, records, problems)
            place, records, problems, lines.taken = after, [], [], 0
    if lines.taken:
        after = Position(place.offset + lines.taken, number)
        yield _numbered(stream, place, after, records, problems)
    elif place.offset == 0:
        yield _nothing(stream)


def _numbered(
    stream: _Stream, place: Position, after: Position, records: list[tuple[int, bytes]],
    problems: list[Problem],
) -> RawBlock:  # fmt: skip
    """A block of records that are not all records of the file."""
    block = stream.block(place, after, tuple(record for _, record in records), *problems)
    return replace(block, numbers=tuple(number for number, _ in records))


DAMAGED_RECORD = "damaged WARC record"


def _header(lines: "_PushBack") -> bytes:
    """The header of a record, or a line that is none, without blank lines; empty at the end."""
    line = lines.readline()
    while line in (b"\n", b"\r\n"):
        line = lines.readline()
    begins = _BEGINS.search(line)
    if begins is None:
        return line
    if begins.start():  # the record before has lost its end
        lines.push_back(line[begins.start() :])
        return line[: begins.start()]
    header = line
    while len(header) < _MOST_HEADER and (line := lines.readline()):
        header += line
        if line in (b"\n", b"\r\n"):
            break
    return header


def _record(header: bytes, lines: "_PushBack") -> tuple[bytes | None, str | None]:
    """A record that may hold text, with its header, and what is wrong with it."""
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in header.split(b"\n"))
    }
    length = fields.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 18:
        return None, DAMAGED_RECORD
    if int(length) > LONGEST:
        return None, TOO_LONG
    content = lines.read(int(length))
    if len(content) < int(length) or lines.peek(4) not in (b"\r\n\r\n", b""):
        lines.push_back(content)
        return None, DAMAGED_RECORD
    return header + content if fields.get(b"warc-type") in _WANTED else None, None


class _PushBack:
    """A stream that takes back what was read of it.

    Attributes:
        taken: Bytes that were read and not taken back.
    """

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream, self._back = stream, io.BytesIO()
        self.taken = 0

    def readline(self) -> bytes:
        """A line, or 1 MB of it."""
        line = self._back.readline(_SKIP)
        if not line.endswith(b"\n"):
            line += self._stream.readline(_SKIP)
        self.taken += len(line)
        return line

    def read(self, count: int) -> bytes:
        """So many bytes; fewer at the end."""
        data = self._back.read(count)
        data += self._stream.read(count - len(data))
        self.taken += len(data)
        return data

    def peek(self, count: int) -> bytes:
        """The next bytes, which are read again."""
        data = self.read(count)
        self.push_back(data)
        return data

    def push_back(self, data: bytes) -> None:
        """Take back bytes that were read last."""
        self._back = io.BytesIO(data + self._back.read())
        self.taken -= len(data)


# Rows


def _rows_of_parquet(given: Input, key: str, start: Position) -> Iterator[RawBlock]:
    """The rows; after a damaged row group, those of the next one."""
    at: int | None = start.record
    size = given.nbytes
    while at is not None:
        try:
            for rows in read_rows(given.path, BLOCK_BYTES // _BYTES_A_ROW, at, Reading(key)):
                at = rows.first + len(rows.rows)
                read = size * at // rows.total
                texts = tuple(row[key] for row in rows.rows)
                yield RawBlock(given, key, rows.first, Position(at, at), texts, (), read)
            return
        except UserError as error:
            following = row_after(given.path, at)
            reason = error.message.removeprefix(f"{given.path}").lstrip(":, ")
            problem = Problem(_SPECIFIC.sub("", reason), f"{given.path}: after row {at:,}")
            after = at if following is None else following
            yield RawBlock(
                given,
                key,
                at,
                Position(after, after),
                (),
                (problem,),
                size if following is None else 0,
            )
            at = following


_SPECIFIC = re.compile(r" \(.*\)|; .*| after row [\d,]+")
"""What a message says of one file only; the reasons are counted."""


def open_dataset(path: Path, subset: str | None, split: str) -> Any:
    """A split of a data set, by its directory or by its name on the Hugging Face Hub.

    Raises UserError if it cannot be opened, or has no such split.
    """
    import datasets

    try:
        if not path.is_dir():
            return datasets.load_dataset(str(path), subset, split=split)
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # noqa: BLE001 - what the library raises is not documented
        raise UserError(
            f"{path}: no data set that datasets can open: {one_line(str(error))}"
        ) from None
    if isinstance(found, dict):
        if split not in found:
            raise UserError(f"{path}: no split {split!r}; it has {', '.join(found)}")
        return found[split]
    return found


def check_dataset(given: Input, key: str, subset: str | None, split: str) -> None:
    """Raise UserError if a local data set cannot be opened or has no such column."""
    if not given.path.is_dir():
        return
    _check_column(given, key, open_dataset(given.path, subset, split))


def _check_column(given: Input, key: str, rows: Any) -> None:
    if key not in rows.column_names:
        columns = ", ".join(rows.column_names)
        raise UserError(f"{given.path}: no column {key!r}; the columns are {columns}")


def _rows_of_dataset(given: Input, key: str, rows: Any, start: Position) -> Iterator[RawBlock]:
    size, count = given.nbytes if given.path.is_dir() else 0, BLOCK_BYTES // _BYTES_A_ROW
    _check_column(given, key, rows)
    column = rows.select_columns([key])
    for first in range(start.record, len(rows), count):
        texts = tuple(column[first : first + count][key])
        after = first + len(texts)
        yield RawBlock(
            given, key, first, Position(after, after), texts, (), size * after // len(rows)
        )
