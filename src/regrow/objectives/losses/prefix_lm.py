"""Predict the rest of a row from what is given, in a decoder."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED
from regrow.objectives.losses.head import check_head, head_of, hidden_states
from regrow.objectives.losses.objective import TensorBatch
from regrow.objectives.rows.single_row import NOT_GIVEN

Prefix = Literal["causal", "bidirectional"]
_CHECKED_TOKENS = 6


class PrefixLM:
    """Next-token prediction over rows of which a part is given (`SplitRows`, `PairedRows`).

    `prefix`: how attention goes among the inputs that are given. Causal is what a decoder was
    trained with, and what it does when it generates; bidirectional is UL2's and T5's prefix-LM, and
    holds in use only where the same mask is passed (`given_mask`).
    """

    def __init__(self, prefix: Prefix) -> None:
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
        """What the head reads where a token is predicted, and the tokens; see `PredictsTokens`."""
        masks: dict[str, Any] = {}
        if self.prefix == "bidirectional":
            masks["attention_mask"] = given_mask(model, batch["position_ids"], batch["blocks"])
        hidden = hidden_states(
            model, input_ids=batch["input_ids"], position_ids=batch["position_ids"], **masks
        )
        predicts = batch["labels"] != NOT_PREDICTED
        return hidden[predicts], batch["labels"][predicts]


def given_mask(model: Any, position_ids: Tensor, blocks: Tensor) -> Any:
    """The mask under which inputs of one block see each other, and all else is causal.

    Documents in a row stay apart, as positions say. Made once for a batch, as the attention of the
    model wants it. `position_ids`, `blocks`: [batch, tokens].

    transformers passes such a mask on as it is: where layers differ, one by the name of each kind.
    """
    from transformers import masking_utils

    config = model.base_model.config
    given = {
        "config": config,
        # Only its shape, type and device are looked at.
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
    """Raise UserError unless the model does as the mask says: both ways in the prefix, and causal
    after it."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    blocks = torch.tensor([[0, 0, 0, NOT_GIVEN, NOT_GIVEN, NOT_GIVEN]], device=device)
    ids = torch.arange(_CHECKED_TOKENS, device=device)[None]

    def states(changed: int | None) -> Tensor:
        tokens = ids.clone()
        if changed is not None:
            tokens[0, changed] = _CHECKED_TOKENS + 1
        mask = given_mask(model, ids, blocks)
        return hidden_states(model, input_ids=tokens, position_ids=ids, attention_mask=mask)[0]

    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            plain, given, learned = states(None), states(2), states(4)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise UserError(_no_mask(model, " ".join(str(error).split()))) from error
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
