"""The records of files, by their content."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.instructions import records
from regrow.instructions.records import Record, open_records


def read(path: Path) -> tuple[str, list[Record]]:
    opened = open_records(path)
    return opened.kind, list(opened.records())


def test_json_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "data.json"  # the suffix does not count
    path.write_bytes('{"a": "x\u2028y\x85"}\r\n\n{"a": "z"}'.encode())
    assert read(path) == ("JSON lines", [Record(1, {"a": "x\u2028y\x85"}), Record(3, {"a": "z"})])


def test_broken_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"a": 1}\n{"a":\n[1]\n{"a": "\xff"}\n{"a": "\\ud800"}\n{"a": "\xed\xa0\xbd"}\n{"a": 2}\n'
    )
    kind, found = read(path)
    assert kind == "JSON lines"
    assert [record.problem for record in found] == [
        "", "not JSON", "no JSON object", "not UTF-8", "half a surrogate pair", "not UTF-8", "",
    ]  # fmt: skip
    assert found[-1] == Record(7, {"a": 2})


def test_a_long_line_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LONGEST", 40)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"a": "x" * 100}) + '\n{"a": 1}\n')
    assert read(path)[1] == [Record(1, None, "longer than 64 MB"), Record(2, {"a": 1})]


@settings(max_examples=40)
@given(
    st.lists(
        st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.lists(st.text())),
        min_size=1, max_size=8,
    ),
    st.sampled_from([None, 2]),
    st.integers(1, 50),
)  # fmt: skip
def test_a_json_list_is_read_in_pieces(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], indent: int | None, size: int
) -> None:
    path = tmp_path_factory.mktemp("list") / "a.jsonl"
    path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
    with path.open("rb") as file:

        class Slow:
            def read(self, _: int) -> bytes:
                return file.read(size)

        pieces: Any = Slow()
        found = list(records._json_list(pieces))
    assert found == [Record(number, value) for number, value in enumerate(values, start=1)]
    assert read(path) == ("JSON list", found)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"a": 1}, {"a": ', "entry 2 of the list is not JSON; give the whole list, or one"),
        (b'[{"a": 1}, {"a": x}, {"a": 2}]', "entry 2 of the list is not JSON"),
        (b'[{"a": 1},', "the list has no end after entry 1"),
        (b'[{"a": 1}, {"a": "\xff"}]', "not UTF-8 after entry"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "line 3: a quotation mark is not closed"),
        (b'a,b\n1,2\n3,"' + b"4\n5,6" * 50_000, "line 3: a quotation mark is not closed"),
    ],
)  # fmt: skip
def test_files_whose_rest_would_be_lost_are_refused(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"a.json: {message}"):
        read(path)


def test_rows_of_csv_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("a,b\n1," + "x" * 200_000 + "\n3,4\n")
    assert [(record.number, record.problem[:7]) for record in read(path)[1]] == [
        (1, ""), (2, "not CSV"), (3, ""),
    ]  # fmt: skip
    monkeypatch.setattr(records, "LONGEST", 40)
    path.write_text("a,b\n1," + "x" * 100 + '\n3,4\n"5\n' + "y" * 100 + '\n",6\n7,8')
    assert [(record.number, record.problem) for record in read(path)[1]] == [
        (1, ""), (2, "longer than 64 MB"), (3, ""), (6, "longer than 64 MB"), (7, ""),
    ]  # fmt: skip


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text('a "quoted\tb\n\nc\td\n', encoding="utf-8")
    assert read(path) == ("TSV", [Record(1, ['a "quoted', "b"]), Record(3, ["c", "d"])])
    path.write_text('a,b\n"x, y","two\nlines"\n', encoding="utf-8")
    assert read(path) == ("CSV", [Record(1, ["a", "b"]), Record(3, ["x, y", "two\nlines"])])
    path.write_bytes(b"a,b\nx,\xff\ny,z\n")
    assert [record.problem for record in read(path)[1]] == ["", "not UTF-8", ""]


def test_tags_and_text(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("Paris\tB-city\nis\tO\n\nbig\tO\n")
    assert open_records(path).kind == "tags"
    path.write_text("One line.\nAnother.\n")
    assert open_records(path).kind == "text"


def test_compressed_files(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    for name, data in [
        ("a", gzip.compress(b'{"a": 1}\n')),
        ("b", zstandard.ZstdCompressor().compress(b'{"a": 1}\n')),
    ]:
        (tmp_path / name).write_bytes(data)
        assert read(tmp_path / name) == ("JSON lines", [Record(1, {"a": 1})])
    (tmp_path / "c").write_bytes(gzip.compress(b'{"a": 1}\n')[:-9])
    with pytest.raises(UserError, match="c: not a complete gzip file"):
        read(tmp_path / "c")


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a"
    parquet.write_table(pyarrow.table({"a": ["x", None]}), path)
    assert read(path) == ("Parquet", [Record(1, {"a": "x"}), Record(2, {"a": None})])
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match="a: not Parquet that can be read"):
        read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b" \n", "the file is empty"),
        (b'{\n "a": 1\n}\n', "one JSON object on several lines; give a list"),
        (b"caf\xe9\n", "not UTF-8; convert the file"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        open_records(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="b: no such file"):
        open_records(tmp_path / "b")
