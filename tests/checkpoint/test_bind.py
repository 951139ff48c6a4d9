"""Embeddings and heads that a file stores twice, or with an odd shape."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from regrow.architectures.llama import LLAMA
from regrow.architectures.openba import OPENBA
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
