from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.corpus.named_files import MOST_SOURCES, named_files


def test_names_of_sources(tmp_path: Path) -> None:
    for name in ("web/b-00001-of-00002.jsonl", "web/a/x.txt.gz", "web/notes.md", "00003.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for argument, expected in {
        f"{tmp_path}/web": [("web", "web/a/x.txt.gz"), ("web", "web/b-00001-of-00002.jsonl")],
        f"en={tmp_path}/web": [("en", "web/a/x.txt.gz"), ("en", "web/b-00001-of-00002.jsonl")],
        f"{tmp_path}/web/b-00001-of-00002.jsonl": [("b", "web/b-00001-of-00002.jsonl")],
        f"zh={tmp_path}/none.jsonl": [("zh", "none.jsonl")],
        f"zh={tmp_path}/*.jsonl": [("zh", "00003.jsonl")],
        f"{tmp_path}/web/b-*-of-0000?.jsonl": [("b", "web/b-00001-of-00002.jsonl")],
        f"{tmp_path}/lo_en.jsonl.zst": [("lo_en", "lo_en.jsonl.zst")],
        f"{tmp_path}/wiki_12.parquet": [("wiki", "wiki_12.parquet")],
        f"{tmp_path}/wiki.en.txt.gz": [("wiki.en", "wiki.en.txt.gz")],
        f"{tmp_path}/wiki.de.00001.jsonl": [("wiki.de", "wiki.de.00001.jsonl")],
        f"{tmp_path}/00003.jsonl": [(tmp_path.name, "00003.jsonl")],
    }.items():
        found = named_files([argument], "corpus")
        assert [(name, str(path.relative_to(tmp_path))) for name, path in found] == expected


def test_a_reserved_name_is_given_only_by_the_user() -> None:
    found = named_files(["other.jsonl", "other=a.jsonl"], "corpus", ["other"])
    assert [name for name, _ in found] == ["other.jsonl", "other"]


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "lang=en.jsonl"
    path.touch()
    assert named_files([str(path)], "corpus") == [("lang=en", path)]


def test_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "readme.md").touch()
    with pytest.raises(UserError, match=r"the directory holds no \.txt"):
        named_files([str(tmp_path)], "corpus")
    with pytest.raises(UserError, match="no file fits the pattern"):
        named_files([f"zh={tmp_path}/*.jsonl"], "corpus")
    letters = [chr(ord("a") + n // 26) + chr(ord("a") + n % 26) for n in range(MOST_SOURCES + 1)]
    with pytest.raises(UserError, match="65 sources, 64 at most"):
        named_files([f"{name}.jsonl" for name in letters], "corpus")
    assert len(named_files([f"all={name}.jsonl" for name in letters], "corpus")) == 65
