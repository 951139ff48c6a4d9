"""Inputs of all forms are read; what is damaged is named, and nothing else is lost."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.cleaning.document import Document
from regrow.cleaning.reading import blocks, unpacking
from regrow.cleaning.reading.blocks import Problem, RawBlock, read_raw
from regrow.cleaning.reading.inputs import Input
from regrow.cleaning.reading.records import documents_in
from regrow.corpus.text import Position

FORMATS = {"jsonl": "jsonl", "txt": "text", "html": "html", "warc": "warc", "parquet": "parquet"}


def line(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


def record(number: int, body: bytes, kind: bytes = b"text/html; charset=utf-8") -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n\r\n" + body
    head = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/%d\r\n"
        b"Content-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n"
    )
    return head % (number, len(http)) + http + b"\r\n\r\n"


def given_file(path: Path, content: bytes) -> Input:
    path.write_bytes(content)
    name, _, compression = path.name.partition(".")[2].partition(".")
    return Input(0, path, path.name, FORMATS[name], compression and f".{compression}")


def raw(given: Input, start: Position | None = None) -> Iterator[RawBlock]:
    return read_raw(given, "text", None, "train", start or Position())


def read(given: Input) -> tuple[list[str], list[str]]:
    """The texts of an input, and the reasons of all problems."""
    found: list[Any] = []
    for block in raw(given):
        found += [*documents_in(block, "s"), *block.problems]
    texts = [each.text for each in found if isinstance(each, Document)]
    return texts, [each.reason for each in found if isinstance(each, Problem)]


def zstd(data: bytes) -> bytes:
    made = pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True)
    return bytes(made.compress(data))


@pytest.mark.parametrize(
    ("name", "content", "texts", "reasons"),
    [
        ("a.jsonl", line("a") + b"\n" + line("b\u2028c"), ["a", "b\u2028c"], []),
        ("a.jsonl", b"\xef\xbb\xbf" + line("a"), ["a"], []),
        ("a.jsonl", line("a") + b"x\n" + line("b")[:-1], ["a", "b"], ["not JSON"]),
        ("a.jsonl", b"\xff\n" + line("b"), ["b"], ["not UTF-8"]),
        ("a.jsonl", b'{"a": 1}\n[1]\n' + line("b"), ["b"], ["no key 'text'"] * 2),
        ("a.jsonl", b'{"text": 1}\n' + line("b"), ["b"], ["key 'text' is not text"]),
        ("a.jsonl", b'{"text": "\\ud800"}\n' + line("b"), ["\ud800", "b"], []),
        ("a.jsonl", b"[" * 100_000 + b"\n" + line("b"), ["b"], ["not JSON"]),
        ("a.jsonl", line(" \n ") + line("b"), ["b"], ["empty text"]),
        ("a.jsonl", b"", [], ["empty file"]),
        ("a.txt", b"one\n\ntwo\n", ["one\n\ntwo\n"], []),
        ("a.txt", b"  \n", [], ["empty text"]),
        ("a.html", b"<html>a</html>", ["<html>a</html>"], []),
        ("a.html", b"<meta charset=gb2312>\xd6\xd0", ["<meta charset=gb2312>\u4e2d"], []),
        ("a.warc", record(0, b"a") + record(1, b"b"), ["a", "b"], []),
        ("a.warc", record(0, b"a", b"text/html; charset=no") + record(1, b"b"), ["a", "b"], []),
        ("a.warc", record(0, b"a", b"text/html; charset=a\0b") + record(1, b"b"), ["a", "b"], []),
        ("a.warc", record(0, b"a", b"image/png") + record(1, b"b"), ["b"], ["no page of text"]),
        ("a.warc", record(0, b"a") + record(1, b"bb" * 9)[:-9] + record(2, b"c"), ["a", "c"],
         ["damaged WARC record"]),
        ("a.warc", record(0, b"a") + b"x\ny\n" + record(2, b"c"), ["a", "c"],
         ["damaged WARC record"]),
        ("a.warc", record(0, b"a").replace(b"Length: ", b"Length: 99999999") + record(1, b"b"),
         ["b"], ["longer than 64 MB"]),
        ("a.warc", record(0, b"a")[:-20], [], ["damaged WARC record"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_the_rest_is_read(
    tmp_path: Path, name: str, content: bytes, texts: list[str], reasons: list[str]
) -> None:
    assert read(given_file(tmp_path / name, content)) == (texts, reasons)
    packed = given_file(tmp_path / f"{name}.gz", gzip.compress(content, mtime=0))
    assert read(packed) == (texts, reasons)


def test_ids_name_source_file_and_record(tmp_path: Path) -> None:
    given = given_file(tmp_path / "a.jsonl", line("a") + b"\n" + line("b"))
    (block,) = raw(given)
    found = [each for each in documents_in(block, "web") if isinstance(each, Document)]
    assert [each.id for each in found] == ["web/a.jsonl#1", "web/a.jsonl#3"]


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_records_of_warc_keep_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    request = record(1, b"r").replace(b"Type: response", b"Type: request")
    image = record(2, b"i", b"image/png")
    given = given_file(
        tmp_path / "a.warc", request + record(0, b"a") + request + record(1, b"b") + image
    )
    found = [each for block in raw(given) for each in documents_in(block, "web")]
    ids = [each.id if isinstance(each, Document) else each.where for each in found]
    assert ids == ["web/a.warc#2", "web/a.warc#4", f"{given.path}: record 5"]


@pytest.mark.parametrize("pack", [lambda data: gzip.compress(data, mtime=0), zstd])
@pytest.mark.parametrize("damage", ["cut", "changed", "between"])
def test_a_damaged_part_costs_only_its_own_documents(
    tmp_path: Path, pack: Any, damage: str
) -> None:
    texts = [f"{number} " + "word" * 50 for number in range(5)]
    parts = [pack(line(text)) for text in texts]
    if damage == "cut":
        parts[1] = parts[1][:-6]
    elif damage == "changed":
        at = len(parts[1]) // 2
        parts[1] = parts[1][:at] + bytes([parts[1][at] ^ 0xFF]) + parts[1][at + 1 :]
    else:
        parts.insert(1, b"no part at all")
    suffix = "gz" if parts[0][:2] == b"\x1f\x8b" else "zst"
    found, reasons = read(given_file(tmp_path / f"a.jsonl.{suffix}", b"".join(parts)))
    wanted = texts if damage == "between" else [texts[0], *texts[2:]]
    assert [text for text in found if text != texts[1] or damage == "between"] == wanted
    assert any(reason.startswith("damaged ") for reason in reasons)


def test_an_incomplete_last_part_keeps_what_came_before(tmp_path: Path) -> None:
    parts = gzip.compress(line("a")) + gzip.compress(line("b"))[:-4]
    found, reasons = read(given_file(tmp_path / "a.jsonl.gz", parts))
    assert found[0] == "a"
    assert reasons == ["incomplete gzip"]


def test_a_bomb_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_FREE", 1 << 20)
    bomb = gzip.compress(bytes(20 << 20))
    assert len(bomb) < 30_000
    found, reasons = read(given_file(tmp_path / "a.jsonl.gz", bomb))
    assert found == []
    assert reasons == ["unpacks to 1,000 times its size"]


def test_what_comes_after_a_bomb_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_FREE", 1 << 20)
    bomb, lines = gzip.compress(b"\n" * (20 << 20)), [line(str(number)) for number in range(3)]
    parts = [gzip.compress(each) for each in lines]
    content = parts[0] + bomb + parts[1] + bomb + parts[2]
    assert read(given_file(tmp_path / "a.jsonl.gz", content)) == (
        ["0", "1", "2"], ["unpacks to 1,000 times its size"] * 2
    )  # fmt: skip


def test_a_line_that_is_too_long_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LONGEST", 1000)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "_SKIP", 64)
    content = line("a") + line("x" * 5000) + line("b")
    for name, data in (("a.jsonl", content), ("b.jsonl.gz", gzip.compress(content))):
        assert read(given_file(tmp_path / name, data)) == (["a", "b"], ["longer than 64 MB"])
    assert read(given_file(tmp_path / "a.html", b"<p>" * 999)) == ([], ["longer than 64 MB"])
    found, reasons = read(given_file(tmp_path / "a.txt", b"one line\n" * 200))
    assert "".join(found) == "one line\n" * 200
    assert max(map(len, found)) < 1010
    assert reasons == []


def test_parquet_goes_on_after_a_damaged_row_group(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    texts = [f"text {number} " * 40 for number in range(40)]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts}), path, row_group_size=10, compression="gzip",
        use_dictionary=False,
    )  # fmt: skip
    given = Input(0, path, "a.parquet", "parquet")
    assert read(given) == (texts, [])
    column = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
    with path.open("r+b") as file:
        file.seek(column.data_page_offset)
        file.write(b"\xff" * 20)
    found, reasons = read(given)
    assert found == texts[:10] + texts[20:]
    assert len(reasons) == 1
    path.write_bytes(b"PAR1 nothing")
    found, reasons = read(given)
    assert found == []
    assert reasons[0].startswith("not a complete Parquet file")


def test_a_data_set_that_datasets_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"body": ["a", "", "b"], "n": [1, 2, 3]})
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "d"))
    given = Input(0, tmp_path / "d", "d", "dataset")
    found = [each for block in read_raw(given, "body", None, "train", Position())
             for each in documents_in(block, "s")]  # fmt: skip
    assert [each.text for each in found if isinstance(each, Document)] == ["a", "b"]
    with pytest.raises(Exception, match="no split 'test'; it has train"):
        blocks.check_dataset(given, "body", None, "test")
    with pytest.raises(Exception, match="no column 'text'; the columns are body, n"):
        blocks.check_dataset(given, "text", None, "train")


@given(
    parts=st.lists(st.sampled_from(["good", "bad", "cut", "junk", "long"]), min_size=1, max_size=6),
    kind=st.sampled_from(["jsonl", "jsonl.gz", "warc", "warc.gz"]),
)
def test_from_any_block_on_the_rest_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], kind: str
) -> None:
    """Work that goes on after a kill counts each problem once."""
    directory = tmp_path_factory.mktemp("rest")
    content = b""
    for number, part in enumerate(parts):
        text = "word " * (400 if part == "long" else 5) + str(number)
        piece = line(text) if kind.startswith("jsonl") else record(number, text.encode())
        piece = b"junk\n" if part == "junk" else piece
        if kind.endswith("gz"):
            piece = gzip.compress(piece * 2, mtime=0)
            if part == "bad":
                piece = piece[:20] + b"\xff\xff" + piece[22:]
        content += piece[:-9] if part == "cut" else piece
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", 100)
        patch.setattr(blocks, "LONGEST", 1500)
        given = given_file(directory / f"a.{kind}", content)
        whole = [_plain(block) for block in raw(given)]
        for number, (_, _, after, _) in enumerate(whole):
            assert [_plain(block) for block in raw(given, after)] == whole[number + 1 :]


def _plain(block: RawBlock) -> tuple[Any, ...]:
    return block.records, block.problems, block.after, block.first
