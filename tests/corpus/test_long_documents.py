"""Long documents: the tokens of the windows are those of the whole text."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from regrow.corpus import packing
from regrow.corpus.long_documents import Encoded, encode_in_cuts, encode_in_windows
from tests.tiny import sentences
from tests.training.small import byte_tokenizer

WINDOW, OVERLAP = 2000, 600


def make_text(seed: int) -> str:
    """Some 12,000 characters: sentences, line ends, rare characters and added tokens."""
    drawn = random.Random(seed)
    between = [
        "\n",
        " ",
        "\n\n",
        "  \t",
        "<turn>",
        " <turn> ",
        " 日本語のテキスト。",
        "🦜🏽‍♀️",
        "ﷺ",
        "é\u0301",
    ]
    return "".join(
        sentence + drawn.choice(between) for sentence in drawn.choices(sentences(80), k=120)
    )


def byte_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=["<turn>"]
    )
    tokenizer.train_from_iterator(sentences(80), trainer)
    return tokenizer


def undivided_bpe() -> Tokenizer:
    """As Llama 2: the whole text is one word that begins with ▁."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, special_tokens=["<unk>", "<turn>"]
    )
    trained.train_from_iterator(sentences(80), trainer)
    trained.pre_tokenizer = None
    trained.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return trained


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(" {2,}", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always", True)
    trainer = trainers.UnigramTrainer(
        vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(sentences(80), trainer)
    tokenizer.add_tokens([AddedToken("<turn>", lstrip=True, rstrip=True)])
    return tokenizer


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, show_progress=False, special_tokens=["[UNK]"]
    )
    tokenizer.train_from_iterator(sentences(80), trainer)
    return tokenizer


def encoder(tokenizer: Tokenizer) -> Callable[[str], Encoded]:
    def encode(text: str) -> Encoded:
        found = tokenizer.encode(text, add_special_tokens=False)
        spans = np.array(found.offsets, dtype=np.int64).reshape(-1, 2)
        return Encoded(np.array(found.ids, dtype=np.int32), spans)

    return encode


@pytest.mark.parametrize("make", [byte_bpe, undivided_bpe, unigram, wordpiece])
def test_windows_give_the_tokens_of_the_whole_text(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    encode = encoder(tokenizer)
    for seed in range(6):
        text = make_text(seed)
        found = encode_in_windows(text, encode, WINDOW, OVERLAP)
        whole = encode(text)
        assert found.ids.tolist() == whole.ids.tolist()
        assert found.spans.tolist() == whole.spans.tolist()


@pytest.mark.parametrize("text", ["a" * 9001, " " * 9001, "aé🦜" * 3001, "x" + "\n" * 5000 + "y"])
def test_text_whose_windows_never_agree_is_cut_and_stays_whole(text: str) -> None:
    tokenizer = byte_bpe()
    found = encode_in_windows(text, encoder(tokenizer), WINDOW, OVERLAP)
    assert tokenizer.decode(found.ids.tolist()) == text


def test_text_without_tokens_ends() -> None:
    tokenizer = wordpiece()
    text = "river" + " " * 7000 + "stone"
    found = encode_in_windows(text, encoder(tokenizer), WINDOW, OVERLAP)
    assert found.ids.tolist() == tokenizer.encode(text).ids
    assert not len(encode_in_windows(" " * 7000, encoder(tokenizer), WINDOW, OVERLAP).ids)


def test_without_spans_a_text_is_cut_at_white_space() -> None:
    seen = []

    def encode(text: str) -> NDArray[np.int32]:
        seen.append(text)
        return np.arange(len(text), dtype=np.int32)

    text = "one two\nthree fourfivesix"
    assert len(encode_in_cuts(text, encode, 10)) == len(text)
    assert seen == ["one two\n", "three ", "fourfivesi", "x"]


def test_a_long_document_has_the_tokens_that_it_has_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer()
    documents = ["short", "long enough for windows " * 400, "", "short again"]
    whole = tokenizer(documents, add_special_tokens=False)["input_ids"]
    lengths = []
    call = type(tokenizer).__call__

    def counted(self: object, texts: list[str], **options: object) -> object:
        lengths.append(sum(map(len, texts)))
        return call(self, texts, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counted)
    monkeypatch.setattr(packing, "WINDOW", 1000)
    monkeypatch.setattr(
        packing, "encode_in_windows", lambda t, e: encode_in_windows(t, e, 1000, 100)
    )
    assert [ids.tolist() for ids in packing.tokenise(documents, tokenizer)] == whole
    assert max(lengths) == 1000
