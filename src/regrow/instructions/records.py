r"""The records of a file, in whatever form it is: JSON, JSON lines, TSV, CSV or Parquet.

What a file is shows in its first bytes, not in its name: published data sets call JSON lines
`.json`. Lines of JSON end at ``\n`` and nowhere else, since a text may hold other line ends.
Compressed files (gzip, Zstandard) are read as what is in them. Memory does not grow with the file.
"""

import codecs
import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from regrow.common.errors import UserError, one_line
from regrow.corpus.text import compression_of, uncompressed
from regrow.ner.tags import is_tag

Kind = Literal["JSON list", "JSON lines", "TSV", "CSV", "Parquet", "tags", "text"]
LONGEST = 64 << 20
"""Bytes of a record."""
_HEAD = 1 << 16
_WHOLE = "give the whole list, or one object on each line"
_SPACE = b" \t\r\n"


class Record(NamedTuple):
    """A record of a file.

    Attributes:
        number: Of its line, row or entry in the file, from 1.
        value: An object, the columns of a row, or the text of a line; None if it is broken.
        problem: Why it is broken; empty if it is not.
    """

    number: int
    value: Any
    problem: str = ""


class _LostError(Exception):
    """Where a record ends is not known, so all that follows would be lost; says why."""


@dataclass(frozen=True)
class Opened:
    """A file whose kind is known."""

    path: Path
    kind: Kind
    compression: str

    def records(self) -> Iterator[Record]:
        """All records in order. Raises UserError if the file cannot be read at all."""
        if self.kind == "Parquet":
            yield from _parquet(self.path)
            return
        with reading(self.path, self.compression) as file:
            try:
                yield from _READERS[self.kind](file)
            except _LostError as error:
                raise UserError(f"{self.path}: {error}") from None


def open_records(path: Path) -> Opened:
    """The file with its kind. Raises UserError if it cannot be read or holds nothing."""
    compression = compression_of(path)
    with reading(path, compression) as file:
        head = file.read(_HEAD).removeprefix(codecs.BOM_UTF8)
    if head.startswith(b"PAR1"):
        return Opened(path, "Parquet", "")
    if not head.strip():
        raise UserError(f"{path}: the file is empty")
    return Opened(path, _kind(head, path), compression)


@contextmanager
def reading(path: Path, compression: str) -> Iterator[BinaryIO]:
    """Context manager: the content of a file. Raises UserError if it cannot be unpacked."""
    with uncompressed(path, compression) as file:
        yield file


def _kind(head: bytes, path: Path) -> Kind:
    start = head.lstrip(_SPACE)
    if start.startswith(b"[") and start[1:].lstrip(_SPACE)[:1] in (b"{", b"]", b""):
        return "JSON list"
    if start.startswith(b"{"):
        first = start.split(b"\n", 1)[0].strip()
        if len(first) < len(start) - 1 and first == b"{":
            raise UserError(
                f"{path}: one JSON object on several lines; give a list of objects, or one object "
                "on each line"
            )
        return "JSON lines"
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
    if "\0" in text or "\ufffd" in text.split("\n", 1)[0]:
        raise UserError(f"{path}: not UTF-8; convert the file to UTF-8")
    whole = len(head) < _HEAD
    lines = [line.rstrip("\r") for line in text.split("\n")][: None if whole else -1]
    return _kind_of_lines([line for line in lines if line.strip()])


def _kind_of_lines(lines: list[str]) -> Kind:
    columns = [line.split("\t") if "\t" in line else line.split() for line in lines[:200]]
    rows = [row for row in columns if row and row[0] != "-DOCSTART-"]
    if rows and all(len(row) > 1 for row in rows):
        for place in (0, -1):
            if all(is_tag(row[place].strip()) for row in rows):
                return "tags"
    if lines and all("\t" in line for line in lines[:50]):
        return "TSV"
    if lines and "," in lines[0]:
        return "CSV"
    return "text"


# Lines


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The lines and their numbers; None for a line that is too long."""
    number, first = 0, True
    while line := file.readline(LONGEST):
        number += 1
        if first:
            line, first = line.removeprefix(codecs.BOM_UTF8), False
        if len(line) >= LONGEST and not line.endswith(b"\n"):
            while (rest := file.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield number, None
            continue
        yield number, line


def _json_lines(file: BinaryIO) -> Iterator[Record]:
    for number, line in _lines(file):
        if line is None:
            yield Record(number, None, "longer than 64 MB")
        elif line.strip(_SPACE):
            yield _parsed(number, line)


def _parsed(number: int, raw: bytes) -> Record:
    try:
        value = json.loads(raw.decode())  # of bytes, `json` also takes halves of surrogate pairs
    except UnicodeDecodeError:
        return Record(number, None, "not UTF-8")
    except (ValueError, RecursionError):
        return Record(number, None, "not JSON")
    return _checked(number, value, has_escapes=b"\\u" in raw)


def _checked(number: int, value: Any, *, has_escapes: bool) -> Record:
    if not isinstance(value, dict):
        return Record(number, None, "no JSON object")
    if has_escapes:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return Record(number, None, "half a surrogate pair")
        except RecursionError:
            return Record(number, None, "not JSON")
    return Record(number, value)


def _texts(file: BinaryIO) -> Iterator[Record]:
    for number, line in _lines(file):
        if line is None:
            yield Record(number, None, "longer than 64 MB")
            continue
        try:
            yield Record(number, line.decode().rstrip("\r\n"))
        except UnicodeDecodeError:
            yield Record(number, None, "not UTF-8")


def _tsv(file: BinaryIO) -> Iterator[Record]:
    """Columns are divided by tabs alone; quotation marks are part of the text."""
    for record in _texts(file):
        if record.problem:
            yield record
        elif record.value.strip():
            yield Record(record.number, record.value.split("\t"))


def _csv(file: BinaryIO) -> Iterator[Record]:
    """The rows. Raises _LostError at a quotation mark that is never closed."""
    cut = ended = False

    def decoded() -> Iterator[str]:
        nonlocal cut, ended
        for _, line in _lines(file):
            cut |= line is None
            yield "" if line is None else line.decode("utf-8", "surrogateescape")
        ended = True

    rows = csv.reader(decoded())
    while True:
        first, cut = rows.line_num + 1, False
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if rows.line_num > first:
                raise _unclosed(first) from None
            yield Record(rows.line_num, None, f"not CSV: {one_line(str(error))}")
            continue
        if ended:  # The reader asks for a line after the last one only inside quotation marks.
            raise _unclosed(first)
        if cut:
            yield Record(rows.line_num, None, "longer than 64 MB")
        elif any("\udc80" <= character <= "\udcff" for cell in row for character in cell):
            yield Record(rows.line_num, None, "not UTF-8")
        elif any(cell.strip() for cell in row):
            yield Record(rows.line_num, row)


def _unclosed(line: int) -> _LostError:
    return _LostError(
        f"line {line}: a quotation mark is not closed within {csv.field_size_limit():,} "
        "characters; close it, or give texts that are so long as JSON lines"
    )


# Others


def _json_list(file: BinaryIO) -> Iterator[Record]:
    """The entries of a JSON list, one after the other, without the rest of the file in memory.

    Raises _LostError at the first that is not JSON.
    """
    decode, decoder = json.JSONDecoder().raw_decode, codecs.getincrementaldecoder("utf-8")()
    text, at, number, ended = "", 0, 0, False

    def more() -> bool:
        nonlocal text, at, ended
        data = file.read(1 << 20)
        ended = not data
        text, at = text[at:] + decoder.decode(data, final=ended), 0
        return not ended

    try:
        more()
        text = text.removeprefix("\ufeff").lstrip()[1:]
        while True:
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
            if at == len(text):
                if not more():
                    raise _LostError(f"the list has no end after entry {number:,}; {_WHOLE}")
                continue
            if text[at] == "]":
                return
            try:
                value, end = decode(text, at)
            except (ValueError, RecursionError):
                if ended or len(text) - at > LONGEST or not more():
                    raise _LostError(
                        f"entry {number + 1:,} of the list is not JSON; {_WHOLE}"
                    ) from None
                continue
            at, number = end, number + 1
            yield _checked(number, value, has_escapes=True)
    except UnicodeDecodeError:
        raise _LostError(f"not UTF-8 after entry {number:,} of the list; {_WHOLE}") from None


def _parquet(path: Path) -> Iterator[Record]:
    from regrow.corpus.text_files import package_for

    package_for(".parquet", path)
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1_000):
                for value in batch.to_pylist():
                    number += 1
                    yield Record(number, value)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not Parquet that can be read: {one_line(str(error))}") from None


_READERS = {
    "JSON list": _json_list, "JSON lines": _json_lines, "TSV": _tsv, "CSV": _csv, "text": _texts,
    "tags": _texts,
}  # fmt: skip
