"""Windows hold every token once, and none reaches over the end of a document."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.concatenation import ConcatenatedWindows
from regrow.corpus.windows import as_one_array, cut_windows
from tests.training.small import byte_tokenizer

documents = st.lists(st.text("abc é", max_size=40), max_size=8)


@given(documents, st.integers(1, 20))
def test_no_token_is_lost_and_none_doubled(texts: list[str], longest: int) -> None:
    encoded = [byte_tokenizer()(text)["input_ids"] for text in texts]
    if not any(encoded):
        with pytest.raises(UserError, match="no token"):
            cut_windows(texts, byte_tokenizer(), longest)
        return
    windows = cut_windows(texts, byte_tokenizer(), longest)
    pieces = [windows[number].tolist() for number in range(len(windows))]
    assert [len(piece) for piece in pieces] == windows.lengths.tolist()
    rest = iter(pieces)
    for ids in encoded:
        count = -(-len(ids) // longest)
        own = [next(rest) for _ in range(count)]
        assert [token for piece in own for token in piece] == ids
        if own:
            lengths = [len(piece) for piece in own]
            assert max(lengths) - min(lengths) <= 1
            assert max(lengths) <= longest
    assert list(rest) == []


def test_identity_is_that_of_what_is_read() -> None:
    def identity(texts: list[str], longest: int) -> str:
        return cut_windows(texts, byte_tokenizer(), longest).identity

    assert identity(["abcd", "e"], 2) == identity(["abcd", "e"], 2)
    others = [identity(["abcd", "e"], 4), identity(["abc", "de"], 2), identity(["abcd", "f"], 2)]
    assert len({identity(["abcd", "e"], 2), *others}) == 4


def test_windows_are_found_in_a_line_wherever_they_lie() -> None:
    windows = cut_windows(["abcdef", "g", "hij"], byte_tokenizer(), 4)

    numbers = np.array([3, 0, 0, 2])
    for each in (windows, ConcatenatedWindows({"elsewhere": windows})):
        line, starts = as_one_array(each, numbers)
        for number, start in zip(numbers.tolist(), starts.tolist(), strict=True):
            wanted = windows[number].tolist()
            assert line[start : start + len(wanted)].tolist() == wanted
