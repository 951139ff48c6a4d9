"""The files with the questions of benchmarks, and all texts in them."""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regrow.cleaning.reading.inputs import files_of, need_package, split_name
from regrow.cleaning.reading.unpacking import Damage, unpacked
from regrow.common.errors import UserError, one_line

_KEY = "contamination.against"
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")
_NAMES = f"{', '.join(_SUFFIXES)} (also .gz or .zst)"
_ABOUT = ("readme", "license", "licence", "copying", "notice", "changelog")
"""Texts in a directory that are about its files."""


def question_files(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """The files that paths and patterns stand for, and how many others the directories hold.

    Raises UserError if one gives no file, or a named file is of another kind.
    """
    found: list[Path] = []
    left_out = 0
    for path in paths:
        files, others = files_of(path, _KEY, _holds_questions, _NAMES)
        for file, _ in files:
            if not _is_known(file):
                raise UserError(
                    f"{file}: unknown kind of file; questions are read from {_NAMES}", key=_KEY
                )
        found += [file for file, _ in files]
        left_out += len(others)
    return list(dict.fromkeys(found)), left_out


def _is_known(path: Path) -> bool:
    suffix, compression = split_name(path)
    return suffix in _SUFFIXES and not (suffix == ".parquet" and compression)


def _holds_questions(path: Path) -> bool:
    """Whether a file of a directory is read."""
    return _is_known(path) and path.name.lower().partition(".")[0] not in _ABOUT


def texts_of(path: Path) -> Iterator[tuple[str, str]]:
    """All texts of a file, each with the place where it stands: file and number.

    Raises UserError if the file cannot be read.
    """
    suffix, compression = split_name(path)
    if suffix == ".parquet":
        yield from _rows(path)
        return
    content = _content(path, compression)
    if suffix == ".txt":
        for number, line in enumerate(content.split("\n"), 1):
            yield f"{path}:{number}", line
    elif suffix in (".csv", ".tsv"):
        limit = csv.field_size_limit(len(content) + 1)
        try:
            rows = csv.reader(
                io.StringIO(content, newline=""), delimiter="," if suffix == ".csv" else "\t"
            )
            for number, row in enumerate(rows, 1):
                yield from ((f"{path}:{number}", cell) for cell in row)
        except csv.Error as error:
            raise UserError(f"{path}: not a table: {error}", key=_KEY) from None
        finally:
            csv.field_size_limit(limit)
    else:
        yield from _json_texts(path, content, suffix)


def _json_texts(path: Path, content: str, suffix: str) -> Iterator[tuple[str, str]]:
    try:
        if suffix == ".json":
            try:
                value = json.loads(content)
                items = value if isinstance(value, list) else [value]
                for number, item in enumerate(items, 1):
                    yield from ((f"{path}:{number}", text) for text in _strings(item))
                return
            except ValueError:
                pass  # some data sets have a JSON object a line under this suffix
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                try:
                    item = json.loads(line)
                except ValueError:  # also a number of thousands of digits
                    raise UserError(f"{path}: line {number} is not JSON", key=_KEY) from None
                yield from ((f"{path}:{number}", text) for text in _strings(item))
    except RecursionError:
        raise UserError(f"{path}: nested too deeply", key=_KEY) from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.encode("utf-8", "replace").decode()
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def _content(path: Path, compression: str) -> str:
    if compression:
        need_package(compression, str(path), _KEY)
    damages: list[Damage] = []
    try:
        with path.open("rb") as file:
            content = unpacked(file, compression, damages.append).read()
        if damages:
            raise UserError(f"{path}: {damages[0].reason} at {damages[0].where}", key=_KEY)
        return content.removeprefix(codecs.BOM_UTF8).decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8", key=_KEY) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}", key=_KEY) from None


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    need_package("parquet", str(path), _KEY)
    import pyarrow
    from pyarrow import parquet

    before = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1_000):
                for number, row in enumerate(batch.to_pylist(), before + 1):
                    yield from ((f"{path}:{number}", text) for text in _strings(row))
                before += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable Parquet: {one_line(str(error))}", key=_KEY) from None
