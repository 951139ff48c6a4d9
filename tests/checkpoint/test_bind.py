"""Odd embeddings are refused in one line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from regrow.architectures.llama import LLAMA
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
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
