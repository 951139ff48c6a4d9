"""The recipes of the demo and of a better half, and the script that writes what they read."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.pipeline.preview import preview_recipe
from regrow.pipeline.recipe_file import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
SCRIPT = RECIPES / "prepare_quickstart.py"
SMOLLM2 = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576,
    "intermediate_size": 1_536, "num_attention_heads": 9, "num_key_value_heads": 3,
    "num_hidden_layers": 30, "vocab_size": 49_152, "tie_word_embeddings": True,
    "max_position_embeddings": 8_192, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_quickstart", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(st.dictionaries(st.text(max_size=3), st.sampled_from("abcdefgh"), max_size=40))
def test_no_text_is_both_trained_on_and_held_out(script: ModuleType, texts: dict[str, str]) -> None:
    """Topics of CPython have texts in common: `else` and `if`."""
    train, heldout = script.split(texts)
    assert heldout == sorted(texts)[7::8]
    seen = {texts[name] for name in heldout}
    assert train == [name for name in sorted(texts) if texts[name] not in seen]
    assert seen.isdisjoint(texts[name] for name in train)


@pytest.mark.parametrize("name", ["quickstart", "half"])
def test_the_recipes_leave_half_of_smollm2(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    found = preview_recipe(load_recipe(RECIPES / f"{name}.yaml"), ModelDirectory(tmp_path))
    assert found.original.parameters == 134_515_008
    assert 0.49 < found.stages[-1].parameters / found.original.parameters <= 0.5
