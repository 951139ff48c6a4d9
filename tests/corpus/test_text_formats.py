"""Packed text and Parquet give the documents of the plain file, wherever reading begins."""

import gzip
import json
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus import text as text_module
from regrow.corpus.text import documents_in, read_blocks, read_documents

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=12)


def _lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n\n" for text in texts).encode()


def _gzip(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])


def _zstd(data: bytes) -> bytes:
    half = len(data) // 2
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


def _parquet(path: Path, texts: list[str], rows: int = 3) -> None:
    table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=rows)


def write(path: Path, texts: list[str]) -> None:
    packings: dict[str, Callable[[bytes], bytes]] = {".gz": _gzip, ".zst": _zstd}
    if path.suffix == ".parquet":
        _parquet(path, texts)
    else:
        path.write_bytes(packings.get(path.suffix, bytes)(_lines(texts)))


NAMES = ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"]


@pytest.mark.parametrize("name", NAMES)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None
)
@given(texts=TEXTS, size=st.integers(1, 20_000))
def test_blocks_hold_every_document_once_and_reading_goes_on_after_any(
    tmp_path: Path, name: str, texts: list[str], size: int
) -> None:
    path = tmp_path / name
    write(path, texts)
    expected = [text for text in texts if text]
    blocks = list(read_blocks(path, size))
    pieces = [list(documents_in(block)) for block in blocks]
    assert list(chain(*pieces)) == expected
    assert blocks[-1].read == path.stat().st_size
    for number, block in enumerate(blocks):
        rest = read_blocks(path, size + 1, block.after)
        assert [d for b in rest for d in documents_in(b)] == list(chain(*pieces[number + 1 :]))


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_a_packed_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = "\ufeffone\r\ntwo\n".encode()
    path.write_bytes(_gzip(data) if name.endswith("gz") else _zstd(data))
    assert list(read_documents(path)) == ["one\r\ntwo\n"]
    (block,) = read_blocks(path, 1)
    assert list(read_blocks(path, 1, block.after)) == []


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("part", [0.1, 0.6, 0.99])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, name: str, part: float) -> None:
    path = tmp_path / name
    write(path, [f"text {number}" * 40 for number in range(30)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError, match=r"not a complete (gzip|zstd|Parquet) file") as caught:
        list(read_documents(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(UserError, match="row 2, column 'text': not a string"):
        list(read_documents(path))
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"], "\nid": [1]}), path)
    with pytest.raises(UserError, match="no column 'text'; the columns are body, id"):
        list(read_documents(path))
    table = pyarrow.table({"text": pyarrow.array([b"a", b"\xff"]).cast("string", safe=False)})
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(UserError, match="column 'text' is not UTF-8 after row 0"):
        list(read_documents(path))
    _parquet(path, ["", ""])
    with pytest.raises(UserError, match="the file holds no document; each row"):
        list(read_documents(path))


@pytest.mark.parametrize(
    ("name", "package"), [("a.parquet", "pyarrow"), ("a.txt.zst", "zstandard")]
)
def test_a_package_that_is_missing_is_named_at_once(
    tmp_path: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} reads .* pip install 'regrow\[data\]'"):
        read_documents(tmp_path / name)


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> int:
    """A document may have 100 bytes."""
    monkeypatch.setattr(text_module, "LONGEST", 100)
    return 100


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_line_that_is_too_long_is_named(tmp_path: Path, name: str, longest: int) -> None:
    path = tmp_path / name
    write(path, ["short", "long" * 100, "short"])
    with pytest.raises(UserError, match=r"(line 3|row 2): longer than .* one document; split it"):
        [document for block in read_blocks(path, 10) for document in documents_in(block)]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "text", ["a line of text\n" * 60, "\ufeff" + "a" * 401, "ü" * 333, "日🦜\n" + "日🦜é" * 90]
)
def test_a_long_text_file_is_cut_and_nothing_is_lost(
    tmp_path: Path, text: str, whole: bool, longest: int
) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(_gzip(text.encode()))
    blocks = list(read_blocks(path, 10, whole=whole))
    documents = [document for block in blocks for document in documents_in(block)]
    assert "".join(documents) == text.removeprefix("\ufeff")
    assert max(len(document.encode()) for document in documents) <= 2 * longest
    assert len(documents) > 1
    for number, block in enumerate(blocks):
        rest = read_blocks(path, 10, block.after, whole=whole)
        assert [d for b in rest for d in documents_in(b)] == documents[number + 1 :]


def test_a_long_text_file_is_cut_at_line_ends(tmp_path: Path, longest: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a line\n" * 40)
    assert all(document.endswith("line\n") for document in read_documents(path))


def test_a_small_zstd_file_that_holds_much_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with zstandard.open(path, "wb") as file:
        for _ in range(300):
            file.write(b" " * (1 << 20))
    with path.open("rb") as file:
        frame = zstandard.ZstdDecompressor().decompressobj
        assert max(map(len, text_module._frames(file, frame))) <= 128 << 20
    with pytest.raises(UserError, match="line 1: longer than 64 MB"):
        list(read_documents(path))
