"""A Parquet file that unpacks to gigabytes is read in bounded memory, or refused in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus import parquet_pages, parquet_rows
from regrow.corpus.parquet_pages import Page, read_pages, rows_at_once
from regrow.corpus.parquet_rows import read_rows
from regrow.corpus.reading import PLAIN_TEXT

MB = 1 << 20


def write(path: Path, texts: Any, **options: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, **options)
    return path


def repeated(text: str, rows: int) -> Any:
    """One value in a dictionary, and many rows of it."""
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, "int32"), [text])


def texts(path: Path, wanted: int = 256, start: int = 0) -> list[Any]:
    return [row["text"] for rows in read_rows(path, wanted, start) for row in rows.rows]


@contextmanager
def measured() -> Iterator[Callable[[], int]]:
    """Context manager: the function gives the most bytes that pyarrow has held meanwhile."""
    before = pyarrow.default_memory_pool()
    pool = pyarrow.proxy_memory_pool(before)
    pyarrow.set_memory_pool(pool)
    try:
        yield pool.max_memory
    finally:
        pyarrow.set_memory_pool(before)


BOMBS: dict[str, dict[str, Any]] = {
    "dictionary": {"dictionary_pagesize_limit": 4 * MB},
    "delta": {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
    "plain": {"use_dictionary": False, "write_batch_size": 1, "data_page_size": 1},
    "version 2": {
        "use_dictionary": False,
        "write_batch_size": 1,
        "data_page_size": 1,
        "data_page_version": "2.0",
    },
}


@pytest.mark.parametrize("name", BOMBS)
def test_rows_that_unpack_to_much_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(parquet_pages, "_ROWS_BYTES", MB)
    text = "a" * (MB // 4)
    values = repeated(text, 200) if name == "dictionary" else [text] * 200
    path = write(tmp_path / "a.parquet", values, compression="zstd", **BOMBS[name])
    assert path.stat().st_size < 100_000
    with measured() as most:
        found = [rows.rows for rows in read_rows(path, 256)]
    assert [each["text"] for rows in found for each in rows] == [text] * 200
    assert max(map(len, found)) <= 4
    assert most() < 5 * MB


def test_usual_files_are_read_in_large_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [f"text {number}" * 400 for number in range(4_000)])
    steps = [len(rows.rows) for rows in read_rows(path, 256)]
    assert sum(steps) == 4_000
    assert max(steps) * 3_600 > 200_000


def test_a_page_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_rows, "LARGEST_PAGE", MB)
    good = write(tmp_path / "a.parquet", ["a" * (MB // 2)], use_dictionary=False)
    assert len(texts(good)) == 1
    for options in ({"use_dictionary": False}, {}):
        path = write(tmp_path / "b.parquet", ["a", "a" * MB], row_group_size=1, **options)
        with pytest.raises(UserError, match=r"row group 2: a page of column 'text' unpacks to 1,0"):
            texts(path)


def test_a_large_footer_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ["a"])
    data = path.read_bytes()
    path.write_bytes(data[:-8] + bytes(17 * MB) + (17 * MB).to_bytes(4, "little") + data[-4:])
    with pytest.raises(UserError, match="a footer of 17,825,792 bytes, more than 16 MB"):
        texts(path)


@pytest.mark.parametrize(
    "values",
    [[["a"]], [b"a"], [1], [{"text": "a"}]],
    ids=["list", "bytes", "number", "struct"],
)
def test_a_column_of_something_else_is_refused_before_it_is_unpacked(
    tmp_path: Path, values: list[Any]
) -> None:
    path = write(tmp_path / "a.parquet", values)
    with pytest.raises(UserError, match="column 'text': not a string but"):
        texts(path)


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view"])
def test_each_kind_of_string_is_read(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.parquet", pyarrow.array(["a", "é"], getattr(pyarrow, kind)()))
    assert texts(path) == ["a", "é"]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: two columns are called 'text'; write"):
        texts(tmp_path / "a.parquet")


def test_a_schema_that_lies_about_the_column_is_refused(tmp_path: Path) -> None:
    """The file holds the schema twice: pyarrow's own, and that of Parquet."""
    strings = pyarrow.parquet.ParquetFile(write(tmp_path / "a.parquet", ["a"]))
    lists = pyarrow.parquet.ParquetFile(write(tmp_path / "b.parquet", [["a"]]))
    lying = SimpleNamespace(
        schema_arrow=strings.schema_arrow, metadata=lists.metadata, schema=lists.schema
    )
    with pytest.raises(ValueError, match="has other columns in it"):
        parquet_rows._columns(tmp_path / "b.parquet", lying, PLAIN_TEXT)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_all_rows_are_read_from_any_row_on(
    tmp_path: Path, version: str, dictionary: bool, kind: str
) -> None:
    values = [None if number % 7 == 3 else f"text {number % 20}" for number in range(90)]
    path = write(
        tmp_path / "a.parquet", pyarrow.array(values, kind), use_dictionary=dictionary,
        data_page_version=version, row_group_size=40, data_page_size=64,
    )  # fmt: skip
    for start in (0, 1, 39, 40, 41, 89, 90):
        for wanted in (1, 7, 256):
            assert texts(path, wanted, start) == values[start:]


def test_pages_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet", ["a" * 1000] * 3 + ["b" * 1000], data_page_size=1,
        write_batch_size=1, compression="none",
    )  # fmt: skip
    chunk = pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(0)
    begin = chunk.dictionary_page_offset
    with path.open("rb") as file:
        pages = [*read_pages(file, begin, begin + chunk.total_compressed_size)]
    assert pages[0] == Page(2 * 1004, 0, repeats=True)
    assert sum(page.values for page in pages) == 4
    assert not any(page.repeats for page in pages[1:])


@given(st.binary(max_size=60))
def test_other_bytes_are_no_pages(data: bytes) -> None:
    try:
        pages = [*read_pages(BytesIO(data), 0, len(data))]
    except ValueError:
        return
    assert all(0 <= page.nbytes < 1 << 31 for page in pages)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 9)), max_size=12), st.integers(1, 30))
def test_no_rows_touch_pages_of_more_bytes_than_the_bound(
    sizes: list[tuple[int, int]], wanted: int
) -> None:
    unit = 1 << 21
    pages = [Page(nbytes * unit, values, repeats=False) for nbytes, values in sizes]
    rows = rows_at_once(pages, wanted)
    assert 1 <= rows <= wanted
    places = [number for number, page in enumerate(pages) for _ in range(page.values)]
    for first in range(len(places)) if rows > 1 else ():
        last = min(first + rows, len(places)) - 1
        touched = pages[places[first] : places[last] + 1]
        assert sum(page.nbytes for page in touched) <= 256 << 20
