"""Models of families without a blueprint of their own are cut along all axes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import regrow
from regrow.models.networks import config_class, model_class
from tests.checkpoint.test_derivation import DERIVED, config
from tests.tiny import add_tokenizer, sentences, write_model, write_text


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.jsonl", sentences(60, seed=1))


def as_smollm3(llama: Path, out: Path) -> Path:
    """The same network and weights as a SmolLM3 whose layers all have rotary positions."""
    shutil.copytree(llama, out)
    values = json.loads((out / "config.json").read_text())
    values |= {
        "model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"],
        "no_rope_layers": [1] * values["num_hidden_layers"], "rope_theta": 10_000.0,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(values))
    return out


def test_a_cut_has_the_bytes_that_a_written_blueprint_gives(tmp_path: Path, text: Path) -> None:
    llama = write_model(tmp_path / "llama")
    smollm3 = as_smollm3(llama, tmp_path / "smollm3")
    options: dict[str, Any] = {
        "layers": 3, "ffn": 32, "hidden": 24, "vocab_size": 300, "calibration": text,
        "calibration_tokens": 1_024, "refit_passes": 1,
    }  # fmt: skip
    found = [regrow.prune(each, f"{each}-cut", **options) for each in (llama, smollm3)]
    assert found[0].cut.axes == found[1].cut.axes
    one, other = (load_file(f"{each}-cut/model.safetensors") for each in (llama, smollm3))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    written = json.loads((tmp_path / "smollm3-cut/config.json").read_text())
    assert written["no_rope_layers"] == [1, 1, 1]


def write_family(name: str, architecture: str, out: Path, **flags: Any) -> Path:
    values = config(name, architecture, {"vocab_size": 320, **flags})
    built = config_class(name).from_dict({k: v for k, v in values.items() if k != "model_type"})
    model_class(architecture)(built).save_pretrained(out)
    return add_tokenizer(out)


def test_a_family_whose_hidden_cannot_be_cut(tmp_path: Path, text: Path) -> None:
    """OLMo's norms have no weights; it adds to the stream as Llama does."""
    source = write_family("olmo", "OlmoForCausalLM", tmp_path / "m")
    found = regrow.inspect(source)
    assert found.derived
    assert "hidden" not in [axis.name for axis in found.axes]
    with pytest.raises(regrow.UserError, match=r"^hidden: olmo has no such axis, or none that"):
        regrow.prune(source, tmp_path / "none", hidden=48)
    made = regrow.prune(
        source, tmp_path / "cut", layers=5, ffn=32, calibration=text, calibration_tokens=1_024,
        refit_passes=1,
    )  # fmt: skip
    assert "refitted" in (tmp_path / "cut/README.md").read_text()
    assert made.parameters < found.parameters
    regrow.plan(source, params="60%")
    regrow.plan(source, params="60%", text=text)


def test_why_only_the_vocabulary_can_be_cut(tmp_path: Path) -> None:
    values = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 24, "n_head": 4}
    (tmp_path / "config.json").write_text(json.dumps(values))
    found = regrow.inspect(tmp_path)
    assert (found.vocabulary_only, found.derived) == (True, False)
    assert found.why_vocabulary_only == "GPT2LMHeadModel has no field for the size of a head"


@pytest.mark.parametrize("name", ["cohere2", "gemma", "glm4", "olmo3", "smollm3"])
def test_all_axes_are_cut_and_the_model_trains(name: str, tmp_path: Path, text: Path) -> None:
    architecture, flags, _ = DERIVED[name]
    write_family(name, architecture, tmp_path / "m", **flags)
    assert regrow.inspect(tmp_path / "m").derived
    sizes: dict[str, Any] = {"layers": 5, "ffn": 32, "hidden": 48, "heads": 2}
    regrow.prune(
        tmp_path / "m", tmp_path / "cut", calibration=text, calibration_tokens=1_024, **sizes
    )
    recipe = regrow.training_recipe(
        tmp_path / "cut", text, tokens=256, row_length=32, batch_tokens=128
    )
    regrow.train(recipe, tmp_path / "trained")
    for place in ("cut", "trained/model"):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / place, output_loading_info=True
        )
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert type(model).__name__ == architecture
        smaller = model.config
        assert (smaller.num_hidden_layers, smaller.intermediate_size) == (5, 32)
        assert (smaller.hidden_size, smaller.num_attention_heads) == (48, 2)
        assert smaller.head_dim == 16
        with torch.no_grad():
            assert model(torch.arange(3, 40)[None]).logits.isfinite().all()
