"""Paragraphs and sentences."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regrow.cleaning.parts import NOT_COMPARED, paragraphs, part_hash, sentences, text_hash, without

TEXT = st.text(st.sampled_from("ab.!? \n\u3002\u201d\u2026"), max_size=60)


@given(TEXT)
def test_nothing_is_lost(text: str) -> None:
    parts = paragraphs(text)
    assert "".join(parts) == text
    assert all("".join(sentences(part)) == part for part in parts)
    if text.strip():
        assert all(part.strip() for part in parts)
    assert without(parts, np.zeros(len(parts), np.bool_)) == text


def test_sentences_end_at_marks_before_a_space() -> None:
    found = sentences('He said "no." Then 3.5 left. 他说：“好。”走了！再见')
    assert found == ['He said "no." ', "Then 3.5 left. ", "他说：“好。”", "走了！", "再见"]


def test_case_and_space_do_not_count() -> None:
    assert part_hash("A  b\n") == part_hash("a b")
    assert part_hash("a c") != part_hash("a b")
    assert part_hash("a b", least=4) == NOT_COMPARED
    assert text_hash("a \n b") == text_hash("a b") != text_hash("ab")
