"""A model that reads text by text while it trains on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from regrow.attention import TEXT_BY_TEXT
from regrow.objectives.examples_apart import states_of_shared_rows
from regrow.objectives.head import hidden_states

_APART = 1e-3
"""Of float32, what is another model's."""


def can_read_text_by_text(model: Any, device: torch.device) -> bool:
    """Whether attention on this device can be that of `regrow.attention`, with the model the same.

    On a CPU, where it is torch's (`sdpa`) and does no more than that: no windows, relative
    positions, soft-caps.
    """
    own = model.config._attn_implementation
    if device.type != "cpu" or own != "sdpa":
        return False
    was_training = model.training
    model.eval()
    try:
        expected = _states(model)
        with text_by_text(model, True):
            found = _states(model)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
        return False  # it takes no mask of ours, or passes what is not known there
    finally:
        model.train(was_training)
    return bool((found - expected).norm() <= _APART * expected.norm())


@contextmanager
def text_by_text(model: Any, wanted: bool) -> Iterator[None]:
    """Inside, the model's attention is that of `regrow.attention`, where that is wanted."""
    if not wanted:
        yield
        return
    own = model.config._attn_implementation
    model.set_attn_implementation(TEXT_BY_TEXT)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


@torch.no_grad()
def _states(model: Any) -> Tensor:
    """What the head reads of two texts in a row; of an encoder-decoder, with empty slots behind."""
    texts = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    with torch.autocast("cpu", enabled=False):
        if not model.config.is_encoder_decoder:
            positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
            return hidden_states(model, input_ids=positions + texts, position_ids=positions)
        sources = torch.tensor([[0, 0, 1, 1, 1, -1]])
        batch = {
            "input_ids": torch.arange(6)[None],
            "source_texts": sources,
            "decoder_input_ids": torch.arange(8)[None],
            "target_texts": torch.cat([texts, torch.tensor([[-1]])], dim=1),
        }
        return states_of_shared_rows(model, batch)[:, :-1]
