"""The two parts of the text of a search."""

from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.corpus import turns
from regrow.corpus.encoding import TextWithSpecialTokens
from regrow.corpus.reading import PLAIN_TEXT, Reading
from regrow.corpus.text import documents_sha256
from regrow.surgery.search.text import read_search_text
from tests.tiny import sentences, write_text


def test_what_is_held_back_chooses_nothing(tmp_path: Path) -> None:
    documents = [f"{number} {text}" for number, text in enumerate(sentences(200))]
    paths = [write_text(tmp_path / "a.jsonl", documents[:100]),
             write_text(tmp_path / "b.jsonl", documents[100:])]  # fmt: skip
    found = read_search_text(paths, 1_000)
    chosen_by = [*found.documents()]
    assert [*found.documents()] == chosen_by
    assert len(chosen_by) == 150
    assert not set(found.held_back) & set(chosen_by)
    # About half as many tokens of four characters, from both files.
    assert sum(map(len, found.held_back)) == pytest.approx(2_000, rel=0.1)
    assert found.held_back_bytes == sum(map(len, found.held_back))
    assert min(found.held_back.index(t) for t in found.held_back if t in documents[100:]) > 0


def test_a_long_document_is_divided(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text(" ".join(sentences(200)))
    found = read_search_text([path], 1_000)
    assert len(found.held_back) == 1
    assert max(map(len, found.documents())) == 2_048
    whole = "".join([*found.documents(), *found.held_back])
    assert len(whole) < len(path.read_text())  # a part that is held back, and not needed


def test_files_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN", 3 * 2_048)
    (tmp_path / "texts").mkdir()
    for name in "ab":
        (tmp_path / "texts" / f"{name}.txt").write_text(name * 20_480)
    for paths in ([tmp_path / "texts"], sorted((tmp_path / "texts").iterdir())):
        found = read_search_text(paths, 9_000)
        # Of "aaabbbaaabbb...", each fourth piece is held back.
        assert "".join(piece[0] for piece in found.documents()) == "aaabbaabbaaabba"
        assert "".join(piece[0] for piece in found.held_back) == "babbb"


def test_one_file_is_read_as_ever(tmp_path: Path) -> None:
    """So what was measured on it stays known."""
    text = "".join(chr(97 + number % 26) for number in range(9 * 2_048))
    (tmp_path / "a.txt").write_text(text)
    pieces = [text[first : first + 2_048] for first in range(0, len(text), 2_048)]
    found = read_search_text([tmp_path / "a.txt"], 1_000)
    assert found.sha256 == documents_sha256(pieces)
    assert [*found.documents()] == [p for n, p in enumerate(pieces) if n % 4 != 3]


def test_names_of_special_tokens_may_be_tokens(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.jsonl", ["a<eos>b" * 900] * 4)
    reading = Reading(special_tokens=True)
    plain, meant = (read_search_text([path], 1_000, each) for each in (PLAIN_TEXT, reading))
    assert [*plain.documents()] == [*meant.documents()]
    assert all(isinstance(piece, TextWithSpecialTokens) for piece in meant.documents())
    assert not any(isinstance(piece, TextWithSpecialTokens) for piece in plain.documents())
    assert (plain.reading, meant.reading) == (PLAIN_TEXT, reading)


def test_the_hash_is_of_all_documents(tmp_path: Path) -> None:
    documents = sentences(40)
    path = write_text(tmp_path / "a.jsonl", documents)
    first = read_search_text([path], 512).sha256
    assert read_search_text([write_text(tmp_path / "b.jsonl", documents)], 512).sha256 == first
    write_text(path, [*documents[:-1], "Another end."])
    assert read_search_text([path], 512).sha256 != first


def test_a_text_must_be_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("A river.")
    with pytest.raises(UserError, match=r"^text: the text is 8 characters, too few to hold a part"):
        read_search_text([path], 512)
    with pytest.raises(UserError, match=r"^text: .*none\.txt: no such file"):
        read_search_text([tmp_path / "none.txt"], 512)
