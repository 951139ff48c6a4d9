"""A column of text of a Parquet file, a few rows at a time, in bounded memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from regrow.common.errors import UserError, one_line
from regrow.corpus.parquet_pages import LARGEST_PAGE, read_pages, rows_at_once

_LARGEST_FOOTER = 16 << 20
"""Bytes; pyarrow needs some hundred times as much memory for a footer."""
_BUFFER_BYTES = 1 << 20


class Rows(NamedTuple):
    """Consecutive rows.

    Attributes:
        first: The number of the first, from 0.
        texts: The values of the column; None where there is none.
        total: The rows of the file.
    """

    first: int
    texts: tuple[Any, ...]
    total: int


def read_rows(path: Path, wanted: int, start: int = 0, name: str = "text") -> Iterator[Rows]:
    """The rows of the column `name` from `start` on, at most `wanted` at a time.

    Raises UserError if the file is not Parquet, has no such column of strings, or has a page that
    unpacks to more than 256 MB.
    """
    import pyarrow
    import pyarrow.parquet

    row = start
    try:
        with path.open("rb") as plain, _open(path, plain) as file:
            column = _text_column(path, file, name)
            total, first = max(1, file.metadata.num_rows), 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first + rows > start:
                    at_once = _at_once(path, plain, file, group, column, wanted)
                    batches = file.iter_batches(
                        at_once, row_groups=[group], columns=[name], use_threads=False
                    )
                    row = first
                    for batch in batches:
                        skipped = max(0, start - row)
                        texts = tuple(batch.column(0).slice(skipped).to_pylist())
                        if texts:
                            yield Rows(row + skipped, texts, total)
                        row += batch.num_rows
                first += rows
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: column '{name}' is not UTF-8 after row {row:,}; write the file again"
        ) from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = one_line(str(error))[:200]
        raise UserError(f"{path}: not a complete Parquet file ({reason}); write it again") from None


def check_column(path: Path, name: str, key: str) -> None:
    """Raise UserError, with a key, if a file can be opened and has no column `name` of strings."""
    import pyarrow

    try:
        with path.open("rb") as plain, _open(path, plain) as file:
            try:
                _text_column(path, file, name)
            except UserError as error:
                wrong = error.at(key)
            else:
                return
    except (pyarrow.ArrowException, OSError, ValueError, UserError):
        return  # it is damaged, which is found when it is read
    raise wrong


def row_after(path: Path, row: int) -> int | None:
    """The first row of the row group after that of a row, to go on after a damaged row group.

    None if there is no later row group, or the file cannot be opened.
    """
    import pyarrow

    try:
        with path.open("rb") as plain, _open(path, plain) as file:
            first = 0
            for group in range(file.num_row_groups):
                if first > row:
                    return first
                first += file.metadata.row_group(group).num_rows
    except (pyarrow.ArrowException, OSError, ValueError, UserError):
        return None
    return None


def _open(path: Path, plain: BinaryIO) -> Any:
    """pyarrow's reader of a file. Raises UserError if its footer is too large."""
    import pyarrow.parquet

    size = path.stat().st_size
    if size >= 8:
        plain.seek(-8, 2)
        nbytes, mark = int.from_bytes(plain.read(4), "little"), plain.read(4)
        if mark == b"PAR1" and _LARGEST_FOOTER < nbytes < size:
            raise UserError(
                f"{path}: a footer of {nbytes:,} bytes, more than {_LARGEST_FOOTER >> 20} MB; "
                "write the file again with fewer row groups"
            )
    return pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def _text_column(path: Path, file: Any, name: str) -> int:
    """The number of the column `name`. Raises UserError if there is none of strings."""
    import pyarrow

    names = file.schema_arrow.names
    if name not in names:
        columns = one_line(", ".join(names))
        raise UserError(f"{path}: no column '{name}'; the columns are {columns}")
    kind = file.schema_arrow.field(name).type
    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not (pyarrow.types.is_string(value) or pyarrow.types.is_large_string(value)):
        raise UserError(f"{path}, column '{name}': not a string but {one_line(str(kind))[:80]}")
    for number in range(file.metadata.num_columns):
        if file.schema.column(number).path == name:
            return number
    raise ValueError(f"the column '{name}' has other columns in it")


def _at_once(path: Path, plain: BinaryIO, file: Any, group: int, column: int, wanted: int) -> int:
    """How many rows of a row group to unpack at once. Raises UserError if a page is too large."""
    chunk = file.metadata.row_group(group).column(column)
    begin = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < begin:
        begin = chunk.dictionary_page_offset
    pages = []
    for page in read_pages(plain, begin, begin + chunk.total_compressed_size):
        if page.nbytes > LARGEST_PAGE:
            raise UserError(
                f"{path}: row group {group + 1}: a page of column {chunk.path_in_schema!r} "
                f"unpacks to {page.nbytes:,} bytes, more than {LARGEST_PAGE >> 20} MB; write the "
                "file again with smaller pages"
            )
        pages.append(page)
    return rows_at_once(pages, wanted)
