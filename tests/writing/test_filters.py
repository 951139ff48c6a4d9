import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.writing.filters import is_repetitive


@pytest.mark.parametrize("period", [1, 2, 5, 20])
@pytest.mark.parametrize("before", [0, 100, 300])
def test_a_loop_is_found_wherever_it_begins(period: int, before: int) -> None:
    loop = [number % period for number in range(160)]
    assert is_repetitive([*range(1000, 1000 + before), *loop])


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=400))
def test_tokens_that_come_once_are_no_repetition(ids: list[int]) -> None:
    assert not is_repetitive(ids)


def test_a_short_text_is_not_judged() -> None:
    assert not is_repetitive([1] * 12)
    assert is_repetitive([1] * 40)
