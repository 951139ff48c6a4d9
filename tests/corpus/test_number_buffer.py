"""Numbers come back in order, and take no more than their bytes."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.corpus.number_buffer import NumberBuffer

PARTS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=9)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@given(parts=PARTS)
def test_numbers_come_back_in_order(
    dtype: type[np.int32] | type[np.int64], parts: list[list[int]]
) -> None:
    buffer = NumberBuffer(dtype)
    for part in parts:
        buffer.extend(np.array(part, dtype=np.int64))
        buffer.extend(iter(part))
        buffer.append(7)
    expected = [number for part in parts for number in (*part, *part, 7)]
    assert len(buffer) == len(expected)
    assert buffer.numbers().dtype == dtype
    assert buffer.numbers().tolist() == expected


def test_short_parts_take_little_memory() -> None:
    part = np.arange(14, dtype=np.int32)
    tracemalloc.start()
    try:
        buffer = NumberBuffer(np.int32)
        for _ in range(20_000):
            buffer.extend(part)
        held = buffer.numbers()
        assert tracemalloc.get_traced_memory()[1] < 10 * len(held)
    finally:
        tracemalloc.stop()
