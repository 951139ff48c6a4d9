"""Texts in parts give the tokens of whole texts, for every kind of tokenizer that is split for."""

import json
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, trainers
from tokenizers import normalizers as n
from tokenizers import pre_tokenizers as p

from regrow.tokenizers.encoding import id_count
from regrow.vocabulary.text_splitting import Splitter, make_splitter
from regrow.vocabulary.word_cache import TokenCounter
from tests.tiny import sentences

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = [*sentences(60), "水和光 和 水", "def f(x):\n    return x + 12", "don't stop", "é à la"] * 3


def split(pattern: str, behavior: str = "isolated") -> p.PreTokenizer:
    return p.Split(Regex(pattern), behavior)


def byte_bpe(*before: p.PreTokenizer, regex: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    level = p.ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.pre_tokenizer = p.Sequence([*before, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=p.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def piece_bpe(normalizer: n.Normalizer | None, pre: p.PreTokenizer | None) -> Tokenizer:
    """BPE with byte fallback; its tokens are trained on words, and used without pre-tokenizer."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = p.Metaspace()
    trained.train_from_iterator(
        [*TEXT, "▁▁ a▁▁▁"] * 2, trainers.BpeTrainer(vocab_size=300, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}}
    for token in [*model["vocab"], "▁▁", "▁▁▁▁"]:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(m) for m in model["merges"]] + [("▁", "▁"), ("▁▁", "▁▁")]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    return tokenizer


def unigram(normalizer: n.Normalizer, pre: p.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre
    trainer = trainers.UnigramTrainer(
        vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = n.BertNormalizer(), p.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


SPLIT: dict[str, Callable[[], Tokenizer]] = {
    "GPT-2": lambda: byte_bpe(regex=True),
    "SmolLM2": lambda: byte_bpe(p.Digits(individual_digits=True), regex=True),
    "Llama 3": lambda: byte_bpe(split(LLAMA3)),
    "DeepSeek": lambda: byte_bpe(split(r"\p{N}{1,3}"), split("[一-龥ぁ-ん]+"), split(DEEPSEEK)),
    "GPT-4o": lambda: byte_bpe(split(GPT4O)),
    "Llama 2": lambda: piece_bpe(n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")]), None),
    "Gemma": lambda: piece_bpe(n.Replace(" ", "▁"), p.Split(" ", "merged_with_previous")),
    "Mistral": lambda: piece_bpe(None, p.Metaspace("▁", "first", split=False)),
    "T5": lambda: unigram(
        n.Sequence([n.NFKC(), n.Replace(Regex(" {2,}"), " ")]), p.Metaspace("▁", "always")
    ),
    "XLM-R": lambda: unigram(n.Nmt(), p.Sequence([p.WhitespaceSplit(), p.Metaspace()])),
    "BERT": wordpiece,
}  # fmt: skip
NOT_SPLIT: dict[str, Callable[[], Tokenizer]] = {
    "two words": lambda: byte_bpe(split(r"\w+ \w+|\s+")),
    "anything": lambda: byte_bpe(split(r".{1,5}|\s+")),
    "what is left": lambda: byte_bpe(split(r"\p{L}+")),
    "a class with a space": lambda: byte_bpe(split(r"[a-z ]+|\s+")),
    "a range over the space": lambda: byte_bpe(split(r"[!-~][\n-~]*|\s+")),
    "a raw range over the space": lambda: byte_bpe(split("[!-~][\n-~]*|\\s+")),
    "a space in a group": lambda: byte_bpe(split(r"(?:\p{L}| x)+|\s+")),
    "looking behind": lambda: byte_bpe(split(r"(?<=a) \p{L}+|\s+")),
    "looking over the space": lambda: byte_bpe(split(r"\p{L}+(?= x)|\p{L}|\s+")),
    "removed": lambda: byte_bpe(split(LLAMA3, "removed")),
    "no space is kept": lambda: piece_bpe(n.Replace(" ", ""), None),
    "tokens over a space": lambda: piece_bpe(n.Replace(" ", "▁"), None),
    "an unknown step": lambda: byte_bpe(p.UnicodeScripts(), regex=True),
    "OpenBA": lambda: unigram(n.NFKC(), p.Metaspace("▁", "always", False)),
    "an escape in a range": lambda: byte_bpe(split(r"[!-~][!-\~]*|\s+")),
}


@cache
def made(kind: str) -> tuple[Tokenizer, TokenCounter]:
    tokenizer = SPLIT[kind]()
    return tokenizer, TokenCounter(tokenizer, id_count(tokenizer), how(tokenizer), most=40)


def how(tokenizer: Tokenizer) -> Splitter | None:
    return make_splitter(json.loads(tokenizer.to_str()), tokenizer)


WORDS = st.one_of(
    st.sampled_from(
        ["river", "The", "don't", "12", "3456", ",", "...", "水", "和光", "é", "e\u0301", "\u0301a",
         "\u0430", "한국", "<0x41>", "▁", "▁x", "\u200b", "\xa0", "\n", "\r\n", "\t", "\x1c", "A.B",
         "'s", "\u00b4", "x\u0308", "🙂", "\u3000", "\x85", "ŉ", "ﬁ"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=3),
)  # fmt: skip
TEXTS = st.lists(
    st.lists(st.tuples(WORDS, st.sampled_from([" ", " ", " ", "", "  ", "   "])), max_size=8).map(
        lambda parts: "".join(word + space for word, space in parts)
    ),
    max_size=5,
)


@pytest.mark.parametrize("kind", SPLIT)
@settings(max_examples=60, deadline=None)
@given(texts=TEXTS)
def test_parts_give_the_tokens_of_the_whole(kind: str, texts: list[str]) -> None:
    tokenizer, counter = made(kind)
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = [token for encoding in encodings for token in encoding.ids]
    expected = np.bincount(np.array(ids, dtype=np.int64), minlength=id_count(tokenizer))
    for _ in range(2):  # and again, from memory
        np.testing.assert_array_equal(counter.count(texts), expected)


@pytest.mark.parametrize("kind", SPLIT)
def test_words_are_split(kind: str) -> None:
    found = how(SPLIT[kind]())
    assert found is not None
    assert found.split("The river and  a stone.") == ["The", "river", "and  a", "stone."]


@pytest.mark.parametrize("kind", NOT_SPLIT)
def test_what_could_differ_is_not_split(kind: str) -> None:
    tokenizer = NOT_SPLIT[kind]()
    if kind == "tokens over a space":
        contents = json.loads(tokenizer.to_str())
        contents["model"]["vocab"]["a▁b"] = len(contents["model"]["vocab"])
        tokenizer = Tokenizer.from_str(json.dumps(contents))
    assert how(tokenizer) is None


def test_added_tokens_that_reach_over_a_space_keep_a_text_whole() -> None:
    tokenizer = byte_bpe(regex=True)
    tokenizer.add_tokens(
        [AddedToken("<right>", rstrip=True), AddedToken("<left>", lstrip=True), "new york", "  "]
    )
    found = how(tokenizer)
    assert found is not None
    assert found.split("a <left> b") == ["a", "<left>", "b"]
    assert found.split("a <right> b") == ["a <right> b"]
    assert found.split("a new york b") == ["a new york b"]
    counter = TokenCounter(tokenizer, id_count(tokenizer), found)
    texts = ["a <left> b", "a <right> b", "in new york now", "a  b", "a <left> <left> b <right>"]
    expected = np.zeros(id_count(tokenizer), dtype=np.int64)
    for text in texts:
        np.add.at(expected, tokenizer.encode(text).ids, 1)
    np.testing.assert_array_equal(counter.count(texts), expected)


@pytest.mark.parametrize("normalized", [True, False])
def test_a_token_that_is_found_in_normalised_text_forbids_to_split(normalized: bool) -> None:
    tokenizer = byte_bpe(regex=True)
    tokenizer.normalizer = n.Lowercase()
    tokenizer.add_tokens([AddedToken("new york", normalized=normalized)])
    found = how(tokenizer)
    assert (found is None) == normalized
    counter = TokenCounter(tokenizer, id_count(tokenizer), found)
    text = "a New York b"
    expected = np.bincount(tokenizer.encode(text).ids, minlength=id_count(tokenizer))
    np.testing.assert_array_equal(counter.count([text]), expected)


def test_memory_is_bounded() -> None:
    tokenizer = byte_bpe(regex=True)
    counter = TokenCounter(tokenizer, id_count(tokenizer), how(tokenizer), most=10)
    for number in range(50):
        counter.count([f"word{number} other{number}"])
    assert len(counter._others._numbers) == 10
    assert len(counter._firsts._numbers) == 1
