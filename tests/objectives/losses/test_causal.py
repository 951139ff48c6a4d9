from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED, pack
from regrow.objectives.losses.causal import Causal, keeps_texts_apart
from regrow.objectives.losses.head import check_head, head_of, hidden_states
from tests.training.small import FAMILIES, SLIDING_WINDOW, byte_tokenizer, small_model

DOCUMENTS = ["a", "", "a longer document", "bc", "one that runs over into the next row", "end"]
ROW = 3 * SLIDING_WINDOW


def attentions(family: str) -> list[str]:
    return ["eager"] if family == "gemma2" else ["eager", "sdpa"]


EACH = [(family, attention) for family in FAMILIES for attention in attentions(family)]


def packed_batch() -> dict[str, Tensor]:
    packed = pack(DOCUMENTS, byte_tokenizer(), ROW)
    batch = packed.batch(np.arange(len(packed)))
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def pieces(batch: dict[str, Tensor]) -> list[tuple[int, slice]]:
    """(row, columns) of each piece of a document."""
    found = []
    for row, positions in enumerate(batch["position_ids"]):
        edges = [*torch.nonzero(positions == 0)[:, 0].tolist(), len(positions)]
        found += [(row, slice(*pair)) for pair in pairwise(edges)]
    return found


@pytest.mark.parametrize(("family", "attention"), EACH)
@torch.no_grad()
def test_a_document_in_a_row_has_the_logits_it_has_alone(family: str, attention: str) -> None:
    model = small_model(family, attention=attention)
    batch = packed_batch()
    assert any(columns.stop - columns.start > SLIDING_WINDOW for _, columns in pieces(batch))
    together = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
    ).logits
    for row, columns in pieces(batch):
        alone = model(input_ids=batch["input_ids"][row : row + 1, columns]).logits[0]
        torch.testing.assert_close(together[row, columns], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_model_on_each_document(family: str) -> None:
    model = small_model(family)
    batch = packed_batch()
    loss, each = Causal()(model, batch)
    tokens = len(each)
    loss.backward()  # type: ignore[no-untyped-call]
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    total = torch.zeros(())
    for row, columns in pieces(batch):
        labels = batch["labels"][row : row + 1, columns]
        if (labels != NOT_PREDICTED).any():
            total = (
                total
                + model(
                    input_ids=batch["input_ids"][row : row + 1, columns],
                    labels=labels,
                    shift_labels=labels,
                    num_items_in_batch=1,
                ).loss
            )
    total.backward()  # type: ignore[no-untyped-call]
    assert tokens == sum(len(document) + 1 for document in DOCUMENTS)
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        difference = (ours[name] - parameter.grad).norm()
        assert difference <= 1e-4 * parameter.grad.norm(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_objective_learns_nothing_else_than_its_labels(family: str) -> None:
    model = small_model(family)
    batch = packed_batch()
    changed = {name: tensor.clone() for name, tensor in batch.items()}
    changed["input_ids"][batch["labels"] == NOT_PREDICTED] = 5
    with torch.no_grad():
        assert torch.equal(Causal()(model, batch)[0], Causal()(model, changed)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_are_known(family: str) -> None:
    check_head(small_model(family).train())
    check_head(small_model(family).bfloat16())


def test_scaled_heads_are_known() -> None:
    model = small_model("granite", num_key_value_heads=2, logits_scaling=3.0)
    assert head_of(model).scale == pytest.approx(1 / 3)
    check_head(model)
    check_head(small_model("cohere", num_key_value_heads=2, logit_scale=0.3))


class _Doubling(nn.Linear):
    def forward(self, states: Tensor) -> Tensor:
        return 2 * super().forward(states)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_unknown_head_is_refused(dtype: torch.dtype) -> None:
    model = small_model("gpt_neox")
    head: Any = _Doubling(24, 258, bias=False)
    with torch.no_grad():
        head.weight.copy_(model.get_output_embeddings().weight)
    model.set_output_embeddings(head)
    with pytest.raises(UserError, match="only heads with a scale"):
        Causal().check(model.to(dtype))
    assert hidden_states(model, input_ids=torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 24)


_SMALL: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
APART: dict[str, tuple[dict[str, Any], bool]] = {
    "gpt2": ({"n_embd": 8, "n_layer": 1, "n_head": 2}, True),
    "qwen3": ({**_SMALL, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 8}, True),
    "opt": ({**_SMALL, "word_embed_proj_dim": 8, "ffn_dim": 8}, False),
    "bloom": ({"hidden_size": 8, "n_layer": 1, "n_head": 2}, False),
    "mamba": ({"hidden_size": 8, "num_hidden_layers": 1, "state_size": 4}, False),
}


@pytest.mark.parametrize("kind", APART)
def test_whether_a_model_keeps_the_texts_of_a_row_apart_is_tried(kind: str) -> None:
    sizes, expected = APART[kind]
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](vocab_size=40, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.train()
    assert keeps_texts_apart(model) is expected
    assert model.training
