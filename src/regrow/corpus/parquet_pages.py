"""The pages of a Parquet column, from their headers, and how many rows of them fit into memory.

A page of a few kilobytes can unpack to gigabytes, and a value that stands in a dictionary once can
be the value of a million rows. So the headers are read before pyarrow unpacks anything. It takes
the same sizes from them, and refuses a page that unpacks to another size.

The format is that of https://github.com/apache/parquet-format (parquet.thrift, `PageHeader`), in
Thrift's compact protocol.
"""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

LARGEST_PAGE = 256 << 20
"""Bytes that a page may unpack to. Writers make pages of 1 to 100 MB."""
_ROWS_BYTES = 256 << 20
"""Bytes of the rows that are unpacked at once, about."""
_DELTA_BYTE_ARRAY = 7
"""The encoding in which a value repeats the beginning of the value before it."""


class Page(NamedTuple):
    """What the header of a page says.

    Attributes:
        nbytes: Bytes of the unpacked page.
        values: Values in it; 0 for a dictionary.
        repeats: Whether bytes of it can be part of many values.
    """

    nbytes: int
    values: int
    repeats: bool


def read_pages(file: BinaryIO, start: int, end: int) -> Iterator[Page]:
    """The pages of a column chunk that lies from byte `start` to byte `end` of a file.

    Raises ValueError if a header is none.
    """
    while start < end:
        file.seek(start)
        header = _Thrift(file, end).struct()
        nbytes, stored = _size(header, 2), _size(header, 3)
        data, dictionary = header.get(5) or header.get(8), header.get(7)
        if isinstance(data, dict):
            encoding = data.get(2) if 5 in header else data.get(4)
            yield Page(nbytes, _size(data, 1), encoding == _DELTA_BYTE_ARRAY)
        elif dictionary is not None:
            yield Page(nbytes, 0, repeats=True)
        start = file.tell() + stored


def rows_at_once(pages: Sequence[Page], wanted: int) -> int:
    """How many consecutive rows of these pages fit into memory: at most `wanted`, at least 1."""
    repeated = max((page.nbytes for page in pages if page.repeats), default=0)
    rows = max(1, min(wanted, _ROWS_BYTES // max(1, repeated)))
    last = np.cumsum([page.values for page in pages], dtype=np.float64)
    nbytes = np.cumsum([0, *(page.nbytes for page in pages)], dtype=np.float64)
    while rows > 1:
        # Rows from the last one of a page on touch the most pages.
        until = np.searchsorted(last, last + rows - 1).clip(max=len(pages) - 1)
        if (nbytes[until + 1] - nbytes[: len(pages)]).max(initial=0) <= _ROWS_BYTES:
            break
        rows //= 2
    return rows


def _size(struct: dict[int, Any], field: int) -> int:
    value = struct.get(field)
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise ValueError(f"a page header whose field {field} is no size")
    return value


class _Thrift:
    """Reads one struct of Thrift's compact protocol."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file, self._end = file, end

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The integers and structs of a struct, by field; other values are skipped."""
        if depth > 4:
            raise ValueError("a page header with structs inside each other")
        found: dict[int, Any] = {}
        field = 0
        while byte := self._byte():
            step, kind = byte >> 4, byte & 15
            field = field + step if step else self._integer()
            if kind in (1, 2):  # true, false
                continue
            if kind == 3:
                self._byte()
            elif kind in (4, 5, 6):
                found[field] = self._integer()
            elif kind == 7:
                self._skip(8)
            elif kind == 8:
                self._skip(self._unsigned())
            elif kind == 12:
                found[field] = self.struct(depth + 1)
            else:
                raise ValueError(f"a page header with a value of type {kind}")
        return found

    def _byte(self) -> int:
        data = self._file.read(1)
        if not data:
            raise ValueError("a page header that ends too early")
        return data[0]

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number of too many bytes")

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._end:
            raise ValueError("a page header that is longer than its column")
        self._file.seek(count, 1)
