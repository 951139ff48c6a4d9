from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import LinearAttentionLayer

from regrow.common.errors import UserError
from regrow.models.decoding import DECODING_ATTENTION, DecodedRows, check_decoding, draw
from tests.training.small import FAMILIES, small_model

PREFIX = [5, 9, 5]
_MAMBA = {"mamba_n_heads": 4, "mamba_d_state": 8, "num_key_value_heads": 2}
HYBRIDS: dict[str, dict[str, Any]] = {
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 32, "mamba_d_head": 8, "head_dim": 8},
    "granitemoehybrid": {
        **_MAMBA,
        "mamba_d_head": 12,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "shared_intermediate_size": 16,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_key_value_heads": 2},
    "mamba": {"state_size": 4, "expand": 2, "hidden_size": 24},
}
"""Models with states beside keys and values, or without keys and values."""


def without_cache(model: Any, rows: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor(rows)).logits[:, -1]
    return logits


@pytest.mark.parametrize("family", [*FAMILIES, *HYBRIDS])
def test_rows_have_the_logits_of_a_model_without_a_cache(family: str) -> None:
    """Over more tokens than a cache begins with, and than a sliding window is long."""
    sizes = {"max_position_embeddings": 256, **HYBRIDS.get(family, {})}
    model, plain = (small_model(family, **sizes) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    decoded = DecodedRows(model, PREFIX, 4)
    rows = [list(PREFIX) for _ in range(4)]
    for length in range(4, 132):
        tokens = torch.randint(250, (len(rows),), generator=generator)
        rows = [[*row, int(token)] for row, token in zip(rows, tokens, strict=True)]
        decoded.append(tokens)
        if length == 20:
            decoded.keep([3, 0, 1])
            rows = [rows[3], rows[0], rows[1]]
        if length in (4, 20, 21, 128, 129, 131):
            torch.testing.assert_close(
                decoded.logits, without_cache(plain, rows), atol=1e-4, rtol=1e-4
            )


def test_heads_of_a_group_are_queries_of_their_key_value_head() -> None:
    model = small_model("llama", attention="sdpa")
    DecodedRows(model, PREFIX, 2)
    assert model.config._attn_implementation == DECODING_ATTENTION


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [*FAMILIES, *HYBRIDS])
def test_a_probe_accepts_what_writes_exactly(family: str, dtype: torch.dtype) -> None:
    check_decoding(small_model(family, **HYBRIDS.get(family, {})).to(dtype))


def test_a_probe_refuses_a_model_with_another_kind_of_cache() -> None:
    """RWKV takes the cache as an argument that it does not know, and reads each token alone."""
    with pytest.raises(UserError, match=r"^RwkvForCausalLM: cannot write several texts at once \("):
        check_decoding(small_model("rwkv"))


def test_a_probe_refuses_states_that_do_not_follow_their_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first(self: LinearAttentionLayer, rows: torch.Tensor) -> None:
        select(self, torch.arange(len(rows)) if len(rows) == 3 else rows)

    select = LinearAttentionLayer.reorder_cache
    monkeypatch.setattr(LinearAttentionLayer, "reorder_cache", first)
    model = small_model("mamba", **HYBRIDS["mamba"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3  # so that tokens before the last one count
    with pytest.raises(UserError, match="with a cache its logits are others"):
        check_decoding(model)


def test_as_many_bytes_are_cached_as_keys_and_values_have() -> None:
    decoded = DecodedRows(small_model("llama"), PREFIX, 2)
    layers, heads, size = 2, 2, 24 // 4
    assert decoded.cached_bytes == 2 * 2 * layers * heads * size * len(PREFIX) * 4


@pytest.mark.parametrize("size", [3, 256, 700])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(size: int, temperature: float) -> None:
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(1)) * 2
    many = 1 << 14
    uniform = (torch.arange(many) + 0.5) / many
    drawn = draw(logits.expand(many, -1), temperature, uniform)
    counts = torch.bincount(drawn, minlength=size)
    expected = torch.softmax(logits[0].double() / temperature, -1) * many
    assert (counts - expected).abs().max() < 2


@given(
    allowed=st.sets(st.integers(0, 599), min_size=1, max_size=3),
    share=st.sampled_from([0.0, 1e-8, 0.5, 0.99999994]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_a_token_without_probability_is_never_drawn(
    allowed: set[int], share: float, scale: float
) -> None:
    logits = torch.full((2, 600), -torch.inf)
    for at in allowed:
        logits[:, at] = at / 600 * scale
    drawn = draw(logits, 1.0, torch.full((2,), share)).tolist()
    assert set(drawn) <= allowed


@given(st.lists(st.sampled_from([0.1, 0.7, 1.0, 2.0]), min_size=1, max_size=5))
def test_each_row_may_have_its_own_temperature(temperatures: list[float]) -> None:
    random = torch.Generator().manual_seed(0)
    rows = len(temperatures)
    logits = torch.randn(rows, 300, generator=random)
    uniform = torch.rand(rows, generator=random)
    alone = [
        int(draw(logits[[row]], temperature, uniform[[row]]))
        for row, temperature in enumerate(temperatures)
    ]
    assert draw(logits, torch.tensor(temperatures), uniform).tolist() == alone
