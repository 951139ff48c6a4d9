"""Paragraphs, and when two parts are the same."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regrow.cleaning.parts import NOT_COMPARED, paragraphs, part_hash, text_hash, without

TEXT = st.text(st.sampled_from("ab.!? \n\u3002\u201d\u2026"), max_size=60)


@given(TEXT)
def test_nothing_is_lost(text: str) -> None:
    parts = paragraphs(text)
    assert "".join(parts) == text
    if text.strip():
        assert all(part.strip() for part in parts)
    assert without(parts, np.zeros(len(parts), np.bool_)) == text


def test_case_and_space_do_not_count() -> None:
    assert part_hash("A  b\n") == part_hash("a b")
    assert part_hash("a c") != part_hash("a b")
    assert part_hash("a b", least=4) == NOT_COMPARED
    assert part_hash("| 12 | 34.5 |") == part_hash("-----") == NOT_COMPARED
    assert text_hash("a \n b") == text_hash("a b") != text_hash("ab")
