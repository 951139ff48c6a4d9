"""What every family of tokenizers is checked for."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.tokenizers.alphabet import SPACE
from regrow.tokenizers.families import Constraints, VocabularyChoice, candidates_of
from regrow.tokenizers.sentencepiece_model import SentencePieceModel
from regrow.tokenizers.tokenizer_files import plan_tokenizer, read_tokenizer, vocabulary_candidates
from regrow.tokenizers.tokenizer_json import token_ids
from tests.tokenizers.bpe_cases import Json, decode, encode, load, zeros

Ids = NDArray[np.int64]

TEXT = (
    "To insert a row into a table, place the cursor where the new row should be.",
    "The configuration file is stored in the home directory and can be changed there.",
    "the the the and and for in of to is on with that it as by from at (see page 12)",
    "要在表格中插入一行，请将光标放在表格中。",  # noqa: RUF001
    "选择“工具 - 选项”，然后单击确定。语言设置在这里。",  # noqa: RUF001
    "表格 选项 设置 语言 文件 系统 工具 光标 确定",
    "def row(table):\n    return table[0]",
)
"""Training text: English, Chinese, code."""


def select(
    contents: Json,
    counts: Ids,
    size: int,
    named: Mapping[int, str] | None = None,
    constraints: Constraints | None = None,
    sentencepiece_models: Sequence[SentencePieceModel] = (),
) -> VocabularyChoice:
    """Exactly ``size`` tokens of the tokenizer."""
    return candidates_of(contents, counts, named, constraints, sentencepiece_models).choose(size)


def least_size(contents: Json) -> int:
    least = candidates_of(contents, zeros(contents)).least
    with pytest.raises(UserError, match=f"the least is {least:,}, since these must stay: "):
        select(contents, zeros(contents), least - 1)
    return least


def random_counts(contents: Json, seed: int) -> Ids:
    return np.random.default_rng(seed).integers(0, 4, size=len(zeros(contents)))


class Pruned:
    """A tokenizer and what is left of it."""

    def __init__(self, contents: Json, pruned: Json, kept: Ids) -> None:
        self.before, self.after = load(contents), load(pruned)
        self.mapping = {int(old): new for new, old in enumerate(kept)}
        token_ids(pruned)  # raises where the file states other ids than the library gives

    def check(self, text: str) -> bool:
        """Check both guarantees for ``text``; whether its encoding used kept tokens only."""
        old, new = encode(self.before, text), encode(self.after, text)
        assert decode(self.after, new) == decode(self.before, old)
        only_kept = all(token in self.mapping for token in old)
        if only_kept:
            assert new == [self.mapping[token] for token in old]
        return only_kept

    def check_dense(self) -> None:
        """Ids are dense, in the old order, and those that the library gives."""
        vocabulary = self.after.get_vocab(with_added_tokens=True)
        tokens = {self.before.id_to_token(old): new for old, new in self.mapping.items()}
        assert vocabulary == tokens
        assert sorted(vocabulary.values()) == list(range(len(self.mapping)))


def train_pieces(texts: Iterable[str] = TEXT * 3, **options: Any) -> bytes:
    """A `.model` that sentencepiece trained."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, num_threads=1, minloglevel=2,
        hard_vocab_limit=False, **options,
    )  # fmt: skip
    return model.getvalue()


def processor(model: bytes) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def check_pieces(before: Any, after: Any, text: str) -> bool:
    """The guarantees for sentencepiece itself; whether ``text`` used kept pieces only."""
    old = before.encode(text, out_type=str)
    assert after.decode(after.encode(text)) == before.decode(before.encode(text))
    known = {after.id_to_piece(i) for i in range(len(after))}
    ids = before.encode(text)
    only_kept = all(before.id_to_piece(i) in known for i in ids)
    if only_kept:
        assert after.encode(text, out_type=str) == old
        assert [after.id_to_piece(i) for i in after.encode(text)] == [
            before.id_to_piece(i) for i in ids
        ]
    return only_kept


def write_all(directory: Path, files: dict[str, bytes]) -> Path:
    directory.mkdir(exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def plain(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


class Case:
    """A directory, and what is left of it."""

    def __init__(self, source: Path, out: Path, model: str, size: int | float) -> None:
        contents = read_tokenizer(source)
        counts = zeros(contents)
        for text in TEXT[:3]:
            np.add.at(counts, encode(load(contents), text), 1)
        found = vocabulary_candidates(source, counts)
        if isinstance(size, float):
            size = int(found.least + size * (found.most - found.least))
        self.choice = found.choose(size)
        self.files = plan_tokenizer(source, self.choice)
        self.contents, self.source = contents, source
        self.directory = write_all(out, self.files)
        self.json = Pruned(contents, json.loads(self.files["tokenizer.json"]), self.choice.kept)
        model_json = json.loads(self.files["tokenizer.json"])["model"]
        self.scores = None
        if model_json["type"] == "Unigram":
            self.scores = [score for _, score in model_json["vocab"]]
        self.before = processor((source / model).read_bytes())
        self.after = processor(self.files[model])

    def check(self, text: str) -> None:
        """Both guarantees in both forms, which give the same ids after if they did before."""
        self.json.check(text)
        check_pieces(self.before, self.after, text)
        if plain(self.json.before, text) == self.before.encode(text):
            one, other = plain(self.json.after, text), self.after.encode(text)
            if self.scores is None:
                assert one == other
            elif one != other:  # a tie, which rounding to float32 or float64 decides
                paths = [sum(self.scores[i] for i in ids) for ids in (one, other)]
                assert paths[0] == pytest.approx(paths[1], abs=1e-4)
        else:  # a special token, or a space that transformers reads in its own way
            special = [token["content"] for token in self.contents["added_tokens"]]
            assert text.startswith((" ", SPACE)) or any(content in text for content in special)
