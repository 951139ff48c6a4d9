"""Adapters beside frozen weights: what is trained, and what is left when they are merged."""

from pathlib import Path
from typing import Any

import pytest
import torch

from regrow.architectures.openba import OPENBA
from regrow.common.errors import UserError
from regrow.corpus.packing import pack
from regrow.models.loading import load_model
from regrow.objectives.losses.causal import Causal
from regrow.training import lora
from regrow.training.lora import add_adapters, without_adapters
from regrow.training.lora_settings import LoraSettings
from regrow.training.settings import RecoverySettings
from tests.tiny import sentences, write_tiny
from tests.training.small import byte_tokenizer, small_model, train_on

SETTINGS = RecoverySettings(
    tokens=1_536, row_length=32, batch_tokens=64, learning_rate=0.05, precision="fp32",
    lora=LoraSettings(rank=2),
)  # fmt: skip


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 15)[None]
    given = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, **given).logits
    return found


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi3", "openba"])
def test_merged_weights_compute_what_weights_and_adapters_do(tmp_path: Path, family: str) -> None:
    """The adapters are drawn at random here: after a training they would be small."""

    def fresh() -> Any:
        if family == "openba":
            return load_model(path)
        return small_model(family)

    path = write_tiny(OPENBA, tmp_path / "model", vocab_size=40) if family == "openba" else tmp_path
    plain, model = fresh(), fresh()
    settings = LoraSettings(rank=3, alpha=4.5)
    add_adapters(model, settings, seed=1)
    assert torch.equal(logits(model), logits(plain))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    found = without_adapters(model.state_dict(), settings)
    assert found.keys() == plain.state_dict().keys()
    changed = logits(model)
    assert not torch.allclose(changed, logits(plain), atol=1e-2)
    plain.load_state_dict(found)
    torch.testing.assert_close(logits(plain), changed, atol=1e-4, rtol=1e-4)


def test_only_adapters_are_trained(tmp_path: Path) -> None:
    model, before = small_model("llama"), small_model("llama").state_dict()
    assert SETTINGS.lora is not None
    add_adapters(model, SETTINGS.lora, seed=0)
    samples = pack(sentences(40), byte_tokenizer(), 32)
    result = train_on(model, samples, Causal(), SETTINGS, directory=tmp_path / "training")
    losses = [loss for _, loss in result.curve]
    assert losses[-1] < losses[0] - 0.1
    state = model.state_dict()
    for name, tensor in before.items():
        prefix, _, last = name.rpartition(".")
        known = state.get(name, state.get(f"{prefix}.base_layer.{last}"))
        assert known is not None
        assert torch.equal(known, tensor)
    assert any(tensor.any() for name, tensor in state.items() if ".lora_B." in name)


def test_matrices_are_chosen_by_the_end_of_their_names() -> None:
    model = small_model("llama")
    add_adapters(model, LoraSettings(rank=1, targets=("q_proj", "v_proj")), seed=0)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert len(trained) == 2 * 2 * model.config.num_hidden_layers
    assert all(".q_proj." in name or ".v_proj." in name for name in trained)
    with pytest.raises(UserError, match="layers is called w; they have down_proj, gate_proj"):
        add_adapters(small_model("llama"), LoraSettings(rank=1, targets=("w",)), seed=0)


def test_adapters_depend_on_the_seed_alone() -> None:
    drawn = []
    for seed in (0, 0, 1):
        model = small_model("llama")
        add_adapters(model, LoraSettings(rank=1), seed=seed)
        drawn.append(next(p for name, p in model.named_parameters() if ".lora_A." in name))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_merge_that_is_not_exact_is_an_error() -> None:
    base, down, up = torch.ones(4, 6), torch.ones(2, 6), torch.ones(4, 2)
    exact = base + 0.5 * up @ down
    lora._check_merged("q", exact, (base, down, up), 0.5)
    with pytest.raises(ValueError, match="q: merged, it differs by"):
        lora._check_merged("q", exact + 0.01, (base, down, up), 0.5)


def test_muon_is_refused() -> None:
    with pytest.raises(ValueError, match="muon updates whole matrices"):
        RecoverySettings(lora=LoraSettings(rank=2), optimizer="muon")
