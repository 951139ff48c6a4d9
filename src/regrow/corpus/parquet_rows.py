"""The text of a Parquet file, a few rows at a time, in bounded memory."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from regrow.common.errors import UserError, one_line
from regrow.corpus.parquet_pages import LARGEST_PAGE, read_pages, rows_at_once
from regrow.corpus.reading import CONVERSATIONS, PLAIN_TEXT, Reading

_LARGEST_FOOTER = 16 << 20
"""Bytes; pyarrow needs some hundred times as much memory for a footer."""
_BUFFER_BYTES = 1 << 20


class Rows(NamedTuple):
    """Consecutive rows.

    Attributes:
        first: The number of the first, from 0.
        rows: The values of the columns by name, for each row; None where there is none.
        total: The rows of the file.
    """

    first: int
    rows: tuple[Mapping[str, Any], ...]
    total: int


def read_rows(
    path: Path, wanted: int, start: int = 0, reading: Reading = PLAIN_TEXT
) -> Iterator[Rows]:
    """The rows from `start` on, at most `wanted` at a time, with the columns of `reading`.

    Raises UserError if the file is not Parquet, has no such column or none of strings, or has a
    page that unpacks to more than 256 MB.
    """
    import pyarrow
    import pyarrow.parquet

    row, names = start, reading.columns[0]
    try:
        with path.open("rb") as plain, _open(path, plain) as file:
            names, leaves = _columns(path, file, reading)
            total, first = max(1, file.metadata.num_rows), 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first + rows > start:
                    at_once = min(
                        _at_once(path, plain, file, (group, leaf), wanted) for leaf in leaves
                    )
                    batches = file.iter_batches(
                        at_once, row_groups=[group], columns=list(names), use_threads=False
                    )
                    row = first
                    for batch in batches:
                        skipped = max(0, start - row)
                        found = tuple(batch.slice(skipped).to_pylist())
                        if found:
                            yield Rows(row + skipped, found, total)
                        row += batch.num_rows
                first += rows
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: column '{names[0]}' is not UTF-8 after row {row:,}; write the file again"
        ) from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = one_line(str(error))[:200]
        raise UserError(f"{path}: not a complete Parquet file ({reason}); write it again") from None


def check_column(path: Path, reading: Reading, key: str) -> None:
    """Raise UserError, with a key, if a file can be opened and lacks the column of `reading`."""
    import pyarrow

    try:
        with path.open("rb") as plain, _open(path, plain) as file:
            try:
                _columns(path, file, reading)
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


def _columns(path: Path, file: Any, reading: Reading) -> tuple[tuple[str, ...], list[int]]:
    """The names of the columns that are read, and the numbers of those stored for them.

    A column of lists or structures is stored as several. Raises UserError if a column is missing,
    or that of a text does not hold strings.
    """
    import pyarrow

    known = file.schema_arrow.names
    names = next((each for each in reading.columns if set(each) <= set(known)), None)
    if names is None:
        columns = one_line(", ".join(known))
        other = next((each[0] for each in CONVERSATIONS.columns if set(each) <= set(known)), None)
        hint = (
            f"; '{other}' holds conversations, whose answers are learned with the `objective` "
            "instructions"
            if other is not None and not reading.conversations
            else ""
        )
        raise UserError(
            f"{path}: no column '{reading.columns[0][0]}'; the columns are {columns}{hint}"
        )
    twice = next((name for name in names if known.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"{path}: two columns are called '{twice}'; write the file with one of them"
        )
    if not reading.conversations:
        kind = file.schema_arrow.field(names[0]).type
        types = pyarrow.types
        value = kind.value_type if types.is_dictionary(kind) else kind
        if not any(
            is_kind(value)
            for is_kind in (types.is_string, types.is_large_string, types.is_string_view)
        ):
            raise UserError(
                f"{path}, column '{names[0]}': not a string but {one_line(str(kind))[:80]}"
            )
    leaves = [
        number
        for number in range(file.metadata.num_columns)
        if _is_in(file.schema.column(number).path, names, nested=reading.conversations)
    ]
    if not leaves:
        raise ValueError(f"the column '{names[0]}' has other columns in it")
    return names, leaves


def _is_in(stored: str, names: tuple[str, ...], *, nested: bool) -> bool:
    """Whether a stored column is one of these, or a part of one."""
    return stored in names or (nested and any(stored.startswith(f"{name}.") for name in names))


def _at_once(path: Path, plain: BinaryIO, file: Any, at: tuple[int, int], wanted: int) -> int:
    """How many rows of a row group to unpack at once. Raises UserError if a page is too large.

    `at`: the numbers of the row group and of the stored column.
    """
    group, column = at
    chunk = file.metadata.row_group(group).column(column)
    begin = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < begin:
        begin = chunk.dictionary_page_offset
    pages = []
    for page in read_pages(plain, begin, begin + chunk.total_compressed_size):
        if page.nbytes > LARGEST_PAGE:
            name = file.schema.column(column).path
            raise UserError(
                f"{path}: row group {group + 1}: a page of column '{name}' unpacks to "
                f"{page.nbytes:,} bytes, more than {LARGEST_PAGE >> 20} MB; write the file again "
                "with smaller pages"
            )
        pages.append(page)
    return rows_at_once(pages, wanted)
