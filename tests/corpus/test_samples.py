import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.random_stream import random_stream
from regrow.corpus import samples
from regrow.corpus.samples import DataOrder, Order, data_order, shuffled

SEEDS = st.integers(-(2**70), 2**70)


@given(seed=SEEDS, rows=st.integers(1, 40), epoch=st.integers(0, 5))
def test_an_epoch_is_a_permutation(seed: int, rows: int, epoch: int) -> None:
    order = DataOrder(seed, rows)
    assert sorted(order.rows(epoch * rows, (epoch + 1) * rows)) == list(range(rows))


@given(seed=SEEDS, rows=st.integers(1, 9), start=st.integers(0, 40), count=st.integers(0, 30))
def test_a_sample_is_the_same_however_it_is_asked_for(
    seed: int, rows: int, start: int, count: int
) -> None:
    together = DataOrder(seed, rows).rows(start, start + count)
    backwards = DataOrder(seed, rows)
    alone = [
        int(backwards.rows(index, index + 1)[0]) for index in reversed(range(start, start + count))
    ]
    assert together.tolist() == alone[::-1]


def test_the_order_is_that_of_every_version() -> None:
    assert DataOrder(7, 8).rows(0, 16).tolist() == [
        *[4, 2, 5, 3, 0, 7, 6, 1],
        *[1, 3, 2, 6, 0, 7, 4, 5],
    ]


def test_seeds_epochs_and_purposes_differ() -> None:
    orders = [DataOrder(seed, 50).rows(0, 100) for seed in (0, 1)]
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0][:50], orders[0][50:])
    draws = {
        random_stream(seed, purpose, counter).random_raw()
        for seed in (0, 1)
        for purpose in ("a", "b")
        for counter in (0, 1)
    }
    assert len(draws) == 8


KEYS = random_stream(1, "keys", 0).random_raw(8).tolist()


@given(st.integers(1, 400), st.integers(0, 2**64 - 1))
def test_what_is_never_written_out_is_a_permutation_too(count: int, key: int) -> None:
    found = shuffled(np.arange(count), count, [key, *KEYS])
    assert sorted(found.tolist()) == list(range(count))


def test_it_looks_random() -> None:
    count = 5_000
    base = shuffled(np.arange(count), count, KEYS)
    assert (base == shuffled(np.arange(count), count, KEYS[::-1])).sum() < 10
    assert abs(np.corrcoef(base[:-1], base[1:])[0, 1]) < 0.06
    assert abs(np.corrcoef(base, np.arange(count))[0, 1]) < 0.06


def test_any_number_of_rows_needs_no_memory() -> None:
    rows = 5 * 10**12
    found = DataOrder(1, rows).rows(rows - 250, rows + 250)
    assert len(set(found.tolist())) == 500
    assert found.max() < rows
    assert found.min() < rows / 20 < rows * 19 / 20 < found.max()


@given(seed=SEEDS, start=st.integers(0, 40), count=st.integers(0, 30))
def test_orders_of_many_rows_keep_what_others_keep(seed: int, start: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "_MOST_IN_MEMORY", 0)
        order = DataOrder(seed, 9)
        together = order.rows(start, start + count).tolist()
        assert sorted(order.rows(18, 27)) == list(range(9))
        alone = [int(order.rows(i, i + 1)[0]) for i in reversed(range(start, start + count))]
        assert together == alone[::-1]


def test_rows_may_say_their_own_order() -> None:
    class Backwards(list[int]):
        def order(self, seed: int) -> Order:
            return DataOrder(-seed, len(self))

    rows = Backwards([1, 2, 3])
    assert data_order(rows, 3).rows(0, 9).tolist() == DataOrder(-3, 3).rows(0, 9).tolist()
    assert data_order([1, 2, 3], 3).rows(0, 9).tolist() == DataOrder(3, 3).rows(0, 9).tolist()
