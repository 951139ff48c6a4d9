"""Documents of text files.

A file is read in blocks of whole records (lines or rows). A block is parsed apart from the reading,
so that other processes can do it.
"""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from regrow.common.errors import UserError
from regrow.corpus.parquet_rows import read_rows
from regrow.corpus.reading import PLAIN_TEXT, Reading
from regrow.corpus.text_files import kind_of, package_for, text_files

Documents = Callable[[], Iterator[str]]
"""Opens a text and reads its documents."""

_UTF8_BOM = b"\xef\xbb\xbf"
LONGEST = 64 << 20
"""Bytes of uncompressed text that are read as one document."""
_BLOCK_BYTES = 1 << 20
_BYTES_A_ROW = 4096
"""The assumed size of a row of Parquet; it decides how many rows make a block."""


@dataclass(frozen=True)
class Position:
    """Where a record begins.

    Attributes:
        offset: Bytes of uncompressed text before it; in Parquet, rows.
        record: Lines or rows before it.
    """

    offset: int = 0
    record: int = 0


@dataclass(frozen=True)
class Block:
    """Consecutive whole records of a file.

    Attributes:
        path: The file.
        first: Where the block begins.
        after: Where the next block begins.
        records: The bytes of the lines; in Parquet, the columns of each row by name.
        read: Bytes of the file that were read so far.
    """

    path: Path
    first: Position
    after: Position
    records: bytes | tuple[Mapping[str, Any], ...]
    read: int


def read_documents(path: Path, reading: Reading = PLAIN_TEXT) -> Iterator[str]:
    r"""The documents of a file, or of all text files below a directory, in order, unchanged.

    - ``.txt``: the whole file is one document. A file of more than 64 MB is cut at line ends into
      documents of about 64 MB.
    - ``.jsonl``: one JSON object a line with the document under ``text``. Lines end at ``\n`` and
      nowhere else. Blank lines and empty texts are skipped.
    - ``.parquet``: one document a row in the column ``text``. Empty texts are skipped.

    `reading` may name another key and column, or say that lines and rows are conversations.

    The files of a directory come in the order of their paths (`regrow.corpus.text_files`); those
    without a document are passed over.

    The first two may be compressed (``.gz``, ``.zst``). A byte order mark at the start of a file is
    dropped; line ends are kept as they are.

    Raises:
        UserError: there is no such file, its suffix is another, a package is not installed, the
            text is not UTF-8, a ``text`` is missing, a line or a row is longer than 64 MB, or there
            is no document. Whether the files can be read is checked at once, their content while
            they are read.
    """
    return _documents(path, text_files(path), reading)


def read_file(file: Path, reading: Reading = PLAIN_TEXT) -> Iterator[str]:
    """The documents of one file, in order; as `read_documents`, but a file may hold none."""
    for block in read_blocks(file, reading=reading):
        yield from documents_in(block, reading)


def read_pieces(path: Path, size: int = _BLOCK_BYTES) -> Iterator[str]:
    """The documents of a file; a ``.txt`` file is cut at line ends into about `size` bytes each.

    So memory does not grow with the file. A file without text gives nothing.

    Raises UserError, while it is read, if the file is not of its kind.
    """
    for block in read_blocks(path, size, whole=False):
        yield from documents_in(block)


def read_blocks(
    path: Path,
    size: int = _BLOCK_BYTES,
    start: Position | None = None,
    *,
    whole: bool = True,
    reading: Reading = PLAIN_TEXT,
) -> Iterator[Block]:
    """The records of a file in blocks of about `size` bytes, or of one record if that is longer.

    Args:
        path: the file.
        size: bytes of uncompressed text in a block.
        start: where to begin.
        whole: whether a ``.txt`` file is one block, or blocks of about 64 MB if it is larger.
            Otherwise they are of about `size`. It is cut at line ends, and each block is a
            document. A line that is longer than 64 MB is cut between two characters.
        reading: which columns of Parquet are read.

    Raises:
        UserError: while it is read, if the content does not fit the suffix.
    """
    kind, compression = kind_of(path)
    start = start or Position()
    if kind == ".parquet":
        yield from _row_blocks(path, size, start, reading)
        return
    with path.open("rb") as file, _reading_compressed(path, compression):
        text = _uncompressed(file, compression, path)
        _skip(text, start.offset)
        place = start
        size = LONGEST if whole and kind == ".txt" else size
        rest = b""
        while data := rest + text.read(max(0, size - len(rest))):
            rest = b""
            if not data.endswith(b"\n"):
                data += (more := text.readline(LONGEST))
                if len(more) == LONGEST and not more.endswith(b"\n"):
                    if kind != ".txt":
                        number = place.record + data.count(b"\n") + 1
                        raise _too_long(f"{path}: line {number}")
                    end = _last_character(data)
                    data, rest = data[:end], data[end:]
            lines = data.count(b"\n") + (not data.endswith(b"\n") and not rest)
            after = Position(place.offset + len(data), place.record + lines)
            yield Block(path, place, after, data, file.tell())
            place = after


def documents_in(block: Block, reading: Reading = PLAIN_TEXT) -> Iterator[str]:
    """The documents of a block, in order. Raises UserError as `read_documents` does."""
    kind, _ = kind_of(block.path)
    where = f"{block.path}: {'row' if kind == '.parquet' else 'line'}"
    if isinstance(block.records, tuple):
        for number, row in enumerate(block.records, start=block.first.record + 1):
            text = _text_of_row(row, reading, f"{where} {number}")
            if len(text) > LONGEST:
                raise _too_long(f"{where} {number}")
            if text:
                yield text
        return
    data = block.records
    if block.first.offset == 0:
        data = data.removeprefix(_UTF8_BOM)
    if kind == ".txt":
        if reading.conversations:
            raise UserError(f"{block.path}: no conversations; give .jsonl or .parquet")
        if (text := _decoded(data, block)).strip():
            yield text
        return
    for number, line in enumerate(io.BytesIO(data), start=block.first.record + 1):
        if not line.isspace() and (text := _text_of(line, reading, where, number)):
            yield text


def no_document_error(path: Path, reading: Reading = PLAIN_TEXT) -> UserError:
    """The error to raise if a file or a directory holds no document."""
    if path.is_dir():
        return UserError(f"{path}: the text files of the directory hold no document")
    what = {
        ".txt": "text; it should hold one document",
        ".jsonl": f"document; each line should be {reading.example}",
        ".parquet": f"document; each row should have one in the column '{reading.columns[0][0]}'",
    }
    return UserError(f"{path}: the file holds no {what[kind_of(path)[0]]}")


def documents_sha256(documents: Iterable[str]) -> str:
    """SHA-256 (hex) of a sequence of documents: of their text and their lengths."""
    digest = hashlib.sha256()
    for document in documents:
        data = document.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def document_hash(document: str) -> bytes:
    """A hash of 16 bytes by which equal documents are found."""
    return hashlib.blake2b(document.encode(), digest_size=16).digest()


def _documents(path: Path, files: Iterable[Path], reading: Reading) -> Iterator[str]:
    empty = True
    for file in files:
        for document in read_file(file, reading):
            empty = False
            yield document
    if empty:
        raise no_document_error(path, reading)


def _too_long(where: str) -> UserError:
    return UserError(
        f"{where}: longer than {LONGEST >> 20} MB, the most that is read as one document; split it"
    )


def _last_character(data: bytes) -> int:
    """Where the last UTF-8 character of some bytes begins."""
    starts = (at for at in range(len(data) - 1, len(data) - 5, -1) if data[at] & 0xC0 != 0x80)
    return next(starts, len(data))


def _decoded(data: bytes, block: Block) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = block.first.record + error.object.count(b"\n", 0, error.start) + 1
        where = f"{block.path}: line {line}"
        raise UserError(f"{where} is not UTF-8; convert the file to UTF-8") from None


_JSON_SPACE = " \t\r\n"
_parsed = json.JSONDecoder().raw_decode
"""`json.loads` calls this; for short lines, calling it directly takes half the time."""


def _text_of(line: bytes, reading: Reading, of: str, number: int) -> str:
    try:
        written = line.decode().strip(_JSON_SPACE)
        record, end = _parsed(written)
        if end == len(written) and type(record) is dict:
            if reading.conversations:
                return reading.document(record)
            text = record[reading.text_key]
            if type(text) is str:
                if b"\\u" in line:
                    text.encode()
                return text
    except (ValueError, RecursionError, TypeError, KeyError):
        pass
    raise _no_text(line, reading, f"{of} {number}")


def _no_text(line: bytes, reading: Reading, where: str) -> UserError:
    """The error for a line that holds no document."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return UserError(f"{where} is not UTF-8; convert the file to UTF-8")
    except (ValueError, RecursionError):
        return UserError(f"{where} is not JSON; each line should be {reading.example}")
    if not isinstance(record, dict):
        return UserError(
            f"{where} has no key '{reading.columns[0][0]}'; each line should be {reading.example}"
        )
    try:
        reading.document(record)
    except ValueError as error:
        return UserError(_at(where, error))
    return UserError(
        f"{where}, key '{reading.text_key}': half a surrogate pair, which is not Unicode text; "
        "write the whole character"
    )


def _at(where: str, error: ValueError) -> str:
    """What is wrong with a line or a row, in one line."""
    joint = " " if str(error).startswith("has ") else ", "
    return f"{where}{joint}{error}"


def _text_of_row(row: Mapping[str, Any], reading: Reading, where: str) -> str:
    if reading.conversations:
        try:
            return reading.document(row)
        except ValueError as error:
            raise UserError(_at(where, error)) from None
    text = row[reading.text_key]
    if not isinstance(text, str):
        raise UserError(f"{where}, column '{reading.text_key}': not a string")
    return text


# Compressed files


class _IncompleteError(Exception):
    """A compressed file is incomplete."""


@contextmanager
def _reading_compressed(path: Path, compression: str) -> Iterator[None]:
    failures: tuple[type[Exception], ...] = (
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        _IncompleteError,
    )
    if compression == ".zst":
        failures = (*failures, package_for(compression, path).ZstdError)
    try:
        yield
    except failures as error:
        name = {".gz": "gzip", ".zst": "zstd"}[compression]
        raise UserError(f"{path}: not a complete {name} file ({error}); write it again") from None


_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


def compression_of(path: Path) -> str:
    """`.gz`, `.zst` or nothing, by the first bytes. Raises UserError if there is no such file."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "")


@contextmanager
def uncompressed(path: Path, compression: str) -> Iterator[BinaryIO]:
    """Context manager: the content of a file. `compression`: `.gz`, `.zst` or ``""``.

    Raises UserError if it is not complete.
    """
    with path.open("rb") as file, _reading_compressed(path, compression):
        yield _uncompressed(file, compression, path)


def _uncompressed(file: BinaryIO, compression: str, path: Path) -> BinaryIO:
    if compression == ".gz":
        return cast(BinaryIO, gzip.open(file, "rb"))
    if compression == ".zst":
        decompressor = package_for(compression, path).ZstdDecompressor(max_window_size=1 << 31)
        return as_file(_frames(file, decompressor.decompressobj))
    return file


def _frames(file: BinaryIO, frame: Callable[[], Any]) -> Iterator[bytes]:
    """The content of all zstd frames of a file; the library ignores an incomplete last frame."""
    data, current = b"", None
    # A byte of zstd can hold 32 kB of text, so a larger piece could fill the memory at once.
    while data := data or file.read(1 << 12):
        current = current or frame()
        yield current.decompress(data)
        data = b""
        if current.eof:
            data, current = current.unused_data, None
    if current is not None:
        raise _IncompleteError("it ends within a frame")


def as_file(pieces: Iterator[bytes]) -> io.BufferedReader:
    """Pieces of bytes as a file; it is read once, from the beginning."""
    return io.BufferedReader(_Stream(pieces))


class _Stream(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _skip(text: BinaryIO, offset: int) -> None:
    if text.seekable():
        text.seek(offset)
        return
    while offset and (data := text.read(min(offset, _BLOCK_BYTES))):
        offset -= len(data)


# Parquet


def _row_blocks(path: Path, size: int, start: Position, reading: Reading) -> Iterator[Block]:
    package_for(".parquet", path)
    nbytes = path.stat().st_size
    for rows in read_rows(path, max(1, size // _BYTES_A_ROW), start.record, reading):
        after = rows.first + len(rows.rows)
        read = min(nbytes, nbytes * after // rows.total)
        yield Block(path, Position(rows.first, rows.first), Position(after, after), rows.rows, read)
