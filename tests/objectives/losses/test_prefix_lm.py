"""What is given is read both ways or one way, and only the rest is learned."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED, pack
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.prefix_lm import PrefixLM, prefix_mask
from regrow.objectives.rows.single_row import NOT_IN_PREFIX, PrefixRows
from tests.training.small import FAMILIES, SLIDING_WINDOW, byte_tokenizer, small_model

# Longer than a window, so that layers of both kinds differ.
ROW = 3 * SLIDING_WINDOW
DOCUMENTS = ["a longer document of some words", "b", "another one that is not short", "the end"]


def batch() -> dict[str, Tensor]:
    samples = PrefixRows(pack(DOCUMENTS, byte_tokenizer(), ROW), 0)
    rows = np.arange(len(samples))
    return {name: torch.from_numpy(a) for name, a in samples.batch(rows, rows).items()}


def attentions(family: str) -> list[str]:
    return ["eager"] if family == "gemma2" else ["eager", "sdpa"]


EACH = [(family, attention) for family in FAMILIES for attention in attentions(family)]


def allowed(given: dict[str, Tensor], row: int, window: int | None) -> Tensor:
    """What sees what, by the definition: [tokens, tokens]."""
    positions, blocks = given["position_ids"][row], given["blocks"][row]
    documents = (positions == 0).cumsum(0)
    mask = torch.zeros(len(positions), len(positions), dtype=torch.bool)
    for q in range(len(positions)):
        for k in range(len(positions)):
            if documents[q] == documents[k]:
                past = k <= q and (window is None or q - k < window)
                mask[q, k] = past or bool(blocks[q] == blocks[k] != NOT_IN_PREFIX)
    return mask


@pytest.mark.parametrize(("family", "attention"), EACH)
def test_the_mask_is_as_defined(family: str, attention: str) -> None:
    model, given = small_model(family, attention=attention), batch()
    found = prefix_mask(model, given["position_ids"], given["blocks"])
    masks = found if isinstance(found, dict) else {"full_attention": found}
    assert len(masks) == (2 if family == "gemma2" else 1)
    for kind, mask in masks.items():
        seen = mask if mask.dtype == torch.bool else mask == 0
        window = SLIDING_WINDOW if kind == "sliding_attention" else None
        for row in range(len(given["blocks"])):
            assert (seen[row, 0] == allowed(given, row, window)).all()


@pytest.mark.parametrize(("family", "attention"), EACH)
def test_a_piece_in_a_row_has_the_states_it_has_alone(family: str, attention: str) -> None:
    model, given = small_model(family, attention=attention), batch()
    objective = PrefixLM("bidirectional")
    objective.check(model)
    together, each = objective(model, given)
    assert len(each) == (given["labels"] != NOT_PREDICTED).sum()
    apart = 0.0
    for row, positions in enumerate(given["position_ids"]):
        starts = [*torch.nonzero(positions == 0)[:, 0].tolist(), ROW]
        for first, last in pairwise(starts):
            piece = {name: a[row : row + 1, first:last] for name, a in given.items()}
            apart += objective(model, piece)[0].item()
    assert together.item() == pytest.approx(apart, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_way_it_is_the_causal_loss_of_what_is_learned(family: str) -> None:
    model, given = small_model(family), batch()
    assert PrefixLM("causal")(model, given)[0] == Causal()(model, given)[0]
    both_ways = PrefixLM("bidirectional")(model, given)[0]
    assert both_ways.item() != pytest.approx(PrefixLM("causal")(model, given)[0].item(), rel=2e-5)


def test_gradients_reach_the_prefix_through_attention_alone() -> None:
    model, given = small_model("llama"), batch()
    loss, each = PrefixLM("bidirectional")(model, given)
    (loss / len(each)).backward()  # type: ignore[no-untyped-call]
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_a_model_that_does_not_do_as_the_mask_says_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model("llama")
    forward = model.model.forward

    def deaf(**inputs: Any) -> Any:
        return forward(**{**inputs, "attention_mask": None})

    monkeypatch.setattr(model.model, "forward", deaf)
    with pytest.raises(UserError, match=r"does not see the third.*give prefix: causal"):
        PrefixLM("bidirectional").check(model)
    PrefixLM("causal").check(model)
    model.model.config.layer_types = ["linear_attention"]
    with pytest.raises(UserError, match="layers of linear_attention"):
        prefix_mask(model, *(batch()[name] for name in ("position_ids", "blocks")))
