import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.architectures.t5 import T5
from regrow.common.errors import UserError
from regrow.evaluation.heldout import heldout_loss
from regrow.models.loading import load_model, load_tokenizer
from tests.tiny import sentences, write_seq2seq
from tests.training.small import BOS, EOS, FAMILIES, byte_tokenizer, small_model

DOCUMENTS = ["short", "", "é and more than one window of text", "a", "exactly 8"]


def by_hand(model: torch.nn.Module, documents: list[str], start: int, window: int) -> float:
    """Nats, one prediction at a time."""
    nats = 0.0
    for document in documents:
        line = [start, *byte_tokenizer()(document, add_special_tokens=False)["input_ids"]]
        for place in range(1, len(line)):
            first = (place - 1) // window * window
            with torch.no_grad():
                logits = model(torch.tensor([line[first:place]])).logits[0, -1]
            nats -= logits.log_softmax(-1)[line[place]].item()
    return nats


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_loss_of_every_token_after_its_own_document(family: str, bos: bool) -> None:
    model = small_model(family).train()
    found = heldout_loss(model, byte_tokenizer(bos=bos), DOCUMENTS, row_length=8, batch_tokens=20)
    assert model.training
    size = sum(len(document.encode()) for document in DOCUMENTS)
    nats = by_hand(model.eval(), DOCUMENTS, BOS if bos else EOS, 8)
    assert found.tokens == found.bytes == size
    assert found.loss_per_token == pytest.approx(nats / size, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / size / math.log(2), rel=1e-5)


def test_nothing_is_dropped_out_while_a_loss_is_measured() -> None:
    """Also of a model that is being trained."""
    model = small_model("gpt_neox", hidden_dropout=0.5).train()
    found = heldout_loss(model, byte_tokenizer(), DOCUMENTS, row_length=8)
    assert model.training
    nats = by_hand(model.eval(), DOCUMENTS, EOS, 8)
    assert found.loss_per_token == pytest.approx(nats / found.tokens, rel=1e-5)


def test_nothing_is_dropped_out_of_an_encoder_decoder(tmp_path: Path) -> None:
    directory = write_seq2seq(tmp_path / "m", T5, dropout_rate=0.5)
    model, tokenizer = load_model(directory), load_tokenizer(directory)
    texts = [*sentences(3), " ".join(sentences(8))]
    expected = heldout_loss(model.eval(), tokenizer, texts, row_length=32)
    assert heldout_loss(model.train(), tokenizer, texts, row_length=32) == expected
    assert model.training


@settings(max_examples=20, deadline=None)
@given(
    documents=st.permutations(DOCUMENTS),
    batch_tokens=st.integers(1, 200),
)
def test_order_and_batches_do_not_matter(documents: list[str], batch_tokens: int) -> None:
    model = small_model("gemma2")
    one = heldout_loss(model, byte_tokenizer(), DOCUMENTS, row_length=8)
    other = heldout_loss(
        model, byte_tokenizer(), documents, row_length=8, batch_tokens=batch_tokens
    )
    assert other.loss_per_token == pytest.approx(one.loss_per_token, rel=1e-5)


def test_bf16_is_near_and_repeats() -> None:
    model = small_model("llama")
    exact = heldout_loss(model, byte_tokenizer(), DOCUMENTS)
    near = heldout_loss(model, byte_tokenizer(), DOCUMENTS, precision="bf16")
    assert near.loss_per_token != exact.loss_per_token
    assert near.loss_per_token == pytest.approx(exact.loss_per_token, rel=1e-2)
    assert heldout_loss(model, byte_tokenizer(), DOCUMENTS, precision="bf16") == near


def test_text_without_a_token_is_refused() -> None:
    for documents in ([], ["", ""]):
        with pytest.raises(UserError, match="no token"):
            heldout_loss(small_model("llama"), byte_tokenizer(), documents)
