"""Going on with a text: each piece alone, and the same text whatever the vocabulary."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers

import regrow
from regrow.architectures import Blueprint
from regrow.architectures.bart import BART
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.evaluation.continuation import _batches, continuation_loss
from regrow.evaluation.heldout import heldout_loss
from regrow.models.document_attention import DOCUMENT_ATTENTION
from regrow.models.loading import load_model, load_tokenizer
from tests.tiny import sentences, write_seq2seq, write_text

torch.set_num_threads(1)
LONG = " ".join(sentences(60))[:1_500]
TEXTS = [LONG, LONG[7:400], LONG[:193], "é" * 250, LONG[:192], "short", ""]
PIECES = [
    *(LONG[at : at + 256] for at in range(0, 1_024, 256)),
    LONG[7:263], LONG[:193], "é" * 250,
]  # fmt: skip
"""Four of the first; one of the second, whose next is too short; and so on."""
BYTES = sum(len(piece[192:].encode()) for piece in PIECES)


def opened(out: Path, blueprint: Blueprint, **changes: Any) -> tuple[Any, Any]:
    write_seq2seq(out, blueprint, **changes)
    return load_model(out), load_tokenizer(out)


def by_hand(model: Any, tokenizer: Any, piece: str) -> float:
    """Nats of the characters after 192, by the logits of the model itself."""
    ids = tokenizer.get_vocab()
    sentinel, end, start = ids["<extra_id_0>"], tokenizer.eos_token_id, 0
    read, predicted = (
        tokenizer(part, add_special_tokens=False)["input_ids"]
        for part in (piece[:192], piece[192:])
    )
    prefix = [ids["<S>"]] if "<S>" in ids else []
    source, target = [*prefix, *read, sentinel, end], [start, sentinel, *predicted]
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])
        ).logits[0]
    nats = logits.log_softmax(-1)
    return -float(sum(nats[place + 1, token] for place, token in enumerate(predicted)))


@pytest.mark.parametrize(
    ("blueprint", "attention"),
    [(OPENBA, "sdpa"), (OPENBA, DOCUMENT_ATTENTION), (T5, "sdpa")],
    ids=lambda each: getattr(each, "model_type", each),
)
def test_it_is_that_of_each_piece_alone(
    tmp_path: Path, blueprint: Blueprint, attention: str
) -> None:
    model, tokenizer = opened(tmp_path / "m", blueprint)
    expected = sum(by_hand(model, tokenizer, piece) for piece in PIECES)
    model.set_attn_implementation(attention)
    model.train()
    for size in (1, 300, 100_000):
        nats, count = continuation_loss(
            model, tokenizer, TEXTS, batch_tokens=size, precision="fp32"
        )
        assert count == BYTES
        assert nats == pytest.approx(expected, rel=1e-5)
    assert model.training
    found = heldout_loss(model, tokenizer, TEXTS, row_length=100)
    assert found.bytes == BYTES
    assert found.bits_per_byte == pytest.approx(expected / math.log(2) / BYTES, rel=1e-5)


def test_another_vocabulary_predicts_the_same_text(tmp_path: Path) -> None:
    opened(tmp_path / "m", T5)
    write_text(tmp_path / "text.jsonl", sentences(20))
    regrow.prune(
        tmp_path / "m", tmp_path / "cut", vocab_size=300, calibration=tmp_path / "text.jsonl"
    )
    model, tokenizer = load_model(tmp_path / "cut"), load_tokenizer(tmp_path / "cut")
    assert model.config.vocab_size == 300
    assert heldout_loss(model, tokenizer, TEXTS, row_length=100).bytes == BYTES


def test_a_pass_is_no_larger_than_it_may_be() -> None:
    pairs = [([5] * length, [6] * (length % 7)) for length in range(60, 0, -1)]
    for most in (1, 100, 500, 10_000):
        batches = list(_batches(pairs, most))
        assert [pair for batch in batches for pair in batch] == pairs
        for batch in batches:
            slots = len(batch) * sum(max(len(pair[side]) + 3 for pair in batch) for side in (0, 1))
            assert slots <= most or len(batch) == 1
    assert list(_batches([], 100)) == []


def test_a_piece_without_a_token_counts_nothing(tmp_path: Path) -> None:
    """As of a text of spaces, where the tokenizer drops them."""
    model, tokenizer = opened(tmp_path / "m", T5)
    tokenizer.backend_tokenizer.normalizer = normalizers.Strip()

    def found(texts: list[str]) -> tuple[float, int]:
        return continuation_loss(model, tokenizer, texts, batch_tokens=1, precision="fp32")

    nats, count = found([" " * 300, LONG[:256]])
    alone, of_one = found([LONG[:256]])
    assert nats == pytest.approx(alone, rel=1e-5)
    assert count == of_one + 64


def test_bits_are_left_out_where_nobody_asks(tmp_path: Path) -> None:
    model, tokenizer = opened(tmp_path / "m", T5)
    found = heldout_loss(model, tokenizer, TEXTS, row_length=100, bits=False)
    asked = heldout_loss(model, tokenizer, TEXTS, row_length=100)
    assert (found.bits_per_byte, found.bytes) == (None, 0)
    assert found.loss_per_token == asked.loss_per_token
    assert asked.bits_per_byte


def test_where_no_text_is_long_enough_there_is_none(tmp_path: Path) -> None:
    model, tokenizer = opened(tmp_path / "m", T5)
    found = heldout_loss(model, tokenizer, ["short", LONG[:192]], row_length=100)
    assert (found.bits_per_byte, found.bytes) == (None, 0)


def test_where_positions_do_not_do_there_is_none(tmp_path: Path) -> None:
    model, tokenizer = opened(tmp_path / "m", BART, max_position_embeddings=64)
    found = heldout_loss(model, tokenizer, [LONG], row_length=60)
    assert (found.bits_per_byte, found.bytes) == (None, 0)
