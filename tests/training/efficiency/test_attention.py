"""A model reads text by text while it trains, where it is the same model by that."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from regrow.architectures import BLUEPRINTS, Blueprint
from regrow.architectures.llama import LLAMA
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.corpus.packing import pack
from regrow.models.document_attention import uses_document_attention
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.loss import Loss
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.span_corruption import corrupt_text
from regrow.training.efficiency.attention import (
    supports_document_attention,
    using_document_attention,
)
from tests.tiny import sentences, write_model, write_seq2seq, write_tiny

torch.set_num_threads(1)
CPU = torch.device("cpu")


def gradients(model: Any, objective: Loss, batch: dict[str, Any]) -> list[torch.Tensor]:
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    summed, each = objective(model, tensors)
    loss = summed / len(each)
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return [loss.detach(), *found]


@pytest.mark.parametrize("blueprint", [LLAMA, OPENBA], ids=lambda each: each.model_type)
def test_losses_and_gradients_are_the_same(tmp_path: Path, blueprint: Blueprint) -> None:
    both = blueprint.is_encoder_decoder
    if both:
        write_seq2seq(tmp_path / "m", blueprint)
    else:
        write_model(tmp_path / "m")
    model = load_model(tmp_path / "m", dtype=torch.float64)
    tokenizer = load_tokenizer(tmp_path / "m")
    texts = [*sentences(9), "Short."]
    samples: Any = (
        corrupt_text(texts, tokenizer, model.config, 24, 0) if both else pack(texts, tokenizer, 24)
    )
    objective: Loss = Seq2Seq() if both else Causal()
    rows = np.arange(4)
    batch = samples.batch(rows, rows)
    expected = gradients(model, objective, batch)
    assert supports_document_attention(model, CPU, "fp32")
    with using_document_attention(model, True):
        assert uses_document_attention(model)
        found = gradients(model, objective, batch)
    assert not uses_document_attention(model)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("does", ["windows", "relative positions"])
def test_models_whose_attention_does_more_keep_theirs(tmp_path: Path, does: str) -> None:
    if does == "windows":
        model = transformers.MistralForCausalLM(
            transformers.MistralConfig(
                vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=1, sliding_window=3, pad_token_id=0,
            )
        )  # fmt: skip
    else:
        model = load_model(write_tiny(T5, tmp_path / "m"))
    model.set_attn_implementation("sdpa")
    assert not supports_document_attention(model, CPU, "fp32")
    assert model.config._attn_implementation == "sdpa"


def test_of_all_families_those_of_plain_attention_read_so(tmp_path: Path) -> None:
    """And none that would fail: it stays with what it has."""
    read = set()
    for number, blueprint in enumerate(BLUEPRINTS):
        model = load_model(write_tiny(blueprint, tmp_path / str(number)))
        if supports_document_attention(model, CPU, "fp32"):
            read.add(blueprint.model_type)
    assert {"llama", "gpt_neox", "olmo2", "openba"} <= read
    assert not {"t5", "gemma2"} & read


def test_an_attention_of_ones_own_choice_stays(tmp_path: Path) -> None:
    model = load_model(write_tiny(LLAMA, tmp_path / "m"))
    model.set_attn_implementation("eager")
    assert not supports_document_attention(model, CPU, "fp32")
    assert model.config._attn_implementation == "eager"
