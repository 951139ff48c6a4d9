"""A config without weights gives the same layout as its checkpoint."""

import json
from pathlib import Path

import pytest

from regrow.architectures import Blueprint
from regrow.checkpoint.bind import parameters_counted_once
from regrow.checkpoint.config_only import bind_config, is_config_only, stored_dtype
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.surgery.inspection import inspect_model
from tests.cuts.random_cuts import TINY, TINY_IDS
from tests.tiny import tiny_layout, write_tiny


def without_weights(directory: Path) -> Path:
    (directory / "model.safetensors").unlink()
    return directory


@pytest.mark.parametrize(("blueprint", "number"), TINY, ids=TINY_IDS)
def test_the_same_as_with_weights(tmp_path: Path, blueprint: Blueprint, number: int) -> None:
    directory = write_tiny(blueprint, tmp_path / "m", number)
    full = inspect_model(ModelDirectory(directory))
    with_weights = ModelDirectory(directory).layout
    alone = inspect_model(ModelDirectory(without_weights(directory)))
    layout = bind_config(directory)
    assert {n: t.dims for n, t in layout.tensors.items()} == {
        n: t.dims for n, t in with_weights.tensors.items()
    }
    assert layout.tied == with_weights.tied
    assert (full.fingerprint is None, alone.fingerprint) == (False, None)
    for name in ("parameters", "parameters_counted_once", "parts", "axes", "fixed", "dtypes"):
        assert getattr(alone, name) == getattr(full, name), name


@pytest.mark.parametrize(("blueprint", "number"), TINY, ids=TINY_IDS)
def test_counted_once_is_without_the_head(blueprint: Blueprint, number: int) -> None:
    layout = tiny_layout(blueprint, number)
    head = [t.shape for t in layout.tensors.values() if t.parameter == blueprint.head.weight]
    twice = 0 if layout.tied or not head else head[0][0] * head[0][1]
    assert layout.parameters() - parameters_counted_once(layout) == twice


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "m.gguf"]
)
def test_a_directory_with_weights_is_more_than_a_config(tmp_path: Path, name: str) -> None:
    assert not is_config_only(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert is_config_only(tmp_path)
    (tmp_path / name).touch()
    assert not is_config_only(tmp_path)


def written(tmp_path: Path, **changes: object) -> Path:
    blueprint = TINY[0][0]
    config = {**blueprint.tiny[0], **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_the_type_of_the_config(tmp_path: Path) -> None:
    for changes, wanted in (
        ({}, ("F32", 4)),
        ({"dtype": "bfloat16"}, ("BF16", 2)),
        ({"torch_dtype": "float16"}, ("F16", 2)),
    ):
        assert stored_dtype(bind_config(written(tmp_path, **changes))) == wanted
    with pytest.raises(UserError, match=r"config.json: dtype: int4: bfloat16, float16, float32 is"):
        stored_dtype(bind_config(written(tmp_path, dtype="int4")))


def test_what_the_class_refuses_is_one_line(tmp_path: Path) -> None:
    directory = written(tmp_path, num_hidden_layers=-1)
    with pytest.raises(UserError, match=r"^.*config\.json: .*$") as error:
        inspect_model(ModelDirectory(directory))
    assert "\n" not in str(error.value)
