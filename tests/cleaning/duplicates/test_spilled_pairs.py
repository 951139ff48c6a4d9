"""Pairs are sorted in bounded memory, also if their keys are very unequal."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.cleaning.duplicates.spilled_pairs import SpilledPairs

KEYS = st.lists(
    st.sampled_from([0, 1, 2, 255, 256, 1 << 20, 1 << 56, (1 << 56) + 1, (1 << 64) - 1]),
    max_size=60,
)


@settings(max_examples=40)
@given(KEYS, st.integers(1, 70), st.integers(1, 20))
def test_as_a_sort_in_memory(
    tmp_path_factory: pytest.TempPathFactory, keys: list[int], memory: int, batch: int
) -> None:
    place = tmp_path_factory.getbasetemp() / "pairs"
    with SpilledPairs(place, memory=memory) as pairs:
        for at in range(0, len(keys), batch):
            part = np.array(keys[at : at + batch], np.uint64)
            pairs.add(part, np.arange(at, at + len(part), dtype=np.uint64))
        found = [*pairs.sorted()]
    assert not place.exists()
    order = sorted(range(len(keys)), key=lambda at: keys[at])
    assert [int(each) for piece in found for each in piece.values] == order
    assert [int(each) for piece in found for each in piece.keys] == sorted(keys)
    assert all(len(piece.keys) <= max(memory, batch) for piece in found) or memory >= len(keys)
    first = [int(each) for piece in found for each in piece.first]
    assert first == [keys.index(keys[at]) for at in order]
    before = [int(each) for piece in found for each in piece.before]
    for number, at in enumerate(order):
        same = number > 0 and keys[order[number - 1]] == keys[at]
        assert before[number] == (order[number - 1] if same else at)


def test_small_keys_fill_the_files(tmp_path: Path) -> None:
    with SpilledPairs(tmp_path / "p", bits=9, memory=10) as pairs:
        pairs.add(np.arange(511, -1, -1, dtype=np.uint64), np.arange(512, dtype=np.uint64))
        assert len([*(tmp_path / "p").iterdir()]) == 256
        found = np.concatenate([piece.keys for piece in pairs.sorted()])
    assert found.tolist() == [*range(512)]
