"""Attention text by text is what a mask over whole rows gives."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regrow.models.document_attention import EMPTY, attention, packed_mask, text_mask

torch.set_num_threads(1)
MODULE: Any = SimpleNamespace(is_causal=False, num_key_value_groups=2)
SIZE = 4

Lengths = list[list[tuple[int, int]]]


def numbers(lengths: list[list[int]]) -> Tensor:
    """The text of each slot, in rows of one width."""
    width = max(1, *(sum(row) for row in lengths))
    rows = [
        [text for text, length in enumerate(row) for _ in range(length)]
        + [EMPTY] * (width - sum(row))
        for row in lengths
    ]
    return torch.tensor(rows)


def by_mask(
    query: Tensor, key: Tensor, value: Tensor, queries: Tensor, keys: Tensor, is_causal: bool
) -> Tensor:
    """[rows, width, heads, size]; empty slots zero."""
    seen = queries[:, :, None] == keys[:, None]
    if is_causal:
        seen = seen.tril()
    key, value = (each.repeat_interleave(2, dim=1) for each in (key, value))
    scores = (query @ key.transpose(2, 3) * 0.3).masked_fill(~seen[:, None], -torch.inf)
    weights = scores.softmax(dim=-1).nan_to_num(0.0)
    found = (weights @ value).transpose(1, 2)
    return torch.where((queries == EMPTY)[:, :, None, None], 0.0, found)


LENGTHS = st.lists(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    min_size=1,
    max_size=3,
)


def assert_as_by_mask(
    attended: Callable[[Tensor, Tensor, Tensor], Tensor],
    queries: Tensor,
    keys: Tensor,
    is_causal: bool,
    seed: int,
) -> None:
    """In values and in gradients, where keys have half the heads."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(len(queries), heads, width, SIZE, generator=generator, dtype=torch.float64)
        for heads, width in ((4, queries.shape[1]), (2, keys.shape[1]), (2, keys.shape[1]))
    )
    parts = [part.requires_grad_() for part in (query, key, value)]
    found = attended(query, key, value)
    expected = by_mask(query, key, value, queries, keys, is_causal)
    torch.testing.assert_close(found, expected)
    outer = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, parts, outer),
        torch.autograd.grad(expected, parts, outer), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, is_causal=st.booleans(), same=st.booleans(), seed=st.integers(0, 99))
def test_it_is_what_a_mask_gives(lengths: Lengths, is_causal: bool, same: bool, seed: int) -> None:
    if same:  # rows of the same texts are computed together
        lengths = [lengths[0]] * len(lengths)
    queries = numbers([[asks for asks, _ in row] for row in lengths])
    keys = queries if is_causal else numbers([[asked for _, asked in row] for row in lengths])

    def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mask = text_mask(queries, keys, is_causal=is_causal)
        found, weights = attention(MODULE, query, key, value, mask, scaling=0.3)
        assert weights is None
        return found

    assert_as_by_mask(attended, queries, keys, is_causal, seed)


def test_packed_texts_begin_where_positions_do() -> None:
    mask = packed_mask(torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]))
    assert [[run.queries for run in row] for row in mask.runs] == [[3, 2], [1, 4]]
    assert mask.is_causal
    assert mask.ndim == 4


@pytest.mark.parametrize(("size", "is_wide"), [(32, True), (64, False)])
def test_short_texts_are_computed_in_float32(size: int, is_wide: bool) -> None:
    texts = torch.zeros(1, 300, dtype=torch.long)
    query, key, value = (torch.randn(1, 1, 300, size) for _ in range(3))
    module: Any = SimpleNamespace(is_causal=False)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attention(module, query, key, value, text_mask(texts, texts, is_causal=False))
    exact = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16()) == is_wide


@pytest.mark.parametrize("length", [20, 300])
def test_types_that_differ_are_as_one_under_autocast(length: int) -> None:
    """Rotary positions leave float32 queries and keys beside values in bfloat16."""
    texts = torch.zeros(1, length, dtype=torch.long)
    query, key = (torch.randn(1, 1, length, 64) for _ in range(2))
    value = torch.randn(1, 1, length, 64).bfloat16()
    module: Any = SimpleNamespace(is_causal=True)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attention(module, query, key, value, text_mask(texts, texts, is_causal=True))
    exact = nn.functional.scaled_dot_product_attention(query, key, value.float(), is_causal=True)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact.transpose(1, 2), rtol=0.05, atol=0.05)


def test_another_mask_is_for_torch() -> None:
    query, key, value = (torch.randn(1, 2, 3, SIZE) for _ in range(3))
    seen = torch.tensor([[True, False, False], [True, True, False], [False, True, True]])
    module: Any = SimpleNamespace(is_causal=True)
    found, _ = attention(module, query, key, value, seen[None, None])
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    assert torch.equal(found, expected.transpose(1, 2))


def test_what_it_does_not_know_is_refused() -> None:
    texts = torch.zeros(1, 3, dtype=torch.long)
    mask = text_mask(texts, texts, is_causal=True)
    query, key, value = (torch.randn(1, 2, 3, SIZE) for _ in range(3))
    module: Any = SimpleNamespace(is_causal=True)
    with pytest.raises(NotImplementedError, match="attention with sliding_window"):
        attention(module, query, key, value, mask, sliding_window=2)


@pytest.mark.parametrize("texts", [[0, 1, 0], [0, EMPTY, 1]])
def test_a_text_in_pieces_is_refused(texts: list[int]) -> None:
    row = torch.tensor([texts])
    with pytest.raises(ValueError, match="must be consecutive"):
        text_mask(row, row, is_causal=True)


def test_texts_in_another_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"queries of texts \[0, 1\], keys of \[1, 0\]"):
        text_mask(torch.tensor([[0, 0, 1]]), torch.tensor([[1, 0, 0]]), is_causal=False)
