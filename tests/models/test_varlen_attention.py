"""Texts of any length in one line: all but the kernel, which is CUDA's, and is written out here."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regrow.architectures import Blueprint
from regrow.architectures.bart import BART
from regrow.architectures.llama import LLAMA
from regrow.architectures.openba import OPENBA
from regrow.models.document_attention import EMPTY, attention, attention_method, text_mask
from regrow.models.loading import load_model
from regrow.models.varlen_attention import supports_varlen, varlen_attention, varlen_layout
from regrow.training.efficiency import attention as training_attention
from regrow.training.efficiency.attention import (
    supports_document_attention,
    using_document_attention,
)
from tests.models.test_document_attention import (
    LENGTHS,
    MODULE,
    Lengths,
    assert_as_by_mask,
    by_mask,
    numbers,
)
from tests.tiny import write_tiny

torch.set_num_threads(1)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
wrong: list[str] = []


def _texts(*bounds: Tensor) -> Iterator[tuple[slice, slice]]:
    """Where each text is among queries and keys."""
    of_each = (pairwise(each.tolist()) for each in bounds)
    for (first, last), (begin, end) in zip(*of_each, strict=True):
        yield slice(first, last), slice(begin, end)


def _weights(asks: Tensor, asked: Tensor, *, is_causal: bool, scale: float) -> Tensor:
    """[heads, queries, keys], of one text."""
    groups = asks.shape[1] // asked.shape[1]
    scores = torch.einsum("qhd,khd->hqk", asks, asked.repeat_interleave(groups, dim=1)) * scale
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
    return scores.softmax(dim=-1)


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int,
    max_k: int, is_causal: bool = False, scale: float | None = None, window_size: Any = None,
    enable_gqa: bool = False, seqused_k: Any = None, block_table: Any = None,
    num_splits: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == int(cu_seq_q.diff().max())
    assert max_k == int(cu_seq_k.diff().max())
    assert list(window_size) == ([-1, 0] if is_causal else [-1, -1])
    groups = query.shape[1] // key.shape[1]
    assert enable_gqa == (groups > 1)
    if wrong == ["refuses"]:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")
    scale = scale or query.shape[-1] ** -0.5
    found = torch.empty_like(query)
    for asks, asked in _texts(cu_seq_q, cu_seq_k):
        weights = _weights(query[asks], key[asked], is_causal=is_causal, scale=scale)
        given = value[asked].repeat_interleave(groups, dim=1)
        found[asks] = torch.einsum("hqk,khd->qhd", weights, given)
    if wrong == ["is not exact"]:
        found *= 1.2
    lse = torch.zeros(query.shape[1], query.shape[0])
    return found, lse, torch.zeros(2, dtype=torch.uint64)


def _backward(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor,
    cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, is_causal: bool, rng_state: Tensor,
    scale: float | None = None, window_size: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    groups = query.shape[1] // key.shape[1]
    scale = scale or query.shape[-1] ** -0.5
    found = [torch.zeros_like(each) for each in (query, key, value)]

    def by_head_of_keys(each: Tensor) -> Tensor:
        return each.reshape(len(each), -1, groups, each.shape[-1]).sum(dim=2)

    for asks, asked in _texts(cu_seq_q, cu_seq_k):
        weights = _weights(query[asks], key[asked], is_causal=is_causal, scale=scale)
        keys, given = (each[asked].repeat_interleave(groups, dim=1) for each in (key, value))
        outer = grad_out[asks]
        of_weights = torch.einsum("qhd,khd->hqk", outer, given)
        scores = weights * (of_weights - (of_weights * weights).sum(dim=-1, keepdim=True)) * scale
        found[0][asks] = torch.einsum("hqk,khd->qhd", scores, keys)
        found[1][asked] = by_head_of_keys(torch.einsum("hqk,qhd->khd", scores, query[asks]))
        found[2][asked] = by_head_of_keys(torch.einsum("hqk,qhd->khd", weights, outer))
    return found[0], found[1], found[2]


# For the whole process; nothing else calls this operator on a CPU, which has no kernel of its own.
torch.library.register_kernel("torch_attn::_varlen_attn", "cpu", _kernel)
torch.library.register_kernel("torch_attn::_varlen_attn_backward", "cpu", _backward)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, is_causal=st.booleans(), seed=st.integers(0, 99))
def test_it_is_what_a_mask_gives(lengths: Lengths, is_causal: bool, seed: int) -> None:
    asks = [[a for a, _ in row] for row in lengths]
    asked = asks if is_causal else [[b for _, b in row] for row in lengths]

    def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        of_queries, of_keys = (
            varlen_layout(asks, query.shape[2], CPU),
            varlen_layout(asked, key.shape[2], CPU),
        )
        return varlen_attention(
            query, key, value, of_queries, of_keys, is_causal=is_causal, scaling=0.3
        )

    assert_as_by_mask(attended, numbers(asks), numbers(asked), is_causal, seed)


@pytest.fixture
def as_if_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that takes texts as CUDA does."""

    def way(device: str, product: torch.dtype, dropout: float) -> str:
        return attention_method("cuda", product, dropout)

    monkeypatch.setattr("regrow.models.document_attention.attention_method", way)


def test_each_way_is_for_what_it_can() -> None:
    half, whole = torch.bfloat16, torch.float32
    assert {
        attention_method("cpu", dtype, rate) for dtype in (half, whole) for rate in (0.0, 0.1)
    } == {"each text"}
    assert (
        attention_method("cuda", half, 0.0)
        == attention_method("cuda", torch.float16, 0.0)
        == "varlen"
    )
    for device, dtype, rate in (("cuda", half, 0.1), ("cuda", whole, 0.0), ("mps", half, 0.0)):
        assert attention_method(device, dtype, rate) == "mask"


@pytest.mark.usefixtures("as_if_cuda")
@pytest.mark.parametrize("is_causal", [True, False])
def test_in_float32_it_is_a_mask(is_causal: bool) -> None:
    texts = torch.tensor([[0, 0, 1, EMPTY], [0, 0, 0, 0]])
    keys = texts if is_causal else torch.tensor([[0, 1, 1, 1, EMPTY], [0, 0, EMPTY, EMPTY, EMPTY]])
    query = torch.randn(2, 4, 4, 8)
    key, value = (torch.randn(2, 2, keys.shape[1], 8) for _ in range(2))
    mask = text_mask(texts, keys, is_causal=is_causal)
    found, _ = attention(MODULE, query, key, value, mask, scaling=0.3)
    expected = by_mask(query, key, value, texts, keys, is_causal)
    held = texts != EMPTY
    torch.testing.assert_close(found[held], expected[held])
    assert found.isfinite().all()
    made = mask.dense
    attention(MODULE, query, key, value, mask, scaling=0.3)
    assert mask.dense is made is not None  # by another layer


@pytest.mark.usefixtures("as_if_cuda")
def test_attention_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the type of products, and made once for all layers."""
    made: list[int] = []

    def counted(*given: Any) -> Any:
        made.append(1)
        return varlen_layout(*given)

    monkeypatch.setattr("regrow.models.document_attention.varlen_layout", counted)
    texts = torch.tensor([[0, 0, 1, EMPTY], [0, 0, 0, 0]])
    query = torch.randn(2, 4, 4, 8)
    key, value = (torch.randn(2, 2, 4, 8) for _ in range(2))
    mask = text_mask(texts, texts, is_causal=True)
    with torch.autocast("cpu", torch.bfloat16):
        first, _ = attention(MODULE, query, key, value.bfloat16(), mask, scaling=0.3)
        second, _ = attention(MODULE, query, key, value.bfloat16(), mask, scaling=0.3)
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, second)
    assert len(made) == 2
    expected = by_mask(query, key, value, texts, texts, True)
    torch.testing.assert_close(first.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.usefixtures("as_if_cuda")
@pytest.mark.parametrize("of", [LLAMA, OPENBA], ids=lambda each: each.model_type)
def test_a_model_reads_so(tmp_path: Path, of: Blueprint) -> None:
    model = load_model(write_tiny(of, tmp_path / "m"))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = [training_attention._probe_states(model)]
        with using_document_attention(model, True):
            expected.append(training_attention._probe_states(model))
    assert (expected[1] - expected[0]).norm() <= 0.02 * expected[0].norm()


@pytest.mark.parametrize("how", ["", "refuses", "is not exact"])
def test_what_a_device_gives_is_compared_first(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(f"{__name__}.wrong", [how] if how else [])
    assert supports_varlen(CPU, torch.bfloat16, 4, 2, 8) == (how == "")


def test_it_is_not_taken_without_the_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = load_model(write_tiny(LLAMA, tmp_path / "m"))
    asked: list[tuple[Any, ...]] = []

    def supports_varlen(*given: Any) -> bool:
        asked.append(given)
        return False

    monkeypatch.setattr(training_attention, "supports_varlen", supports_varlen)
    assert not supports_document_attention(model, CUDA, "fp32")
    assert not asked
    assert not supports_document_attention(model, CUDA, "bf16")
    config = model.config
    groups = config.num_attention_heads // config.num_key_value_heads
    assert asked == [(CUDA, torch.bfloat16, config.num_attention_heads, groups, config.head_dim)]
    # Stacks may have heads of their own.
    bart = load_model(write_tiny(BART, tmp_path / "bart"))
    bart.config.encoder_attention_heads, bart.config.decoder_attention_heads = 4, 8

    def has(*given: Any) -> bool:
        asked.append(given)
        return True

    monkeypatch.setattr(training_attention, "supports_varlen", has)
    supports_document_attention(bart, CUDA, "bf16")
    assert {heads for _, _, heads, _, _ in asked[1:]} == {4, 8}
    monkeypatch.setattr(training_attention, "supports_varlen", lambda *given: True)
    assert supports_document_attention(model, CUDA, "bf16")
