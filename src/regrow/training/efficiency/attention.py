"""A model that reads text by text while it trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from regrow.common.precision import Precision, resolve_precision
from regrow.models.document_attention import TEXT_BY_TEXT, way_of
from regrow.models.varlen_attention import computes
from regrow.objectives.losses.head import hidden_states
from regrow.objectives.losses.shared_row_attention import states_of_shared_rows

_HEADS = ("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads")
_APART = 1e-3
"""Of float32, what is another model's."""


def can_read_text_by_text(model: Any, device: torch.device, precision: Precision) -> bool:
    """Whether `regrow.models.document_attention` can replace a model's attention on this device.

    Where it is torch's (`sdpa`) and does no more than that: no windows, relative positions,
    soft-caps. On CUDA, where the kernel for texts of any length computes the heads of the model in
    this precision. The model itself is tried in float32.
    """
    if model.config._attn_implementation != "sdpa":
        return False
    if device.type not in ("cpu", "cuda"):
        return False
    if device.type == "cuda" and not _has_kernel(model, device, precision):
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


def _has_kernel(model: Any, device: torch.device, precision: Precision) -> bool:
    dtype = torch.bfloat16 if resolve_precision(precision, device) == "bf16" else torch.float32
    if way_of(device.type, dtype, 0.0) != "one line":
        return False
    both = model.config.is_encoder_decoder
    config = model.config if both else model.config.get_text_config()
    known = {int(getattr(config, name, 0)) for name in _HEADS} - {0}
    for heads in known:
        groups = heads // (getattr(config, "num_key_value_heads", None) or heads)
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        if not computes(device, dtype, heads, groups, size):
            return False
    return bool(known)


@contextmanager
def text_by_text(model: Any, wanted: bool) -> Iterator[None]:
    """Use `regrow.models.document_attention` as the model's attention inside the context."""
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
    device = next(model.parameters()).device
    texts = torch.tensor([[0, 0, 0, 1, 1, 1, 1]], device=device)
    with torch.autocast(device.type, enabled=False):
        if not model.config.is_encoder_decoder:
            positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=device)
            return hidden_states(model, input_ids=positions + texts, position_ids=positions)
        batch = {
            "input_ids": torch.arange(6, device=device)[None],
            "source_texts": torch.tensor([[0, 0, 1, 1, 1, -1]], device=device),
            "decoder_input_ids": torch.arange(8, device=device)[None],
            "target_texts": nn.functional.pad(texts, (0, 1), value=-1),
        }
        return states_of_shared_rows(model, batch)[:, :-1]
