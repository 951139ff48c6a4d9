"""A mixture is a pure function of seed and sample; shares are exact; no row comes too early."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.concatenation import ConcatenatedRows
from regrow.corpus.mixed_order import BLOCK, MixedOrder, source_shares
from regrow.corpus.packing import pack
from tests.training.small import byte_tokenizer

SIZES = {"a": 10, "b": 3_000, "c": 700}
WEIGHTS = (1.0, 5.0, 2.0)


def mixed(
    seed: int = 1, weights: Sequence[float] = WEIGHTS, changes: Sequence[int] = ()
) -> MixedOrder:
    """`changes`: samples from which the weights stand the other way round, and back again."""
    shares = source_shares(list(SIZES), weights)
    for number, sample in enumerate(changes):
        shares.mix_from(sample, weights if number % 2 else weights[::-1])
    return MixedOrder(list(SIZES.values()), shares, seed)


def by_source(rows: Sequence[int]) -> dict[str, list[int]]:
    """Rows counted within their source."""
    found: dict[str, list[int]] = {name: [] for name in SIZES}
    for row in rows:
        name = "a" if row < 10 else "b" if row < 3_010 else "c"
        found[name].append(row - {"a": 0, "b": 10, "c": 3_010}[name])
    return found


def test_shares_are_exact_after_each_block() -> None:
    rows = mixed().rows(0, 3 * BLOCK).tolist()
    for block in range(3):
        found = by_source(rows[block * BLOCK : (block + 1) * BLOCK])
        counts = {name: len(each) for name, each in found.items()}
        assert counts == {"a": BLOCK // 8, "b": 5 * BLOCK // 8, "c": BLOCK // 4}


@pytest.mark.parametrize("changes", [(), (5,), (BLOCK + 17, BLOCK + 18, 2 * BLOCK)])
def test_each_source_is_gone_through_whole_before_it_comes_again(changes: tuple[int, ...]) -> None:
    for name, rows in by_source(mixed(changes=changes).rows(0, 4 * BLOCK).tolist()).items():
        size = SIZES[name]
        epochs = [rows[at : at + size] for at in range(0, len(rows) - size + 1, size)]
        assert len(epochs) >= 2
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert epochs[0] != epochs[1]


PLACES = st.integers(0, 3 * BLOCK - 1)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(PLACES, min_size=1, max_size=20), st.integers(0, 3),
    st.lists(PLACES, max_size=4).map(sorted),
)  # fmt: skip
def test_a_sample_depends_on_its_number_and_the_seed_alone(
    numbers: list[int], seed: int, changes: list[int]
) -> None:
    together = mixed(seed, changes=changes).rows(0, 3 * BLOCK)
    alone = mixed(seed, changes=changes)
    for number in numbers:
        assert alone.rows(number, number + 1).tolist() == [together[number]]
    first, last = min(numbers), max(numbers)
    assert mixed(seed, changes=changes).rows(first, last).tolist() == together[first:last].tolist()


@given(PLACES)
@settings(max_examples=20, deadline=None)
def test_a_change_changes_only_what_comes_after(sample: int) -> None:
    """Also in an order that was asked already, as a training does."""
    shares = source_shares(list(SIZES), WEIGHTS)
    order = MixedOrder(list(SIZES.values()), shares, 1)
    before = order.rows(0, sample)
    assert before.tolist() == mixed().rows(0, sample).tolist()
    shares.mix_from(sample, [0, 0, 1])
    assert set(by_source(order.rows(sample, sample + 900).tolist())["a"]) == set()
    assert sorted(by_source(order.rows(sample, sample + 900).tolist())["b"]) == []
    assert order.rows(0, sample).tolist() == before.tolist()
    shares.mix_from(sample + 900, WEIGHTS)
    assert len(by_source(order.rows(sample + 900, sample + 900 + BLOCK).tolist())["b"]) == 2560


def test_changes_that_cannot_be() -> None:
    shares = source_shares(["a", "b"], [1, 1])
    shares.mix_from(10, [1, 3])
    shares.mix_from(10, [3, 1])
    assert shares.changes == [(0, (2048, 2048)), (10, (3072, 1024))]
    for sample, weights in ((9, [1, 1]), (11, [1]), (11, [0, 0]), (11, [1, -1]), (11, [1, np.nan])):
        with pytest.raises(ValueError, match=r"weights|a change at sample 9"):
            shares.mix_from(sample, weights)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_shares_go_as_the_weights(weights: list[float]) -> None:
    ((_, quotas),) = source_shares([str(number) for number in range(len(weights))], weights).changes
    assert sum(quotas) == BLOCK
    for weight, quota in zip(weights, quotas, strict=True):
        assert abs(quota - weight / sum(weights) * BLOCK) < 1


def test_seeds_and_names_decide() -> None:
    rows = mixed().rows(0, BLOCK).tolist()
    assert rows == mixed().rows(0, BLOCK).tolist()
    renamed = MixedOrder(list(SIZES.values()), source_shares(["a", "c", "b"], WEIGHTS), 1)
    for other in (mixed(2), mixed(weights=(1, 2, 5)), renamed):
        assert rows != other.rows(0, BLOCK).tolist()
    sources = {name: pack([name * 20], byte_tokenizer(), 8) for name in ("a", "b")}
    identities = {
        ConcatenatedRows(
            {name: sources[name] for name in names}, source_shares(names, given)
        ).identity
        for names, given in (("ab", [1, 1]), ("ab", [1, 2]), ("ba", [1, 1]))
    }
    assert len(identities) == 3


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 1.0, 0.0], "weight of c: 0; a number above 0"),
        ([1.0, 1.0, float("nan")], "weight of c: nan; a number above 0"),
        ([1.0, 1.0, 1e-5], "c: 5e-06 of all is less than 1 sample in 4,096"),
    ],
)
def test_wrong_weights_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source_shares(["a", "b", "c"], weights)
