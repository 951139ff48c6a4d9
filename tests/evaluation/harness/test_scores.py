from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regrow.evaluation.harness.scores import batches_by_size, padded, scores_of
from regrow.objectives.losses.head import Head


@dataclass(frozen=True)
class Row:
    number: int
    widths: tuple[int, ...]


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=60),
    st.integers(1, 400),
)
def test_each_row_is_in_one_batch_that_is_not_too_large(
    widths: list[tuple[int, int]], most: int
) -> None:
    rows = [Row(number, each) for number, each in enumerate(widths)]
    batches = list(batches_by_size(rows, most))
    assert sorted(row.number for batch in batches for row in batch) == [*range(len(rows))]
    for batch in batches:
        slots = len(batch) * sum(max(row.widths[at] for row in batch) for at in (0, 1))
        assert len(batch) == 1 or slots <= most
        real = sum(sum(row.widths) for row in batch)
        assert len(batch) == 1 or real >= 0.92 * slots or slots <= most / 8 + 120 * len(batch)


def test_rows_of_equal_sizes_fill_a_batch() -> None:
    batches = list(batches_by_size([Row(n, (10,)) for n in range(25)], 100))
    assert [len(batch) for batch in batches] == [10, 10, 5]


def test_scores_of_chosen_slots() -> None:
    generator = torch.Generator().manual_seed(0)
    head = Head(torch.randn(11, 4, generator=generator), None, 1.0, 1.0, None)
    hidden = torch.randn(2, 5, 4, generator=generator)
    targets = [(3, 7), (int(head.logits(hidden[1, 2]).argmax()),)]
    first, second = scores_of(head, hidden, [(0, [1, 4]), (1, [2])], targets)
    logs = head.logits(hidden).log_softmax(-1)
    assert first.loglikelihood == pytest.approx((logs[0, 1, 3] + logs[0, 4, 7]).item())
    assert (first.tokens, second.tokens, second.is_greedy) == (2, 1, True)


def test_rows_are_padded_on_the_right() -> None:
    assert padded([[1, 2, 3], [4]], -1, torch.device("cpu")).tolist() == [[1, 2, 3], [4, -1, -1]]
