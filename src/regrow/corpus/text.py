"""Documents from the files that a user names."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from regrow.errors import UserError

_UTF8_BOM = b"\xef\xbb\xbf"


def read_documents(path: Path) -> Iterator[str]:
    r"""The documents of a file, in order, as they are written.

    - ``.txt``: the whole file is one document.
    - ``.jsonl``, ``.jsonl.gz``: one JSON object a line with the document under ``text``. Lines end
      at ``\n`` and nowhere else. Blank lines and empty texts are passed over.

    A byte order mark at the start of a file is dropped; line ends are kept as they are.

    Raises:
        UserError: no such file, another suffix, not UTF-8, no ``text``, or no document at all.
            The file is opened at once; its content is checked while it is read.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a .txt, .jsonl or .jsonl.gz file")
    name = path.name.lower()
    if name.endswith(".txt"):
        return _one_document(path)
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _json_lines(path, compressed=name.endswith(".gz"))
    raise UserError(f"{path}: unknown kind of text; name a .txt, .jsonl or .jsonl.gz file")


def documents_sha256(documents: Iterable[str]) -> str:
    """SHA-256 (hex) of a sequence of documents: their text and where one ends."""
    digest = hashlib.sha256()
    for document in documents:
        data = document.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _one_document(path: Path) -> Iterator[str]:
    data = path.read_bytes()
    try:
        text = data.removeprefix(_UTF8_BOM).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} is not UTF-8; convert the file to UTF-8") from None
    if not text.strip():
        raise UserError(f"{path}: the file holds no text; it should hold one document")
    yield text


def _json_lines(path: Path, *, compressed: bool) -> Iterator[str]:
    documents = 0
    with _open(path, compressed=compressed) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    line = line.removeprefix(_UTF8_BOM)
                if not line.strip():
                    continue
                text = _text_of(line, f"{path}: line {number}")
                if text:
                    documents += 1
                    yield text
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not a complete gzip file ({error}); write it again") from None
    if documents == 0:
        raise UserError(f"{path}: the file holds no document; each line should be {_EXAMPLE}")


_EXAMPLE = '{"text": "..."}'


def _open(path: Path, *, compressed: bool) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _text_of(line: bytes, where: str) -> str:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        raise UserError(f"{where} is not UTF-8; convert the file to UTF-8") from None
    except (ValueError, RecursionError):
        raise UserError(f"{where} is not JSON; each line should be {_EXAMPLE}") from None
    if not isinstance(record, dict) or "text" not in record:
        raise UserError(f"{where} has no key 'text'; each line should be {_EXAMPLE}")
    text = record["text"]
    if not isinstance(text, str):
        raise UserError(f"{where}, key 'text': not a string; each line should be {_EXAMPLE}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}, key 'text': half a surrogate pair, which is not Unicode text; "
            "write the whole character"
        ) from None
    return text
