"""The windows of a store are those of its text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.token_store import open_store
from regrow.corpus.token_store_windows import cut_store
from regrow.corpus.windows import cut_windows
from tests.corpus.stores import (
    write,
)
from tests.training.small import EOS, byte_tokenizer


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(
    texts=st.lists(st.text("abc é", max_size=40), max_size=12),
    longest=st.integers(1, 20),
    end=st.booleans(),
    stride=st.integers(1, 5),
)
def test_windows_are_those_of_the_text(
    tmp_path: Path, texts: list[str], longest: int, end: bool, stride: int
) -> None:
    ids = [byte_tokenizer()(text)["input_ids"] for text in texts]
    stem = write(tmp_path / "a", [[*document, EOS] if end else document for document in ids])
    store = open_store(stem, end=EOS if end else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regrow.corpus.token_store_windows._STRIDE", stride)
        if not any(ids):
            with pytest.raises(UserError, match="no token"):
                cut_store(store, longest)
            return
        found, expected = cut_store(store, longest), cut_windows(texts, byte_tokenizer(), longest)
        assert len(found) == len(expected)
        numbers = np.arange(len(found))
        assert found.lengths_of(numbers).tolist() == expected.lengths_of(numbers).tolist()
        assert found.text_tokens == expected.text_tokens
        assert found.longest_length == expected.longest_length
        for number in numbers.tolist():
            assert found[number].tolist() == expected[number].tolist()
            assert found[number].dtype == np.int32
        for number in (-1, len(found)):
            with pytest.raises(IndexError):
                found[number]


def test_a_document_without_its_end_is_refused(tmp_path: Path) -> None:
    """Where the writer said that each has one; elsewhere it is an empty one."""
    stem = write(tmp_path / "a", [[1, 2], []])
    windows = cut_store(open_store(stem, end=2), 4)
    assert [windows[number].tolist() for number in range(len(windows))] == [[1]]
    (tmp_path / "a.json").write_text('{"end": 2}')
    with pytest.raises(UserError, match="document 1 is empty, where each should end with token 2"):
        cut_store(open_store(stem), 4)


def test_identity_is_that_of_what_is_read(tmp_path: Path) -> None:
    def identity(documents: list[list[int]], longest: int = 2, end: int | None = None) -> str:
        store = open_store(write(tmp_path / "a", documents), end=end)
        return cut_store(store, longest).identity

    base = [[1, 2, 9], [3, 9]]
    assert identity(base) == identity(base)
    others = [
        identity(base, longest=3), identity(base, end=9), identity([[1, 2], [9, 3, 9]]),
        identity([[1, 2, 9], [4, 9]]),
    ]  # fmt: skip
    assert len({identity(base), *others}) == 5
