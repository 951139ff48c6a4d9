"""What transformers refuses is one line that names the directory."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from regrow.architectures.t5 import T5
from regrow.checkpoint.meta_check import find_problem
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.evaluation.generation import generate_text
from regrow.models.loading import load_config, load_model, load_tokenizer
from tests.tiny import write_model, write_tiny
from tests.training.small import small_model


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m")


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_loads_decoders_and_encoder_decoders(directory: Path, tmp_path: Path) -> None:
    model = load_model(directory)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not model.training
    assert model.dtype == torch.float32
    assert load_tokenizer(directory).vocab_size == 320
    t5 = write_tiny(T5, tmp_path / "t5", dtype=torch.bfloat16)
    assert load_model(t5, dtype="auto").dtype == torch.bfloat16
    model = load_model(t5)
    assert type(model).__name__ == T5.architectures[0]
    assert model.dtype == torch.float32


CONFIGS: dict[str, dict[str, Any]] = {
    "activation": {"hidden_act": "nope"},
    "rope": {"rope_parameters": "x"},
    "rope type": {"rope_parameters": {"rope_type": "nope", "rope_theta": 1.0}},
    "dtype": {"dtype": "bogus"},
    "model type": {"model_type": "nope"},
    "size as text": {"hidden_size": "many"},
    "other sizes": {"hidden_size": 64},
    "own code": {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_refuses_a_config_in_one_line(directory: Path, changes: dict[str, Any]) -> None:
    change(directory / "config.json", **changes)
    named = re.escape(str(directory))
    with pytest.raises(UserError, match=rf"^{named}: .*cannot load \(.+\)") as e:
        load_model(directory, dtype="auto")
    assert str(e.value).isprintable()
    with pytest.raises(UserError, match=named):
        generate_text(ModelDirectory(directory), "The river", 2)


@pytest.mark.parametrize("place", [(), ("text_config",)], ids=str)
def test_code_of_the_hub_is_refused(directory: Path, place: tuple[str, ...]) -> None:
    changes: dict[str, Any] = {"attn_implementation": "someone/kernel"}
    for key in place:
        changes = {key: changes}
    change(directory / "config.json", **changes)
    with pytest.raises(UserError, match=r"config\.json: attn_implementation is 'someone/kernel'"):
        load_model(directory)


def test_pickled_weights_are_never_read(directory: Path) -> None:
    state = load_model(directory).state_dict()
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_model(directory)


TOKENIZERS: dict[str, str | None] = {
    "missing": None,
    "no JSON": "{",
    "a list": "[]",
    "no tokenizer": '{"model": {}}',
    "no such model": '{"version": "1.0", "added_tokens": [], "model": {"type": "nope"}}',
}


@pytest.mark.parametrize("content", TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_refuses_a_tokenizer_in_one_line(directory: Path, content: str | None) -> None:
    path = directory / "tokenizer.json"
    if content is None:
        path.unlink()
        (directory / "tokenizer_config.json").unlink()
    else:
        path.write_text(content)
    expected = rf"^{re.escape(str(directory))}: no tokenizer that transformers can load \(.+\); put"
    with pytest.raises(UserError, match=expected) as e:
        load_tokenizer(directory)
    assert str(e.value).isprintable()
    with pytest.raises(UserError, match=expected):
        generate_text(ModelDirectory(directory), "The river", 2)


def test_own_code_is_not_run(directory: Path) -> None:
    (directory / "own.py").write_text("raise SystemExit('ran')\n")
    change(directory / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})
    with pytest.raises(UserError, match="a config that transformers cannot load"):
        load_config(directory)


def test_generates(directory: Path, tmp_path: Path) -> None:
    assert isinstance(generate_text(ModelDirectory(directory), "The river", 3), str)
    t5 = write_tiny(T5, tmp_path / "t5")
    with pytest.raises(UserError, match=r"t5: no tokenizer that transformers can load \(no file"):
        generate_text(ModelDirectory(t5), "The river", 3)
    with pytest.raises(UserError, match="holds no token"):
        generate_text(ModelDirectory(directory), "", 3)


@pytest.mark.parametrize("value", [-1, 1 << 31])
@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_decoder_layers"])
def test_a_depth_that_no_model_has_is_refused_before_it_is_built(
    directory: Path, key: str, value: int
) -> None:
    change(directory / "config.json", **{key: value})
    message = rf"config\.json: {key} is {value}; a number of layers is wanted"
    with pytest.raises(UserError, match=message):
        load_model(directory)
    refusal = find_problem({"model_type": "llama", key: value}, "LlamaForCausalLM", {})
    assert refusal is not None
    assert "a number of layers is wanted" in refusal


def test_an_encoder_alone_is_refused(tmp_path: Path) -> None:
    """transformers would load it as a decoder, which it is not."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.BertConfig(vocab_size=40, num_attention_heads=2, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "m")
    with pytest.raises(UserError, match=r"m: BertForMaskedLM is an encoder alone, which writes no"):
        load_model(tmp_path / "m")
    config.is_decoder = True
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path / "d")
    assert type(load_model(tmp_path / "d")).__name__ == "BertLMHeadModel"


def test_weights_that_are_not_there_are_not_drawn_at_random(directory: Path) -> None:
    state = load_file(directory / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: missing"):
        load_model(directory)


@pytest.mark.parametrize(
    "name", ["model.layers.1.self_attn.q_proj.bias", "model.layers.0.mlp.down_proj.bias"]
)
def test_a_bias_that_the_config_leaves_out_is_not_passed_over(directory: Path, name: str) -> None:
    add_tensors(directory, {name: torch.zeros(8), name.replace("bias", "extra"): torch.zeros(8)})
    message = (
        rf"{re.escape(name)}: in the files, but LlamaForCausalLM has no such parameter with this"
    )
    with pytest.raises(UserError, match=message):
        load_model(directory)
    with pytest.raises(UserError, match=message):
        generate_text(ModelDirectory(directory), "The river", 2)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq", "score.weight"]),
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("gpt_neox", ["gpt_neox.layers.0.attention.bias"]),
    ],
)
def test_buffers_and_other_heads_may_be_left_over(
    tmp_path: Path, family: str, names: list[str]
) -> None:
    small_model(family).save_pretrained(tmp_path)
    add_tensors(tmp_path, {name: torch.zeros(8) for name in names})
    load_model(tmp_path)


def add_tensors(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = directory / "model.safetensors"
    save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})


def test_a_wrong_value_of_the_tokenizer_is_seen_when_it_is_loaded(directory: Path) -> None:
    change(directory / "tokenizer_config.json", model_max_length="x")
    with pytest.raises(UserError, match="no tokenizer that transformers can load"):
        load_tokenizer(directory)


@pytest.mark.parametrize("changes", [{"repetition_penalty": "x"}, {"min_length": "x"}])
def test_a_generation_config_that_is_refused_is_one_line(
    directory: Path, changes: dict[str, Any]
) -> None:
    change(directory / "generation_config.json", **changes)
    with pytest.raises(UserError) as caught:
        generate_text(ModelDirectory(directory), "The river", 2)
    assert str(caught.value).isprintable()
    assert str(directory) in str(caught.value)
