import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regrow.corpus.samples import DataOrder, random_stream

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
