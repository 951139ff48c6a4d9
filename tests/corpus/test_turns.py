"""Texts take turns: the beginning of all holds text of each, and short documents stay whole."""

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus import turns
from regrow.corpus.encoding import TextWithSpecialTokens
from regrow.corpus.reading import Reading
from regrow.corpus.turns import TextsInTurns, files_in_turns, in_turns, turn_of
from tests.tiny import write_text

TEXTS = st.lists(st.lists(st.integers(0, 40), max_size=9), max_size=5)
"""Some texts, each as the lengths of its documents."""


@given(st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=5), st.integers(1, 20))
def test_texts_take_turns(texts: list[list[int]], characters: int) -> None:
    # A document is its text's letter and a number of marks.
    documents = [
        [letter + "." * length for length in text]
        for letter, text in zip("abcde", texts, strict=False)
    ]
    order = [*in_turns([iter(text) for text in documents], characters)]
    given = dict.fromkeys("abcde"[: len(texts)], 0)
    whole = {text[0][0]: sum(map(len, text)) for text in documents if text}
    for document in order:
        given[document[0]] += len(document)
        # No text is more than a turn and a document ahead of others that still have text.
        waiting = [given[letter] for letter in whole if given[letter] < whole[letter]]
        assert given[document[0]] - min(waiting, default=given[document[0]]) <= characters + 10
    for text in documents:
        assert [each for each in order if text and each[0] == text[0][0]] == text


def written(texts: list[list[int]]) -> list[list[str]]:
    """Documents of which every character names its text."""
    return [[letter * n for n in text] for letter, text in zip("abcde", texts, strict=False)]


@given(TEXTS, st.integers(1, 20))
def test_divided_the_beginning_holds_text_of_each(texts: list[list[int]], characters: int) -> None:
    documents = written(texts)
    order = [*in_turns([iter(text) for text in documents], characters, divide=True)]
    beginning = "".join(order)[: len(texts) * characters]
    for text in map("".join, documents):
        if text:
            # At least half a turn, or all of a text that is shorter.
            assert beginning.count(text[0]) >= min(len(text), characters - characters // 2)
            assert "".join(part for part in order if part[:1] == text[0]) == text


@given(TEXTS, st.integers(1, 20))
def test_documents_are_divided_only_where_it_is_needed(
    texts: list[list[int]], characters: int
) -> None:
    documents = written(texts)
    longest = max((n for text in texts for n in text), default=0)
    # If these are short, all texts together are never half a turn ahead.
    short = characters + 2 * len(texts) * longest
    for turn in (characters, short):
        whole = [*in_turns([iter(text) for text in documents], turn)]
        divided = [*in_turns([iter(text) for text in documents], turn, divide=True)]
        assert sorted("".join(whole)) == sorted("".join(divided))
        if turn == short or len(texts) < 2:
            assert divided == whole


def test_a_long_document_is_divided_at_the_end_of_each_turn() -> None:
    texts = TextsInTurns([partial(iter, ["a" * 25, "a"]), partial(iter, ["b", "b" * 8, "b"])], 8)
    assert [*texts.divided()] == ["a" * 8, "b", "b" * 8, "a" * 8, "b", "a" * 9, "a"]
    # Where tokens are counted, documents stay whole.
    assert [*texts()] == ["a" * 25, "b", "b" * 8, "b", "a"]


def test_parts_of_a_text_with_special_tokens_are_such_texts() -> None:
    texts = [iter([TextWithSpecialTokens("<eos>" * 9)]), iter(["b" * 90])]
    parts = [*in_turns(texts, 10, divide=True)]
    assert all(isinstance(part, TextWithSpecialTokens) for part in parts if "<" in part)
    assert sum("<" in part for part in parts) > 1


def test_files_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a directory too, in groups if they are many; an empty file is passed over."""
    monkeypatch.setattr(turns, "TURN", 2)
    (tmp_path / "more").mkdir()
    for name in "cde":
        write_text(tmp_path / "more" / f"{name}.jsonl", [name] * 5)
    (tmp_path / "more" / "empty.txt").write_text("")
    paths = [write_text(tmp_path / "a.jsonl", ["aaaaa"]), tmp_path / "more"]
    texts = files_in_turns(paths)
    assert "".join(texts()) == "aaaaaccddeeccddeecde"
    assert "".join(texts.divided()) == "aaccddeeaaccddeeacde"
    monkeypatch.setattr(turns, "_GROUPS", 2)
    assert "".join(files_in_turns(paths)()) == "aaaaaddddcdecceeccee"  # a and c, d and e


def test_a_path_without_a_document_is_refused_at_once(tmp_path: Path) -> None:
    write_text(tmp_path / "a.jsonl", ["a"])
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "empty.txt").write_text("")
    with pytest.raises(UserError, match="none: the text files of the directory hold no document"):
        files_in_turns([tmp_path / "a.jsonl", tmp_path / "none"])
    with pytest.raises(UserError, match=r"empty\.txt: the file holds no text"):
        files_in_turns([tmp_path / "a.jsonl", tmp_path / "none" / "empty.txt"])


def test_names_of_special_tokens_in_files_may_be_tokens(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.jsonl", ["a<eos>"])
    [meant] = files_in_turns([path], Reading(special_tokens=True))()
    [plain] = files_in_turns([path])()
    assert (type(meant), type(plain)) == (TextWithSpecialTokens, str)


def test_a_turn_leaves_room_for_each_text() -> None:
    assert [turn_of(n) for n in (0, 1, 4, 5, 1 << 30)] == [1 << 19] * 3 + [(1 << 21) // 5, 1]
