"""A mixture is a pure function of seed and sample; shares are exact; no window comes too early."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.corpus.mixture import BLOCK, Mixture, mix_by_tokens, mix_by_weight, shuffled
from regrow.corpus.windows import TextWindows, Windows
from regrow.errors import UserError


def source(windows: int, length: int = 2, first: int = 0) -> Windows:
    tokens = np.arange(first, first + windows * length, dtype=np.int32)
    return Windows(tokens, np.arange(windows, dtype=np.int64) * length, length)


SOURCES: dict[str, TextWindows] = {"a": source(10), "b": source(3_000), "c": source(700)}


def mixed(seed: int = 1, samples: int = 3 * BLOCK, **weights: float) -> Mixture:
    return mix_by_weight(SOURCES, {"a": 1, "b": 5, "c": 2, **weights}, samples, seed)


@given(st.integers(1, 400), st.integers(0, 9), st.integers(0, 3))
def test_the_order_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    found = [shuffled(rank, count, seed, "a", epoch) for rank in range(count)]
    assert sorted(found) == list(range(count))


def test_orders_differ_by_seed_name_and_epoch_and_look_random() -> None:
    count = 5_000
    base = [shuffled(rank, count, 1, "a", 0) for rank in range(count)]
    for other in ((2, "a", 0), (1, "b", 0), (1, "a", 1)):
        changed = [shuffled(rank, count, *other) for rank in range(count)]
        assert sum(one == two for one, two in zip(base, changed, strict=True)) < 10
    correlation = np.corrcoef(base[:-1], base[1:])[0, 1]
    assert abs(correlation) < 0.06
    assert abs(np.corrcoef(base, range(count))[0, 1]) < 0.06


def test_thousands_of_millions_need_no_memory() -> None:
    count = 5 * 10**12
    found = {shuffled(rank, count, 1, "a", 0) for rank in range(500)}
    assert len(found) == 500
    assert max(found) < count
    assert min(found) < count / 20 < count * 19 / 20 < max(found)


def test_shares_are_exact_after_each_block() -> None:
    mixture = mixed()
    for block in range(3):
        counts = Counter(mixture.place(block * BLOCK + entry)[0] for entry in range(BLOCK))
        assert counts == {"a": BLOCK // 8, "b": 5 * BLOCK // 8, "c": BLOCK // 4}


def test_each_source_is_gone_through_whole_before_it_comes_again() -> None:
    mixture = mixed()
    seen: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for number in range(len(mixture)):
        name, window = mixture.place(number)
        seen[name].append(window)
    for name, windows in seen.items():
        size = len(SOURCES[name])
        epochs = [windows[at : at + size] for at in range(0, len(windows) - size + 1, size)]
        assert len(epochs) >= 2
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert epochs[0] != epochs[1]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3 * BLOCK - 1), min_size=1, max_size=20), st.integers(0, 3))
def test_a_sample_depends_on_its_number_and_the_seed_alone(numbers: list[int], seed: int) -> None:
    together = mixed(seed)
    found = {number: together.place(number) for number in numbers}
    for number in reversed(numbers):
        assert mixed(seed, samples=number + 1).place(number) == found[number]
    name, window = found[numbers[0]]
    assert together[numbers[0]].tolist() == SOURCES[name][window].tolist()
    lengths = together.lengths_of(np.array(numbers))
    assert lengths.tolist() == [len(together[number]) for number in numbers]


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_shares_go_as_the_weights(weights: list[float]) -> None:
    named = {str(number): weight for number, weight in enumerate(weights)}
    mixture = mix_by_weight({name: source(3) for name in named}, named, 10, 0)
    assert sum(mixture.quotas.values()) == BLOCK
    for name, weight in named.items():
        assert abs(mixture.quotas[name] - weight / sum(weights) * BLOCK) < 1


def test_tokens_are_taken_as_asked() -> None:
    sources: dict[str, TextWindows] = {"long": source(400, 30), "short": source(5_000, 3)}
    asked = {"long": 90_000, "short": 30_000}
    mixture = mix_by_tokens(sources, asked, {"long": 30, "short": 3}, seed=4)
    found: Counter[str] = Counter()
    for number in range(len(mixture)):
        name, window = mixture.place(number)
        found[name] += len(sources[name][window])
    for name, tokens in asked.items():
        assert found[name] == pytest.approx(tokens, rel=0.02)


def test_identity_is_that_of_what_is_read() -> None:
    changed = {**SOURCES, "a": source(10, first=1)}
    others = [
        mixed(2), mixed(samples=5), mixed(a=2),
        mix_by_weight(changed, {"a": 1, "b": 5, "c": 2}, 3 * BLOCK, 1),
    ]  # fmt: skip
    assert mixed().identity == mixed().identity
    assert len({mixed().identity, *(other.identity for other in others)}) == 5


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0, "b": 1.0}, "give one for each source"),
        ({"a": 1.0, "b": 1.0, "c": 0.0}, "weight of c: 0; a number above 0"),
        ({"a": 1.0, "b": 1.0, "c": float("nan")}, "weight of c: nan; a number above 0"),
        ({"a": 1.0, "b": 1.0, "c": 1e-5}, "less than 1 sample in 4,096"),
    ],
)
def test_wrong_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mix_by_weight(SOURCES, weights, 10, 0)
