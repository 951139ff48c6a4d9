"""Attention in rows that several examples share; each example is computed as if it were alone.

Masks keep the examples apart: a slot sees only slots of its own example. For each micro-batch there
is a mask for the encoder, one for the decoder, and one for cross-attention. The form of the mask
depends on the attention implementation:

- `document_attention` (`regrow.models.document_attention`): the lengths of the examples.
- `sdpa`: a boolean tensor. On CUDA the memory-efficient kernel takes it and computes whole rows.
- `eager`: a tensor that is added to the scores.
- `flex_attention`: a block mask. Blocks between examples are not computed.

flash_attention_2 of transformers is not supported: it takes one division into texts for a whole
stack, but a decoder needs a second one for cross-attention.

If a stack takes positions (OpenBA), they restart with each example. The relative positions of T5
need only the mask, because the slots of an example follow each other. For the same reason a sliding
window, as some layers of T5Gemma have it, is counted along the row.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import (
    sliding_window_bidirectional_overlay,
    sliding_window_overlay,
)

from regrow.common.errors import UserError, one_line
from regrow.corpus.packing import NOT_PREDICTED
from regrow.models.document_attention import DOCUMENT_ATTENTION, dense_mask, text_mask
from regrow.objectives.losses.loss import TensorBatch
from regrow.objectives.rows.examples import NO_TEXT

_Near = Callable[[Any, Any, Any, Any], Any]


def states_of_shared_rows(model: Any, batch: TensorBatch) -> Tensor:
    """The head's inputs, [rows, target width, hidden].

    `batch`: as from `regrow.objectives.rows.shared_rows.place_in_rows`.
    """
    sources, targets = batch["source_texts"], batch["target_texts"]
    encoder, decoder = model.get_encoder(), model.get_decoder()
    # Masks first: reading the lengths of texts waits for the device, which is idle now.
    among_sources = self_mask(encoder, sources, is_causal=False)
    among_targets = self_mask(decoder, targets, is_causal=True)
    between = slot_mask(decoder, targets, sources)
    source = encoder(
        input_ids=batch["input_ids"],
        attention_mask=among_sources,
        **restarting_positions(encoder, sources),
    )
    hidden: Tensor = decoder(
        input_ids=batch["decoder_input_ids"],
        attention_mask=among_targets,
        encoder_hidden_states=source.last_hidden_state,
        encoder_attention_mask=between,
        use_cache=False,
        **restarting_positions(decoder, targets),
    ).last_hidden_state
    return hidden


def one_example_per_row(batch: TensorBatch) -> TensorBatch:
    """Padded examples in the form of a batch of `place_in_rows`, one example in each row.

    `batch`: as from `regrow.objectives.rows.examples.write_examples`.
    """
    source, target = batch["attention_mask"] > 0, batch["labels"] != NOT_PREDICTED
    return {
        **batch,
        "source_texts": torch.where(source, 0, NO_TEXT),
        "target_texts": torch.where(target, 0, NO_TEXT),
    }


def self_mask(stack: Any, examples: Tensor, *, is_causal: bool) -> Any:
    """The mask of a stack's self-attention, by kind of layer if some layers have a sliding window.

    `examples`: the example of each slot, [rows, width].
    """
    full = slot_mask(stack, examples, examples, is_causal=is_causal)
    if (window := _sliding_window(stack)) is None:
        return full
    overlay = sliding_window_overlay if is_causal else sliding_window_bidirectional_overlay
    near = slot_mask(stack, examples, examples, is_causal=is_causal, near=overlay(window))
    return {"full_attention": full, "sliding_attention": near}


def slot_mask(
    stack: Any, queries: Tensor, keys: Tensor, *, is_causal: bool = False, near: _Near | None = None
) -> Any:
    """The mask between slots of the same example.

    `queries`, `keys`: the example of each slot, [rows, width]. `near`: whether a key is near enough
    to a query, in the form of transformers' mask functions; queries and keys are then the same
    slots.
    """
    attention = stack.config._attn_implementation
    if attention == DOCUMENT_ATTENTION and near is None:
        return text_mask(queries, keys, is_causal=is_causal)
    if attention == "flex_attention":
        return _block_mask(queries, keys, is_causal, near)
    seen = dense_mask(queries, keys, is_causal=is_causal)
    if near is not None:
        places = torch.arange(queries.shape[1], device=queries.device)
        # A slot is near itself, so an empty one still sees a key.
        seen = seen & near(0, 0, places[:, None], places)
    if attention in ("sdpa", DOCUMENT_ATTENTION):
        return seen
    dtype = next(stack.parameters()).dtype
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
        ~seen, torch.finfo(dtype).min
    )


def _block_mask(queries: Tensor, keys: Tensor, is_causal: bool, near: _Near | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        example = queries[row, query]
        seen = (example == keys[row, key]) | (example == NO_TEXT)
        if near is not None:
            seen = seen & near(row, head, query, key)
        return seen & (query >= key) if is_causal else seen

    return create_block_mask(
        sees, len(queries), None, queries.shape[1], keys.shape[1], device=str(queries.device)
    )


def _sliding_window(stack: Any) -> int | None:
    """How far some layers of a stack see; None if all see all."""
    config = stack.config.get_text_config()
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return None
    window: int | None = config.sliding_window
    return window


def restarting_positions(stack: nn.Module, examples: Tensor) -> dict[str, Tensor]:
    """Positions that restart with each example, if the stack takes positions."""
    if "position_ids" not in inspect.signature(stack.forward).parameters:
        return {}
    places = torch.arange(examples.shape[1], device=examples.device)
    begins = torch.ones_like(examples, dtype=torch.bool)
    begins[:, 1:] = examples[:, 1:] != examples[:, :-1]
    return {"position_ids": places - torch.where(begins, places, 0).cummax(dim=1).values}


_SOURCES, _TARGETS = (3, 4), (4, 3)
_WITH_WINDOWS = ("t5_gemma_module",)
"""Stacks whose windows are those of `self_mask`, by the type in their config."""


def supports_shared_rows(model: Any) -> bool:
    """Whether a model computes an example in a shared row as if it were alone."""
    try:
        check_shared_rows(model)
    except UserError:
        return False
    return True


def check_shared_rows(model: Any) -> None:
    """Raise UserError unless a model computes an example in a shared row as if it were alone."""
    for stack in (model.get_encoder(), model.get_decoder()):
        has_window = _sliding_window(stack) is not None
        if has_window and stack.config.model_type not in _WITH_WINDOWS:
            raise UserError(_unable(model, "its sliding window is not known"))
    device = next(model.parameters()).device

    def row(*examples: int) -> TensorBatch:
        """A row of one or both of two examples, and one empty slot."""
        found = {}
        for ids, name, lengths in (
            ("input_ids", "source_texts", _SOURCES),
            ("decoder_input_ids", "target_texts", _TARGETS),
        ):
            of_each = [torch.full((lengths[example],), example) for example in examples]
            numbers = torch.cat([*of_each, torch.tensor([NO_TEXT])])[None].to(device)
            counted = [torch.arange(lengths[example]) + 5 * example for example in examples]
            found[ids] = torch.cat([*counted, torch.zeros(1, dtype=torch.long)])[None].to(device)
            found[name] = numbers
        return found

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            together = states_of_shared_rows(model, row(0, 1))[0, :-1]
            alone = [states_of_shared_rows(model, row(each))[0, :-1] for each in (0, 1)]
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise UserError(_unable(model, one_line(str(error)))) from error
    finally:
        model.train(was_training)
    expected = torch.cat(alone).float()
    difference = (together.float() - expected).norm() / expected.norm()
    # `not <` also refuses NaN.
    if not difference < (1e-4 if together.dtype == torch.float32 else 3e-2):
        raise UserError(_unable(model, "they see each other"))


def _unable(model: nn.Module, reason: str) -> str:
    return (
        f"{type(model).__name__}: cannot keep examples in one row apart ({reason}); "
        "give shared_rows: false"
    )
