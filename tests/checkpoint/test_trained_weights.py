"""Trained weights are written in the files of the checkpoint before training."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.reader import open_checkpoint
from regrow.checkpoint.trained_weights import save_trained
from tests.tiny import write_model


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
    save_trained(model.state_dict(), checkpoint, bind_checkpoint(checkpoint), tmp_path / "out")
    again = open_checkpoint(tmp_path / "out")
    assert again.tensors.keys() == state.keys() - {extra}
    assert len(again.files) == shards
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, state[name] * 2)
    assert (tmp_path / "out/tokenizer.json").is_file()
    assert [path.name for path in tmp_path.glob(".*")] == []
