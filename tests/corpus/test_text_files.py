"""A directory as text, and the kinds of files."""

from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.corpus.text import read_documents
from regrow.corpus.text_files import text_files


def test_a_directory_stands_for_all_text_files_below_it(tmp_path: Path) -> None:
    names = ["b.txt", "a/z.jsonl", "a/b/c.txt", "a.txt", ".hidden.txt", ".git/x.txt", "a/image.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "in lines"}' if name.endswith("l") else name)
    found = [str(path.relative_to(tmp_path)) for path in text_files(tmp_path)]
    assert found == ["a/b/c.txt", "a/z.jsonl", "a.txt", "b.txt"]
    assert [*read_documents(tmp_path)] == ["a/b/c.txt", "in lines", "a.txt", "b.txt"]
    assert text_files(tmp_path / "b.txt") == [tmp_path / "b.txt"]


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("config.json", "a model, not text; name a .txt"),
        ("tokens.idx", "a token store, not text; name a .txt"),
        ("image.png", "the directory holds no .txt, .jsonl"),
    ],
)
def test_a_directory_of_something_else_is_refused(
    tmp_path: Path, inside: str, message: str
) -> None:
    (tmp_path / inside).touch()
    with pytest.raises(UserError, match=message):
        text_files(tmp_path)


def test_files_of_a_directory_may_be_empty_but_not_all(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match="hold no document"):
        [*read_documents(tmp_path)]
    (tmp_path / "b.txt").write_text("A river.")
    assert [*read_documents(tmp_path)] == ["A river."]
