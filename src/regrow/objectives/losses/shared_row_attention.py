"""Read rows that several examples share, each as if it were alone.

What keeps them apart is one boolean mask for the encoder, one for the decoder and one between
them, made for each micro-batch: a slot sees slots of its own example. Each kind of attention takes
this mask in its own form: `text_by_text` (`regrow.models.document_attention`) as lengths, `sdpa`
(on CUDA the memory-efficient kernel, which computes all of a row) and `eager` as a tensor,
`flex_attention` as blocks, of which those between examples are not computed. flash_attention_2 of
transformers cannot take it: it passes one division into texts to a whole stack, and a decoder needs
a second for its cross-attention.

Positions begin again with each example where a stack takes them (OpenBA). The relative positions
of T5 need no more than the mask: they are differences, and an example is one run of slots.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED
from regrow.models.document_attention import TEXT_BY_TEXT, seen_slots, texts_mask
from regrow.objectives.losses.objective import TensorBatch
from regrow.objectives.rows.examples import NO_TEXT


def states_of_shared_rows(model: Any, batch: TensorBatch) -> Tensor:
    """What the head reads, [rows, target width, hidden].

    `batch`: as `regrow.objectives.rows.shared_rows.lay_out` has it.
    """
    sources, targets = batch["source_texts"], batch["target_texts"]
    encoder, decoder = model.get_encoder(), model.get_decoder()
    # Lengths of texts are read from the device: before it has anything to do.
    among_sources = _mask(encoder, sources, sources)
    among_targets = _mask(decoder, targets, targets, is_causal=True)
    between = _mask(decoder, targets, sources)
    source = encoder(
        input_ids=batch["input_ids"],
        attention_mask=among_sources,
        **_positions(encoder, sources),
    )
    hidden: Tensor = decoder(
        input_ids=batch["decoder_input_ids"],
        attention_mask=among_targets,
        encoder_hidden_states=source.last_hidden_state,
        encoder_attention_mask=between,
        use_cache=False,
        **_positions(decoder, targets),
    ).last_hidden_state
    return hidden


def alone_in_rows(batch: TensorBatch) -> TensorBatch:
    """Padded examples in the form of `lay_out`, one in each row.

    `batch`: as `regrow.objectives.rows.examples.write_examples` makes it.
    """
    source, target = batch["attention_mask"] > 0, batch["labels"] != NOT_PREDICTED
    return {
        **batch,
        "source_texts": torch.where(source, 0, NO_TEXT),
        "target_texts": torch.where(target, 0, NO_TEXT),
    }


def _mask(stack: Any, queries: Tensor, keys: Tensor, *, is_causal: bool = False) -> Any:
    """Which slots see which, by the examples that they are of; [rows, width] each."""
    attention = stack.config._attn_implementation
    if attention == TEXT_BY_TEXT:
        return texts_mask(queries, keys, is_causal=is_causal)
    if attention == "flex_attention":
        return _block_mask(queries, keys, is_causal)
    seen = seen_slots(queries, keys, is_causal=is_causal)
    if attention == "sdpa":
        return seen
    dtype = next(stack.parameters()).dtype
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
        ~seen, torch.finfo(dtype).min
    )


def _block_mask(queries: Tensor, keys: Tensor, is_causal: bool) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        example = queries[row, query]
        seen = (example == keys[row, key]) | (example == NO_TEXT)
        return seen & (query >= key) if is_causal else seen

    return create_block_mask(
        sees, len(queries), None, queries.shape[1], keys.shape[1], device=str(queries.device)
    )


def _positions(stack: nn.Module, examples: Tensor) -> dict[str, Tensor]:
    """Positions that begin again with each example, if the stack takes any."""
    if "position_ids" not in inspect.signature(stack.forward).parameters:
        return {}
    places = torch.arange(examples.shape[1], device=examples.device)
    begins = torch.ones_like(examples, dtype=torch.bool)
    begins[:, 1:] = examples[:, 1:] != examples[:, :-1]
    return {"position_ids": places - torch.where(begins, places, 0).cummax(dim=1).values}


_SOURCES, _TARGETS = (3, 4), (4, 3)


def keeps_apart(model: Any) -> bool:
    """Whether an example in a shared row is read as it is alone."""
    try:
        check_apart(model)
    except UserError:
        return False
    return True


def check_apart(model: Any) -> None:
    """Raise UserError where an example in a shared row is not read as it is alone."""
    device = next(model.parameters()).device

    def row(*examples: int) -> TensorBatch:
        """Some of two examples, with one empty slot."""
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
        raise UserError(_unable(model, " ".join(str(error).split()))) from error
    finally:
        model.train(was_training)
    expected = torch.cat(alone).float()
    difference = (together.float() - expected).norm() / expected.norm()
    # Written so that a difference that is not a number is a difference.
    if not difference < (1e-4 if together.dtype == torch.float32 else 3e-2):
        raise UserError(_unable(model, "they see each other"))


def _unable(model: nn.Module, reason: str) -> str:
    return (
        f"{type(model).__name__}: cannot keep examples in one row apart ({reason}); "
        "give shared_rows: false"
    )
