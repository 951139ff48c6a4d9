"""The name of a special token in a text is text, unless the text says that it means the token."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from regrow.corpus.encoding import TextWithSpecialTokens, encode
from tests.objectives.test_special_tokens import mt5, t5
from tests.tiny import add_tokenizer, sentences
from tests.tokenizers.unigram_cases import unigram_json

LETTERS = "▁abcdefghijklmnopqrstuvwxyz<>/_0123456789 "


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = add_tokenizer(tmp_path_factory.mktemp("tokenizer"), sentinels=8)
    return transformers.AutoTokenizer.from_pretrained(directory)


def unigram(pieces: list[str]) -> Any:
    contents = unigram_json([*((letter, -3.0) for letter in LETTERS), *((p, 0.0) for p in pieces)])
    inner = tokenizers.Tokenizer.from_str(json.dumps(contents))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.mark.parametrize(
    "tokenizer",
    [unigram([]), unigram(["▁<extra_id_3>", "▁a"]), unigram(["<extra_id_3>", "▁a"])],
    ids=["T5", "mT5", "pieces"],
)
@pytest.mark.parametrize("name", ["</s>", "<pad>", "<extra_id_3>", "<unk>"])
def test_names_of_special_tokens_are_spelled(tokenizer: Any, name: str) -> None:
    tokenizer.add_tokens(["<extra_id_3>"], special_tokens=True)
    texts = [f"a {name} b", f"{name}b", "a b"]
    found = encode(texts, tokenizer)
    special = {*tokenizer.all_special_ids} | {
        number for token, number in tokenizer.get_vocab().items() if "extra_id" in token
    }
    for text, ids in zip(texts, found, strict=True):
        assert special.isdisjoint(ids)
        spelled = "".join(tokenizer.convert_ids_to_tokens(ids))
        assert spelled.removeprefix("▁") == text.replace(" ", "▁")


def test_names_are_spelled_with_bytes(byte_level: Any) -> None:
    byte_level_ids = encode(["The <eos> river <extra_id_3>"], byte_level)[0]
    assert special_in(byte_level_ids, byte_level) == []
    assert byte_level.decode(byte_level_ids) == "The <eos> river <extra_id_3>"


def test_names_that_merges_make_are_spelled() -> None:
    letters = ["a", "b", "<", ">", "s", " "]
    vocab = {token: n for n, token in enumerate([*letters, "s>", "<s>", "ab"])}
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocab, merges=[("s", ">"), ("<", "s>"), ("a", "b")])
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")
    assert tokenizer.convert_ids_to_tokens(encode(["ab <s>"], tokenizer)[0]) == [
        "ab", " ", "<", "s>",
    ]  # fmt: skip


def special_in(ids: list[int], tokenizer: Any) -> list[int]:
    return [token for token in ids if token in tokenizer.all_special_ids]


def test_a_text_may_mean_the_tokens(byte_level: Any) -> None:
    """Beside one that does not; a slice means what the text did."""
    eos = byte_level.eos_token_id
    plain = "The river.<eos>"
    found = encode([plain, TextWithSpecialTokens(plain), plain], byte_level)
    assert [ids.count(eos) for ids in found] == [0, 1, 0]
    assert encode([TextWithSpecialTokens(plain)[4:]], byte_level)[0][-1] == eos


@pytest.mark.parametrize("make", [lambda: t5(100), mt5], ids=["T5", "mT5"])
def test_other_texts_have_the_ids_that_they_had(make: Any) -> None:
    tokenizer = make()
    texts = ["a bed", "", "in  dire need", "x" * 20, "日 unknown"]
    assert encode(texts, tokenizer) == tokenizer(texts, add_special_tokens=False)["input_ids"]


def test_tokens_that_are_not_special_stay(byte_level: Any) -> None:
    """Also those that were added after the first text."""
    text = sentences(1)[0] + " zebras"
    before = encode([text], byte_level)
    byte_level.add_tokens(["zebras"])
    after = encode([text], byte_level)
    assert after != before
    assert after[0][-1] == byte_level.convert_tokens_to_ids("zebras")


def test_a_special_token_that_was_added_later_is_known(tmp_path: Path) -> None:
    tokenizer = unigram([])
    assert encode(["a </s>"], tokenizer)
    tokenizer.add_tokens(["<a>"], special_tokens=True)
    found = encode(["b <a> </s>"], tokenizer)[0]
    assert "".join(tokenizer.convert_ids_to_tokens(found)) == "▁b▁<a>▁</s>"
