"""What a tokenizer has no token for, and what it drops."""

import json
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import normalizers

from regrow.corpus.encoding import TextWithSpecialTokens, encode
from regrow.evaluation.heldout import heldout_loss
from regrow.evaluation.lost_text import LostText, lost_text
from tests.tokenizers.unigram_cases import unigram_json
from tests.training.small import byte_tokenizer, small_model


def unigram(normalizer: Any = None) -> Any:
    """A token for each of `a`, `b`, `c` and the space."""
    inner = tokenizers.Tokenizer.from_str(
        json.dumps(unigram_json([(letter, -1.0) for letter in "▁abc"]))
    )
    if normalizer is not None:
        inner.normalizer = normalizer
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    )


def lost(tokenizer: Any, *texts: str) -> LostText:
    return lost_text(texts, encode(texts, tokenizer), tokenizer)


def test_nothing_is_lost_of_what_tokens_spell() -> None:
    assert lost(unigram(), "ab c", "") == LostText(0.0, 0.0)
    assert lost(byte_tokenizer(), "é <eos>\n\n  日", "a") == LostText(0.0, 0.0)


def test_unknown_tokens_and_their_bytes_are_counted() -> None:
    # ▁ a <unk> b ▁ c: one token of six; é has two bytes of six.
    assert lost(unigram(), "aéb c") == LostText(1 / 6, 2 / 6)
    assert lost(unigram(), "aéb c", "ab c") == LostText(1 / 11, 2 / 10)


def test_a_token_that_the_text_means_is_not_unknown() -> None:
    """GPT-2's unknown token is the one that ends its texts."""
    tokenizer = byte_tokenizer()
    tokenizer.unk_token = tokenizer.eos_token
    assert lost(tokenizer, TextWithSpecialTokens("a<eos>b")) == LostText(0.0, 0.0)


@pytest.mark.parametrize(
    ("normalizer", "text", "share"),
    [
        (normalizers.Replace("c", ""), "abcc", 2 / 4),
        (normalizers.Strip(), "  ab", 2 / 4),
        (normalizers.Lowercase(), "ABbb", 2 / 4),
    ],
)
def test_bytes_that_a_normalizer_drops_or_changes_are_counted(
    normalizer: Any, text: str, share: float
) -> None:
    assert lost(unigram(normalizer), text) == LostText(0.0, share)


def test_it_stands_beside_bits_per_byte() -> None:
    model = small_model("llama")
    found = heldout_loss(model, unigram(), ["aéb c"])
    assert (found.unknown, found.lost) == (1 / 6, 2 / 6)
    assert heldout_loss(model, byte_tokenizer(), ["aéb c"]).unknown == 0.0
