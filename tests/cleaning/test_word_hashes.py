"""Equal words and equal n-grams have equal hashes, and others do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.cleaning import word_hashes
from regrow.cleaning.word_hashes import Runs, ngrams, normalised, word_pieces, words_of

WORDS = st.lists(
    st.sampled_from(["a", "b", "ab", "the", "Stra\u00dfe", "\u0915\u093f"]), max_size=30
)


@given(WORDS, st.sampled_from([" ", ", ", "\n", " - "]))
def test_words_are_runs_of_letters(words: list[str], between: str) -> None:
    hashes = words_of(between.join(words)).hashes
    assert len(hashes) == len(words)
    alone = {word: int(words_of(word).hashes[0]) for word in set(words)}
    assert len({*alone.values()}) == len(alone)
    assert hashes.tolist() == [alone[word] for word in words]


def test_characters_of_scripts_without_spaces_are_words() -> None:
    found = words_of("\u6211\u7231Python3\u8bed\u8a00\u3002 \u0e01\u0e02 \ud55c\uad6d")
    assert found.alone.tolist() == [True, True, False, True, True, True, True, False]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 8))
def test_ngrams_are_equal_where_their_words_are(drawn: list[int], size: int) -> None:
    words = words_of(" ".join("abcd"[each] for each in drawn)).hashes
    hashes = ngrams(words, size).tolist()
    size = min(size, len(drawn))
    pieces = [tuple(drawn[at : at + size]) for at in range(len(drawn) - size + 1)] if drawn else []
    assert len(hashes) == len(pieces)
    assert len({*zip(hashes, pieces, strict=True)}) == len({*hashes}) == len({*pieces})


@given(st.integers(0, 20), st.integers(1, 9))
def test_a_run_at_a_place(count: int, length: int) -> None:
    runs = Runs(words_of(" ".join(map(str, range(count)))).hashes)
    found = runs.of_length(length).tolist()
    assert [runs.at(at, length) for at in range(len(found))] == found
    assert runs.at(len(found), length) is None


def test_case_and_forms_of_characters_do_not_count() -> None:
    assert normalised("\uff21BC \ufb01") == "abc fi"


def test_a_long_text_has_the_same_ngrams_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(str(number % 977) for number in range(3000))
    whole = np.unique(ngrams(words_of(text).hashes, 5))
    monkeypatch.setattr(word_hashes, "PIECE", 1000)
    monkeypatch.setattr(word_hashes, "_OVERLAP", 100)
    pieces = word_pieces(text)
    assert len(pieces) == -(-len(text) // 1000)
    found = np.unique(np.concatenate([ngrams(words, 5) for words in pieces]))
    assert np.isin(whole, found).all()
    assert len(found) <= len(whole) + 20 * len(pieces)  # words that are cut
