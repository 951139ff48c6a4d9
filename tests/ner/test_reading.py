"""Files are read by their suffix, and named by the user, the file or its directory."""

import gzip
import json
import re
from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.ner.reading import check_left_out, read_set, read_sets
from regrow.ner.sentences import EntitySet

BIO = "a\tB-x\nb\tO\n"
JSON = '{"tokenized_text": ["a", "b"], "ner": [[0, 0, "x"], [1, 1, "Misc"]]}\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "movie").mkdir()
    (tmp_path / "movie" / "test.txt").write_text(BIO, encoding="utf-8")
    (tmp_path / "weibo.test").write_text(BIO, encoding="utf-8")
    (tmp_path / "pile.jsonl").write_text(JSON, encoding="utf-8")
    return tmp_path


def test_names_of_sets(home: Path) -> None:
    files = ["movie/test.txt", "weibo.test", "pile.jsonl", "my=pile.jsonl"]
    given = [f"my={home / 'pile.jsonl'}" if "=" in each else str(home / each) for each in files]
    assert [each.name for each in read_sets(given)] == ["movie", "weibo", "pile", "my"]


def test_types_are_left_out(home: Path) -> None:
    (found,) = read_sets([str(home / "pile.jsonl")], without=["misc"])
    assert found.types == ("x",)
    assert [span.type for span in found.sentences[0].spans] == ["x"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "give at least one file"),
        (["movie"], "a directory; give the file"),
        (["none.txt"], "no such file"),
        (["pile.jsonl", "pile.jsonl"], "another file is also called 'pile'"),
    ],
)
def test_wrong_files_are_refused(home: Path, files: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_sets([str(home / each) for each in files])


def test_a_set_without_entities_is_refused(home: Path) -> None:
    with pytest.raises(UserError, match="no entity of any type"):
        read_sets([str(home / "movie" / "test.txt")], without=["X"])


def test_a_type_to_leave_out_is_in_some_set(home: Path) -> None:
    files = [str(home / "pile.jsonl"), str(home / "weibo.test")]
    given = ["MISC", "Y"]
    sets = read_sets(files, without=given)
    check_left_out(sets, given[:1])
    check_left_out(sets, given, ["y"])
    with pytest.raises(UserError, match=r"^without Y: no file has this type; there are Misc, x$"):
        check_left_out(sets, given)


def test_few_of_many_types_are_named() -> None:
    types = tuple(f"t{number:03}" for number in range(1_020))
    with pytest.raises(UserError, match=r"; there are t000, t001, .*, t019, and 1,000 more$"):
        check_left_out([EntitySet("many", (), types)], ["u"])


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_a_packed_file_is_read_as_what_is_in_it(tmp_path: Path, name: str) -> None:
    value = {"tokenized_text": ["Bo", "saw", "Li"], "ner": [[0, 0, "per"], [2, 2, "per"]]}
    line = json.dumps(value)
    text = {"a.txt": "Bo B-per\nsaw O\nLi B-per\n", "a.jsonl": f"{line}\n", "a.json": f"[{line}]"}
    (tmp_path / name).write_text(text[name])
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text[name].encode()))
    assert read_set(packed).sentences == read_set(tmp_path / name).sentences
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UserError, match=re.escape(str(packed))):
        read_set(packed)
