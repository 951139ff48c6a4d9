"""Use document attention (`regrow.models.document_attention`) while a model trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from regrow.common.precision import Precision, weights_dtype
from regrow.models.document_attention import DOCUMENT_ATTENTION, attention_method
from regrow.models.varlen_attention import supports_varlen
from regrow.objectives.losses.head import hidden_states
from regrow.objectives.losses.shared_row_attention import states_of_shared_rows

_HEAD_COUNTS = ("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads")
_TOLERANCE = 1e-3
"""Largest relative difference in float32 between the model's own attention and this one."""


def supports_document_attention(model: Any, device: torch.device, precision: Precision) -> bool:
    """Whether document attention can replace a model's own attention on this device.

    The model must use torch's attention (`sdpa`) and nothing beyond it: no sliding window, relative
    positions or soft-cap. On CUDA, the varlen kernel must also support the model's heads in this
    precision. The outputs of both attentions are compared in float32.
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
        expected = _probe_states(model)
        with using_document_attention(model, True):
            found = _probe_states(model)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
        return False  # it does not accept the mask, or passes arguments that are not supported
    finally:
        model.train(was_training)
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())


def _has_kernel(model: Any, device: torch.device, precision: Precision) -> bool:
    dtype = weights_dtype(precision, device)
    if attention_method(device.type, dtype, 0.0) != "varlen":
        return False
    is_encoder_decoder = model.config.is_encoder_decoder
    config = model.config if is_encoder_decoder else model.config.get_text_config()
    head_counts = {int(getattr(config, name, 0)) for name in _HEAD_COUNTS} - {0}
    for heads in head_counts:
        group_size = heads // (getattr(config, "num_key_value_heads", None) or heads)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        if not supports_varlen(device, dtype, heads, group_size, head_dim):
            return False
    return bool(head_counts)


@contextmanager
def using_document_attention(model: Any, enabled: bool) -> Iterator[None]:
    """Context manager: the model uses document attention."""
    if not enabled:
        yield
        return
    own = model.config._attn_implementation
    model.set_attn_implementation(DOCUMENT_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


@torch.no_grad()
def _probe_states(model: Any) -> Tensor:
    """The head's inputs for one row of two texts; an encoder-decoder also has empty slots."""
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
