"""The cuts by a peer that benchmarks/quality.py compares with."""

from types import ModuleType

import pytest
import torch
import transformers

from tests.benchmark_scripts import benchmark_script

HIDDEN, FFN = 18, 24


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    return benchmark_script("torch_pruning_peer")


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
@pytest.mark.parametrize("importance", ["magnitude", "Taylor"])
@pytest.mark.parametrize(("hidden", "ffn"), [(12, 14), (HIDDEN, 5)])
def test_every_tensor_keeps_the_same_channels_and_neurons(
    peer: ModuleType, importance: str, hidden: int, ffn: int
) -> None:
    model = _random_llama()
    ids = torch.arange(20)[None]
    model(ids, labels=ids).loss.backward()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    peer._prune(model, peer.Widths(hidden, ffn), importance)
    after = dict(model.named_parameters())
    channels = _kept(before["model.embed_tokens.weight"].T, after["model.embed_tokens.weight"].T)
    assert len(channels) == hidden
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"][channels])
    for layer in range(model.config.num_hidden_layers):
        at = f"model.layers.{layer}"
        for name in ("q", "k", "v"):
            weight = f"{at}.self_attn.{name}_proj.weight"
            assert torch.equal(after[weight], before[weight][:, channels])
        weight = f"{at}.self_attn.o_proj.weight"
        assert torch.equal(after[weight], before[weight][channels])
        gate, up, down = (f"{at}.mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
        neurons = _kept(before[gate][:, channels], after[gate])
        assert len(neurons) == ffn
        assert torch.equal(after[up], before[up][neurons][:, channels])
        assert torch.equal(after[down], before[down][channels][:, neurons])


def _random_llama() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=2,
        num_attention_heads=9, num_key_value_heads=3, head_dim=4, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    return model


def _kept(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """The rows of the first that are rows of the second."""
    return [i for i, row in enumerate(before) if any(torch.equal(row, each) for each in after)]
