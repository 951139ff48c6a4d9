"""The files of a published OpenBA tokenizer, tiny."""

# ruff: noqa: RUF001  # full-width punctuation is what Chinese has

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece

PIECES = 360
TEXT = (
    "To insert a row into a table, place the cursor where the new row should be.",
    "The configuration file is stored in the home directory and can be changed there.",
    "the the the and and for in of to is on with that it as by from at (see page 12)",
    "要在表格中插入一行，请将光标放在表格中。",
    "选择“工具 - 选项”，然后单击确定。语言设置在这里。",
    "表格 选项 设置 语言 文件 系统 工具 光标 确定",
)


def train(directory: Path, **options: Any) -> Path:
    """A `spiece.model` as OpenBA's, but tiny."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 3), model_writer=model, byte_fallback=True, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
        **{"model_type": "unigram", "vocab_size": PIECES, **options},
    )  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "spiece.model").write_bytes(model.getvalue())
    return directory


def write_tokenizer(directory: Path) -> Path:
    """As published: the sentinels are named, their ids and those of the modes follow the pieces."""
    train(directory)
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    special = {**names, "additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)]}
    config = {
        **special, "tokenizer_class": "OpenBATokenizer", "extra_ids": 100, "sp_model_kwargs": {},
        "clean_up_tokenization_spaces": True, "model_max_length": 10**30,
    }  # fmt: skip
    modes = {mode: PIECES + 100 + i for i, mode in enumerate(("<R>", "<S>", "<X>"))}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "special_tokens_map.json").write_text(json.dumps(special))
    (directory / "added_tokens.json").write_text(json.dumps(modes))
    return directory
