"""Documents in a row of O-UL2 are learned from as if each had a row of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from regrow.architectures import Blueprint
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import components_of, data_order
from regrow.corpus.sources import Corpus, Source
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.loss import Loss
from regrow.objectives.losses.prefix_lm import PrefixAttention
from regrow.objectives.registry import TrainingData, loss_and_rows
from regrow.objectives.rows.single_row import NOT_IN_PREFIX
from tests.tiny import add_tokenizer, sentences, write_seq2seq, write_text
from tests.training.small import small_model

torch.set_num_threads(1)
ROW = 90
TEXTS = [*sentences(7), "A", "b b", "Two words."]


def both(objective: Loss, model: Any, batch: dict[str, Tensor]) -> tuple[float, list[Tensor]]:
    loss, _ = objective(model, batch)
    return loss.item(), list(torch.autograd.grad(loss, list(model.parameters())))


def assert_alike(
    objective: Loss, model: Any, batch: dict[str, Tensor], apart: list[dict[str, Tensor]]
) -> None:
    loss, gradients = both(objective, model, batch)
    found = [both(objective, model, each) for each in apart]
    assert loss == pytest.approx(sum(each for each, _ in found), rel=1e-8)
    for number, gradient in enumerate(gradients):
        expected = sum(of_one[number] for _, of_one in found)
        # Written out, attention has its softmax in float32.
        assert (gradient - expected).norm() <= 1e-5 * (gradient.norm() + 1e-3)


def everything(samples: Any) -> dict[str, Tensor]:
    rows = np.arange(len(samples))
    return {name: torch.from_numpy(a) for name, a in samples.batch(rows, rows + 3).items()}


@pytest.mark.parametrize(
    ("blueprint", "attention"), [(OPENBA, "sdpa"), (OPENBA, "document_attention"), (T5, "sdpa")]
)
def test_sources_with_their_targets(tmp_path: Path, blueprint: Blueprint, attention: str) -> None:
    write_seq2seq(tmp_path / "m", blueprint)
    model = load_model(tmp_path / "m", dtype=torch.float64)
    model.set_attn_implementation(attention)
    tokenizer = load_tokenizer(tmp_path / "m")
    data = TrainingData(TEXTS, tokenizer, model.config, ROW, 5, shared_rows=True)
    objective, samples = loss_and_rows("o-ul2", data)
    objective.check(model)
    batch = everything(samples)
    apart = []
    for row in range(len(samples)):
        for number in range(int(batch["source_texts"][row].max()) + 1):
            sides = {"input_ids": "source", "decoder_input_ids": "target", "labels": "target"}
            held = {side: batch[f"{side}_texts"][row] == number for side in ("source", "target")}
            one = {name: batch[name][row][held[side]][None] for name, side in sides.items()}
            zeros = {f"{side}_texts": held[side][held[side]][None].long() * 0 for side in held}
            apart.append(one | zeros)
    assert len(apart) > 2 * len(samples)
    assert_alike(objective, model, batch, apart)


@pytest.mark.parametrize("shared_rows", [True, False])
def test_shares_of_tokens_are_kept(tmp_path: Path, shared_rows: bool) -> None:
    """Rows of short documents hold less text than those of long ones."""
    write_seq2seq(tmp_path / "m", OPENBA)
    model, tokenizer = load_model(tmp_path / "m"), load_tokenizer(tmp_path / "m")
    texts = {
        "long": [" ".join(sentences(40, seed=n)) for n in range(9)],
        "short": ["Hi you."] * 900,
    }
    for name, documents in texts.items():
        write_text(tmp_path / f"{name}.jsonl", documents)
    corpus = Corpus(
        tuple(
            Source(name=name, path=tmp_path / f"{name}.jsonl", tokens=tokens)
            for name, tokens in (("long", 3_000), ("short", 1_000))
        )
    )
    data = TrainingData(corpus, tokenizer, model.config, ROW, 5, shared_rows=shared_rows)
    _, samples = loss_and_rows("o-ul2", data)
    rows = data_order(samples, 0).rows(0, 2_048)
    domains = components_of(samples, rows, rows)["domain"]
    text = np.bincount(domains.indices, samples.lengths(rows))
    assert domains.names == ("long", "short")
    assert text[0] / text[1] == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("prefix", ["causal", "bidirectional"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_in_one_row_of_a_decoder(tmp_path: Path, family: str, prefix: PrefixAttention) -> None:
    model = small_model(family, vocab_size=330, attention="eager").double()
    tokenizer = load_tokenizer(add_tokenizer(tmp_path, sentinels=8))
    data = TrainingData(TEXTS, tokenizer, model.config, ROW, 5, prefix)
    objective, samples = loss_and_rows("o-ul2", data)
    objective.check(model)
    batch = everything(samples)
    apart = []
    for row in range(len(samples)):
        begins = (batch["position_ids"][row] == 0).cumsum(0)
        for number in range(1, int(begins.max()) + 1):
            one = {name: array[row][begins == number][None] for name, array in batch.items()}
            assert (one["labels"] != NOT_PREDICTED).any()
            assert set(one["blocks"][0].tolist()) == {NOT_IN_PREFIX, number - 1}
            apart.append(one)
    assert len(apart) > 2 * len(samples)
    assert_alike(objective, model, batch, apart)
