"""A training of several steps against plain PyTorch, written out."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from regrow.common.random_stream import random_stream
from regrow.corpus.packing import pack
from regrow.corpus.samples import DataOrder
from regrow.evaluation.heldout import heldout_loss
from regrow.objectives.losses.causal import Causal
from regrow.training.settings import RecoverySettings
from tests.training.small import EOS, byte_tokenizer, small_model, train_on

TEXTS = [f"line {number:04}" for number in range(24)]
"""Each fills a row of 10 predictions: 9 bytes and the end."""
HELDOUT = ["a text that nobody trained on", "another"]
SEED, STEPS, ROWS = 3, 10, 4
SETTINGS = RecoverySettings(
    tokens=STEPS * ROWS * 10, row_length=10, batch_tokens=ROWS * 10, micro_batch=ROWS,
    learning_rate=0.01, warmup=0.3, final_rate=0.2, betas=(0.6, 0.7), weight_decay=0.3, clip=0.5,
    evaluate_every=ROWS * 10, precision="fp32",
)  # fmt: skip
COSINE = [1 / 3, 2 / 3, 1] + [0.6 + 0.4 * math.cos(math.pi * step / 7) for step in range(1, 8)]
"""Shares of the peak: three steps of warm-up, then a cosine from 1 to 0.2 over seven."""
WSD = [1 / 3, 2 / 3, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
"""The same warm-up, three steps at the peak, and a linear decay over the last four."""


def dropping_model() -> Any:
    """GPT-NeoX with dropout behind attention and feed-forward network."""
    return small_model("gpt_neox", hidden_dropout=0.3, attention_dropout=0.0)


def line(text: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a text alone, [1, tokens] each; the end is a label too."""
    ids = [EOS, *byte_tokenizer()(text, add_special_tokens=False)["input_ids"], EOS]
    return torch.tensor([ids[:-1]]), torch.tensor([ids[1:]])


def summed_loss(model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    logits = model(input_ids=inputs).logits
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def heldout_by_hand(model: Any) -> float:
    """Nats per token of the held-out texts without their ends, and without dropout."""
    model.eval()
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for text in HELDOUT:
            inputs, labels = line(text)
            nats += summed_loss(model, inputs[:, :-1], labels[:, :-1]).item()
            tokens += labels.shape[1] - 1
    return nats / tokens


def train_by_hand(model: Any, rates: list[float]) -> tuple[list[float], list[float]]:
    """Train with `torch.optim.AdamW`; the losses of all steps, and the held-out losses after."""
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.3},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.6, 0.7),
    )
    losses, heldout = [], []
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * rate
        rows = DataOrder(SEED, len(TEXTS)).rows(step * ROWS, (step + 1) * ROWS)
        inputs, labels = (
            torch.cat(part) for part in zip(*(line(TEXTS[row]) for row in rows), strict=True)
        )
        model.train()
        torch.manual_seed(int(random_stream(SEED, "dropout", step).random_raw()))
        loss = summed_loss(model, inputs, labels) / labels.numel()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
        heldout.append(heldout_by_hand(model))
    return losses, heldout


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_steps_with_schedule_dropout_and_betas_are_those_of_pytorch(
    tmp_path: Path, schedule: str
) -> None:
    """Warm-up, decay, dropout, betas, weight decay, clipping, and held-out losses on the way."""
    model, twin = dropping_model(), dropping_model()
    settings = RecoverySettings(**{**SETTINGS.model_dump(), "schedule": schedule, "decay": 0.4})
    result = train_on(
        model, pack(TEXTS, byte_tokenizer(), 10), Causal(), settings, seed=SEED,
        directory=tmp_path,
        evaluate=lambda found: heldout_loss(found, byte_tokenizer(), HELDOUT).loss_per_token,
    )  # fmt: skip
    with torch.random.fork_rng():
        losses, heldout = train_by_hand(twin, {"cosine": COSINE, "wsd": WSD}[schedule])
    assert [loss for _, loss in result.curve] == pytest.approx(losses, rel=1e-5)
    assert [loss for _, loss in result.heldout_curve] == pytest.approx(heldout, rel=1e-5)
    for name, parameter in twin.named_parameters():
        # Attention does not depend on the bias of the keys: its gradient is rounding alone.
        if not name.endswith("query_key_value.bias"):
            torch.testing.assert_close(model.get_parameter(name), parameter, rtol=1e-3, atol=1e-4)
