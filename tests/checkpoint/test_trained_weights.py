"""Trained weights are written in the files of the checkpoint before training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from regrow.architectures import BLUEPRINTS
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.class_weights import check_weights_by_file_name, freeze_computed
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.checkpoint.trained_weights import save_trained
from regrow.common.errors import UserError
from regrow.evaluation.heldout_text import HeldoutText
from regrow.training.lora_settings import LoraSettings
from regrow.training.recovery import RecoveryData, recover
from regrow.training.settings import RecoverySettings
from regrow.training.trainee import load_trainee
from tests.tiny import (
    add_tokenizer,
    sentences,
    weights_by_name,
    write_model,
    write_text,
    write_tiny,
)


@pytest.mark.parametrize("shards", [1, 2])
def test_saving_leaves_out_what_the_class_ignores(tmp_path: Path, shards: int) -> None:
    source = write_model(tmp_path / "m")
    state = load_file(source / "model.safetensors")
    extra = "model.layers.0.self_attn.rotary_emb.inv_freq"
    state[extra] = torch.ones(4)
    if shards == 1:
        save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    else:
        (source / "model.safetensors").unlink()
        names = sorted(state)
        parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
        for file, held in parts.items():
            save_file({n: state[n] for n in held}, source / file, metadata={"format": "pt"})
        places = {name: file for file, held in parts.items() for name in held}
        index = {"metadata": {}, "weight_map": places}
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    layout = bind_checkpoint(checkpoint)
    save_trained(model, model.state_dict(), checkpoint, layout, tmp_path / "out")
    again = open_checkpoint(tmp_path / "out")
    assert again.tensors.keys() == state.keys() - {extra}
    assert len(again.files) == shards
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, state[name] * 2)
    assert (tmp_path / "out/tokenizer.json").is_file()
    assert [path.name for path in tmp_path.glob(".*")] == []


_DECODER: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2,
}  # fmt: skip
WITHOUT_BLUEPRINT: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "minimax_m2": {**_DECODER, "num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8},
    "qwen3_moe": {
        **_DECODER, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
        "head_dim": 8, "mlp_only_layers": [0],
    },
    "granitemoe": {**_DECODER, "num_local_experts": 3},
}  # fmt: skip
BUFFERS = {"gpt2": "h.1.attn.bias", "minimax_m2": "model.layers.1.self_attn.rotary_emb.inv_freq"}
"""Tensors of old files, which the classes do not save."""
SETTINGS = RecoverySettings(tokens=128, row_length=32, batch_tokens=64, learning_rate=0.01)


def write_without_blueprint(out: Path, kind: str, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A complete tiny model whose class has no blueprint; GPT-2 is as on the hub, unprefixed."""
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.CONFIG_MAPPING[kind](vocab_size=320, **special, **WITHOUT_BLUEPRINT[kind])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(out)
    path = out / "model.safetensors"
    state = {name.removeprefix("transformer."): each for name, each in load_file(path).items()}
    if kind in BUFFERS:
        state[BUFFERS[kind]] = torch.full((1, 1, 4, 4), 3.0)
    save_file(state, path, metadata={"format": "pt"})
    return add_tokenizer(out)


@pytest.mark.parametrize("kind", WITHOUT_BLUEPRINT)
def test_a_model_without_a_blueprint_is_saved_as_it_was_stored(tmp_path: Path, kind: str) -> None:
    source = write_without_blueprint(tmp_path / "m", kind)
    stored = load_file(source / "model.safetensors")
    trainee = load_trainee(ModelDirectory(source), SETTINGS, seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(trainee.model.parameters()):
            # Each value in a fused tensor differs, so that none can take the place of another.
            drawn = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.copy_(drawn.bfloat16())
    state = trainee.model.state_dict()
    out = tmp_path / "out"
    save_trained(trainee.model, state, trainee.checkpoint, trainee.layout, out)
    saved = load_file(out / "model.safetensors")
    assert {name: (each.shape, each.dtype) for name, each in saved.items()} == {
        name: (each.shape, each.dtype) for name, each in stored.items()
    }
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    again = loaded.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], each) for name, each in state.items())
    if kind in BUFFERS:
        assert torch.equal(saved[BUFFERS[kind]], stored[BUFFERS[kind]])


def test_a_table_that_the_class_computes_need_not_be_in_a_file(tmp_path: Path) -> None:
    """Marian's positions, which no training changes."""
    config = transformers.MarianConfig(
        vocab_size=40, d_model=8, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8,
        decoder_ffn_dim=8, encoder_attention_heads=2, decoder_attention_heads=2, pad_token_id=39,
        decoder_start_token_id=39,
    )  # fmt: skip
    transformers.MarianMTModel(config).save_pretrained(tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    assert not any("embed_positions" in name for name in checkpoint.tensors)
    model = transformers.MarianMTModel.from_pretrained(tmp_path / "m")
    freeze_computed(model)
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    stacks = ("encoder", "decoder")
    assert frozen == {f"model.{stack}.embed_positions.weight" for stack in stacks}
    check_weights_by_file_name(model, checkpoint, bind_checkpoint(checkpoint))


@pytest.mark.parametrize(
    ("kind", "lora"), [("gpt2", None), ("minimax_m2", None), ("minimax_m2", LoraSettings(rank=2))]
)
def test_a_model_without_a_blueprint_is_trained(
    tmp_path: Path, kind: str, lora: LoraSettings | None
) -> None:
    source = ModelDirectory(write_without_blueprint(tmp_path / "m", kind, torch.float32))
    heldout = HeldoutText(write_text(tmp_path / "heldout.jsonl", sentences(2)))
    data = RecoveryData(sentences(20), {"heldout": heldout}, {"heldout": ""}, {})
    recover(source, tmp_path / "t", SETTINGS.model_copy(update={"lora": lora}), data, seed=0)
    before, after = (load_file(each / "model.safetensors") for each in
                     (source.path, tmp_path / "t/model"))  # fmt: skip
    changed = {name for name, each in after.items() if not torch.equal(each, before[name])}
    matrices = {name for name, each in after.items() if "attn" in name and each.dim() == 2}
    assert matrices <= changed <= after.keys() - {BUFFERS[kind]}
    assert ModelDirectory(tmp_path / "t/model").layout.shapes == source.layout.shapes


@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "qwen3_moe"])
@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)], ids=["all", "lora"])
def test_experts_are_saved_as_they_were_stored(
    tmp_path: Path, model_type: str, lora: LoraSettings | None
) -> None:
    blueprint = next(each for each in BLUEPRINTS if each.model_type == model_type)
    source = ModelDirectory(write_tiny(blueprint, tmp_path / "m", vocab_size=320))
    add_tokenizer(source.path)
    heldout = HeldoutText(write_text(tmp_path / "heldout.jsonl", sentences(2)))
    data = RecoveryData(sentences(20), {"heldout": heldout}, {"heldout": ""}, {})
    recover(source, tmp_path / "t", SETTINGS.model_copy(update={"lora": lora}), data, seed=0)
    result = ModelDirectory(tmp_path / "t/model")
    before, after = (load_file(each.path / "model.safetensors") for each in (source, result))
    changed = {name for name, each in after.items() if not torch.equal(each, before[name])}
    experts = {name for name in after if ".experts." in name}
    assert len(experts) == 3 * 5 * 3
    assert experts.isdisjoint(changed) if lora else len(experts & changed) > 30
    assert result.layout.shapes == source.layout.shapes
    loaded = weights_by_name(result.load(), blueprint)
    assert all(torch.equal(loaded[name], each) for name, each in after.items())


def test_weights_that_could_not_be_saved_are_refused_before_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ModelDirectory(write_without_blueprint(tmp_path / "m", "minimax_m2"))
    reversal = "transformers.core_model_loading.revert_weight_conversion"
    with monkeypatch.context() as patch:
        patch.setattr(reversal, lambda model, state: state)
        with pytest.raises(UserError, match=r"layers\.0\.mlp\..*: MiniMaxM2ForCausalLM has it "):
            load_trainee(source, SETTINGS, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(reversal, lambda model, state: {n: each + 1 for n, each in state.items()})
        with pytest.raises(UserError, match="MiniMaxM2ForCausalLM loads other values than are st"):
            load_trainee(source, SETTINGS, seed=0)
