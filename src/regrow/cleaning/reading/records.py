"""The documents in a block of raw records."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

from regrow.cleaning.document import Document
from regrow.cleaning.reading.blocks import DAMAGED_RECORD, TOO_LONG, Problem, RawBlock
from regrow.corpus.text import LONGEST

WEB = ("html", "warc")
"""The formats whose documents are pages of HTML."""
_BOM = b"\xef\xbb\xbf"
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_UNITS = {"jsonl": "line", "text": "line", "warc": "record", "html": "page"}


class _UnreadableError(Exception):
    """A record holds no text; the argument is the reason."""


def documents_in(block: RawBlock, source: str) -> Iterator[Document | Problem]:
    """The documents of a block, and what is wrong with its other records, in order.

    A page of HTML is a document whose text is the HTML; the step `html` makes text of it. A text
    of JSON may have lone halves of surrogate pairs, which UTF-8 cannot write.

    `source`: the name of the source.
    """
    form, label = block.input.format, block.input.label
    unit = _UNITS.get(form, "row")
    parse = _PARSERS.get(form, _of_row)
    numbers = count(block.first + 1) if block.numbers is None else block.numbers
    for number, record in zip(numbers, _records(block), strict=False):
        if form == "jsonl" and record.isspace():
            continue
        try:
            text, facts = parse(record, block.key)
            if not text.strip():
                raise _UnreadableError("empty text")
        except _UnreadableError as error:
            yield Problem(str(error), f"{block.input.path}: {unit} {number:,}")
        else:
            whole = form == "html" or (form == "text" and block.first == 0)
            name = f"{source}/{label}" if whole else f"{source}/{label}#{number}"
            yield Document(text, name, source, facts)


def _records(block: RawBlock) -> Iterator[Any]:
    if isinstance(block.records, tuple):
        yield from block.records
    elif block.records:
        data = block.records.removeprefix(_BOM) if block.first == 0 else block.records
        yield from io.BytesIO(data) if block.input.format == "jsonl" else (data,)


_Parsed = tuple[str, Mapping[str, str]]


def _of_line(line: bytes, key: str) -> _Parsed:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        raise _UnreadableError("not UTF-8") from None
    except (ValueError, RecursionError):
        raise _UnreadableError("not JSON") from None
    if not isinstance(record, dict) or key not in record:
        raise _UnreadableError(f"no key {key!r}")
    text = record[key]
    if not isinstance(text, str):
        raise _UnreadableError(f"key {key!r} is not text")
    return text, {}


def _of_text(data: bytes, _: str) -> _Parsed:
    try:
        return data.decode(), {}
    except UnicodeDecodeError:
        raise _UnreadableError("not UTF-8") from None


def _of_row(value: Any, key: str) -> _Parsed:
    if not isinstance(value, str):
        raise _UnreadableError("empty text" if value is None else f"column {key!r} is not text")
    if len(value) > LONGEST:
        raise _UnreadableError(TOO_LONG)
    return value, {}


def _of_page(data: bytes, _: str, charset: str | None = None) -> _Parsed:
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    for name in (charset, detect_encoding(data, from_html_meta=True)):
        try:
            if name:
                return bytes_to_str(data, name), {}
        except (LookupError, ValueError):  # there is no such encoding
            continue
    return data.decode("utf-8", "replace"), {}


def _of_record(record: bytes, key: str) -> _Parsed:
    from fastwarc.warc import ArchiveIterator

    try:
        found = next(
            iter(ArchiveIterator(io.BytesIO(record), parse_http=True, auto_decode="all")), None
        )
        if found is None:
            raise _UnreadableError(DAMAGED_RECORD)
        kind = found.http_content_type or found.headers.get("Content-Type") or ""
        content = found.reader.read(LONGEST + 1)
    except (OSError, ValueError):
        raise _UnreadableError(DAMAGED_RECORD) from None
    facts = {"url": address} if (address := found.headers.get("WARC-Target-URI")) else {}
    kind = kind.partition(";")[0].strip().lower()
    if len(content) > LONGEST:
        raise _UnreadableError(TOO_LONG)
    if kind in _HTML_TYPES:
        return _of_page(content, key, found.http_charset)[0], facts
    if kind == "text/plain":
        return _of_page(content, key, found.http_charset or "utf-8")[0], facts
    raise _UnreadableError("no page of text")


_PARSERS: Mapping[str, Callable[[Any, str], _Parsed]] = {
    "jsonl": _of_line, "text": _of_text, "html": _of_page, "warc": _of_record,
}  # fmt: skip
