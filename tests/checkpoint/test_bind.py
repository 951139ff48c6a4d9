"""Embeddings and heads that a file stores twice, or with an odd shape."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from regrow.architectures import Blueprint
from regrow.architectures.bart import BART
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.llama import LLAMA
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.checkpoint.trained_weights import save_trained
from regrow.common.errors import UserError
from regrow.models.loading import load_model
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint
from tests.tiny import write_tiny


@pytest.mark.parametrize("shape", [(), (0,), (0, 32), (320, 0), (320,)], ids=str)
def test_an_embedding_and_a_head_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = write_tiny(LLAMA, tmp_path / "m", 1, tie_word_embeddings=True)
    state = load_file(source / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.zeros(shape)
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"embed_tokens\.weight|lm_head\.weight") as caught:
        bind_checkpoint(open_checkpoint(source))
    assert str(caught.value).isprintable()


def with_copies(directory: Path, **changes: Any) -> Path:
    """A tiny OpenBA whose file also holds the embedding for each stack; `changes`: other rows."""
    source = write_tiny(OPENBA, directory)
    state = load_file(source / "model.safetensors")
    shared = state["shared_embedding.weight"]
    for stack in ("encoder", "decoder"):
        state[f"{stack}.embed_tokens.weight"] = changes.get(stack, shared).clone()
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    return source


def test_copies_of_the_embedding_that_the_class_ignores_are_dropped(tmp_path: Path) -> None:
    source = with_copies(tmp_path / "m")
    checkpoint = open_checkpoint(source)
    layout = bind_checkpoint(checkpoint)
    assert layout.ignored == ("decoder.embed_tokens.weight", "encoder.embed_tokens.weight")
    plain = bind_checkpoint(open_checkpoint(write_tiny(OPENBA, tmp_path / "plain")))
    assert layout.parameters() == plain.parameters()
    cut = CutSpec(layers={"decoder": 2}, by="random")
    pruned = prune_checkpoint(ModelDirectory(source), tmp_path / "cut", cut)
    assert sum("embed_tokens.weight: dropped" in note for note in pruned.notes) == 2
    model = load_model(source)
    state = model.state_dict()
    save_trained(model, state, checkpoint, layout, tmp_path / "trained")
    for made in ("cut", "trained"):
        stored = load_file(tmp_path / made / "model.safetensors")
        assert not any("embed_tokens" in name for name in stored)
        assert torch.equal(stored["shared_embedding.weight"], state["shared_embedding.weight"])


@pytest.mark.parametrize("rows", [61, 60])
def test_a_copy_that_differs_from_the_embedding_is_refused(tmp_path: Path, rows: int) -> None:
    source = with_copies(tmp_path / "m", decoder=torch.ones(rows, 24))
    with pytest.raises(UserError, match=r"decoder\.embed_tokens\.weight differs from shared_emb"):
        bind_checkpoint(open_checkpoint(source))


@pytest.mark.parametrize(
    ("blueprint", "number", "stored"),
    [
        (LLAMA, 1, "lm_head.weight"),
        (GEMMA2, 0, "lm_head.weight"),
        (BART, 0, "lm_head.weight"),
        (T5, 0, "decoder.embed_tokens.weight"),
        (OPENBA, 1, "lm_head.weight"),
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_an_embedding_under_another_of_its_names_gets_its_own(
    tmp_path: Path, blueprint: Blueprint, number: int, stored: str
) -> None:
    """safetensors stores a shared tensor once, under the first of its names."""
    source = write_tiny(blueprint, tmp_path / "m", number)
    plain = ModelDirectory(source)
    again = shutil.copytree(source, tmp_path / "again")
    save_model(load_model(source), str(again / "model.safetensors"), metadata={"format": "pt"})
    other = ModelDirectory(again)
    name = blueprint.head.embedding
    assert other.layout.tensors[stored].parameter == name
    assert name not in other.layout.tensors
    assert other.layout.parameters() == plain.layout.parameters()
    assert other.layout.tied == plain.layout.tied
    cut = CutSpec(layers={"decoder": 2} if blueprint.is_encoder_decoder else 2, by="random")
    for each, out in ((plain, tmp_path / "one"), (other, tmp_path / "two")):
        prune_checkpoint(each, out, cut)
    one, two = (load_file(tmp_path / out / "model.safetensors") for out in ("one", "two"))
    assert torch.equal(one[name], two[name])
    assert stored not in two
    compare = load_model(tmp_path / "two").state_dict()
    for key, value in load_model(tmp_path / "one").state_dict().items():
        assert torch.equal(compare[key], value)
    state = load_model(again).state_dict()
    save_trained(load_model(again), state, other.checkpoint, other.layout, tmp_path / "trained")
    trained = load_model(tmp_path / "trained").state_dict()
    assert all(torch.equal(trained[key], value) for key, value in state.items())


def test_a_head_is_no_embedding_where_the_config_does_not_tie_them(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "m", 0, tie_word_embeddings=False)
    state = load_file(source / "model.safetensors")
    del state["model.embed_tokens.weight"]
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight: missing"):
        bind_checkpoint(open_checkpoint(source))
