"""Which tokens are sentinels, with tokenizers as they are published."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from regrow.architectures.t5 import MT5
from regrow.evaluation.generation import _read
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.rows.span_corruption import denoising_tokens
from regrow.objectives.special_tokens import SENTINELS, missing_sentinels, sentinel_ids
from tests.tiny import write_tiny

BEFORE = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
LETTERS = [(letter, -3.0) for letter in "▁<>_abcdeinrtx0123456789"]


def names(count: int, space: str = "") -> list[str]:
    """Sentinels whose ids fall as their numbers rise, as in all published tokenizers."""
    return [f"{space}<extra_id_{number}>" for number in reversed(range(count))]


def t5(extra_ids: int) -> Any:
    """As T5 and Flan-T5 (100), and UMT5 (300): special tokens behind the pieces."""
    return transformers.T5Tokenizer(
        vocab=[*BEFORE, *LETTERS, *((name, 0.0) for name in names(extra_ids))],
        extra_ids=extra_ids,
    )


def mt5(count: int = 100) -> Any:
    """As mT5: normal pieces of SentencePiece, with a space before the name, and `extra_ids` 0."""
    pieces = [(name, 0.0) for name in names(count, "▁")]
    return transformers.T5Tokenizer(vocab=[*BEFORE, *LETTERS, *pieces], extra_ids=0)


def gemma() -> Any:
    """As T5Gemma: Gemma's, which has unused tokens and no sentinels."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<unused{n}>" for n in range(99))]
    tokens = [*special, *(letter for letter, _ in LETTERS)]
    inner = Tokenizer(
        models.BPE({token: number for number, token in enumerate(tokens)}, [], unk_token="<unk>")
    )
    inner.add_special_tokens(special)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def bart() -> Any:
    """As BART: bytes, and a mask."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    inner.add_special_tokens(special)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, mask_token="<mask>")


@pytest.mark.parametrize("tokenizer", [t5(100), t5(300), mt5()], ids=["T5", "UMT5", "mT5"])
def test_all_sentinels_are_found_in_order(tokenizer: Any) -> None:
    found = sentinel_ids(tokenizer)
    assert len(found) == (300 if "<extra_id_299>" in tokenizer.get_vocab() else 100)
    spelled = tokenizer.convert_ids_to_tokens(list(found))
    assert [name.removeprefix("▁") for name in spelled] == names(len(found))[::-1]
    assert missing_sentinels(tokenizer) == ()


@pytest.mark.parametrize("tokenizer", [gemma(), bart()], ids=["T5Gemma", "BART"])
def test_who_has_none_is_given_all(tokenizer: Any) -> None:
    assert sentinel_ids(tokenizer) == ()
    assert missing_sentinels(tokenizer) == SENTINELS
    tokenizer.add_tokens(list(SENTINELS), special_tokens=True)
    assert sentinel_ids(tokenizer) == tuple(tokenizer.convert_tokens_to_ids(list(SENTINELS)))


def test_an_unknown_token_is_no_sentinel() -> None:
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert sentinel_ids(bare) == ()


def test_examples_and_prompts_are_written_with_those_of_mt5(tmp_path: Path) -> None:
    directory = write_tiny(
        MT5, tmp_path / "m", vocab_size=130, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    )  # fmt: skip
    mt5().save_pretrained(directory)
    tokenizer, model = load_tokenizer(directory), load_model(directory)
    ids = tokenizer.get_vocab()
    wanted = tuple(ids[f"▁{name}"] for name in SENTINELS)
    assert denoising_tokens(tokenizer, model.config).sentinels == wanted
    assert json.loads((directory / "tokenizer_config.json").read_text())["extra_ids"] == 0
    tokenizer.add_tokens(["<S>"], special_tokens=True)
    read = _read(model, tokenizer, "a bed", chat=None)
    assert read.begin[-1] == wanted[0]
    assert read.tokens[-2] == wanted[0]
