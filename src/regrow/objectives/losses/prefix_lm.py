"""Prefix-LM: a decoder predicts the rest of a row from a prefix."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from regrow.common.errors import UserError, one_line
from regrow.corpus.packing import NOT_PREDICTED
from regrow.objectives.losses.head import check_head, head_of, hidden_states
from regrow.objectives.losses.loss import TensorBatch
from regrow.objectives.rows.single_row import NOT_IN_PREFIX

PrefixAttention = Literal["causal", "bidirectional"]
_CHECKED_TOKENS = 6


class PrefixLM:
    """Next-token prediction in rows with prefixes (`PrefixRows`, `ConcatenatedPairs`).

    `prefix`: attention within a prefix. ``causal`` is what a decoder was trained with and what it
    does when it generates. ``bidirectional`` is the prefix-LM of T5 and UL2; such a model must be
    given the same mask when it is used (`prefix_mask`).
    """

    def __init__(self, prefix: PrefixAttention) -> None:
        self.prefix = prefix

    @property
    def identity(self) -> str:
        return f"prefix-lm {self.prefix}"

    def check(self, model: nn.Module) -> None:
        check_head(model)
        if self.prefix == "bidirectional":
            _check_mask(model)

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        hidden, targets = self.predicted(model, batch)
        return head_of(model).loss(hidden, targets)

    def predicted(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """The head's inputs at predicted tokens, and the tokens; see `TokenLoss`."""
        masks: dict[str, Any] = {}
        if self.prefix == "bidirectional":
            masks["attention_mask"] = prefix_mask(model, batch["position_ids"], batch["blocks"])
        hidden = hidden_states(
            model, input_ids=batch["input_ids"], position_ids=batch["position_ids"], **masks
        )
        predicts = batch["labels"] != NOT_PREDICTED
        return hidden[predicts], batch["labels"][predicts]


def prefix_mask(model: Any, position_ids: Tensor, blocks: Tensor) -> Any:
    """The attention mask of a batch: bidirectional within a prefix, and causal elsewhere.

    Attention stays within a document of a row. Documents begin where positions restart.

    Args:
        model: Decides the form of the mask.
        position_ids: [batch, tokens].
        blocks: A number for each prefix of a row, and `NOT_IN_PREFIX`; [batch, tokens].

    Returns:
        A mask that transformers takes as ``attention_mask`` and does not change. If layers have
        different kinds of attention, a mask for each kind by name.

    Raises:
        UserError: a kind of attention cannot be bidirectional within a prefix.
    """
    from transformers import masking_utils

    config = model.base_model.config
    given = {
        "config": config,
        # Only its shape, dtype and device are used.
        "inputs_embeds": torch.empty(
            *position_ids.shape, 1, dtype=model.dtype, device=position_ids.device
        ),
        "attention_mask": None,
        "position_ids": position_ids,
        "block_sequence_ids": blocks,
        "cache": None,
    }
    makers = {
        "full_attention": masking_utils.create_causal_mask,
        "sliding_attention": masking_utils.create_sliding_window_causal_mask,
    }
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        sliding = getattr(config, "sliding_window", None) is not None
        kinds = {"sliding_attention" if sliding else "full_attention"}
    if not kinds <= makers.keys():
        raise UserError(
            f"{type(model).__name__}: layers of {' and '.join(sorted(kinds - makers.keys()))} "
            "cannot read a prefix both ways; give prefix: causal"
        )
    masks = {kind: makers[kind](**given) for kind in sorted(kinds)}
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _check_mask(model: nn.Module) -> None:
    """Raise UserError unless the model's attention follows the mask.

    It must be bidirectional within the prefix, and causal after it.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    blocks = torch.tensor([[0, 0, 0, NOT_IN_PREFIX, NOT_IN_PREFIX, NOT_IN_PREFIX]], device=device)
    ids = torch.arange(_CHECKED_TOKENS, device=device)[None]

    def states(changed: int | None) -> Tensor:
        tokens = ids.clone()
        if changed is not None:
            tokens[0, changed] = _CHECKED_TOKENS + 1
        mask = prefix_mask(model, ids, blocks)
        return hidden_states(model, input_ids=tokens, position_ids=ids, attention_mask=mask)[0]

    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            plain, given, learned = states(None), states(2), states(4)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise UserError(_no_mask(model, one_line(str(error)))) from error
    finally:
        model.train(was_training)
    if torch.equal(plain[0], given[0]):
        raise UserError(_no_mask(model, "its first input does not see the third"))
    if not torch.equal(plain[:4], learned[:4]):
        raise UserError(_no_mask(model, "it sees what follows"))


def _no_mask(model: nn.Module, reason: str) -> str:
    return (
        f"{type(model).__name__}: takes no mask for a prefix that is read both ways ({reason}); "
        "give prefix: causal"
    )
