"""Prune the vocabulary of a model whose tokenizer is a SentencePiece `.model` file."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from regrow.architectures.openba import OPENBA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.models.loading import load_model, load_tokenizer
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint
from regrow.surgery.result_files import VOCABULARY_FILE
from regrow.vocabulary.vocabulary_spec import VocabularySpec
from tests.models.openba_files import PIECES, TEXT, write_tokenizer
from tests.tiny import write_tiny

SIZE = 440
ROWS = PIECES + 110


def documents() -> Iterator[str]:
    yield from TEXT[:3] * 40


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    source = tmp_path_factory.mktemp("openba") / "in"
    write_tiny(OPENBA, source, vocab_size=ROWS)
    write_tokenizer(source)
    generation = {"decoder_start_token_id": 0, "eos_token_id": 1, "suppress_tokens": [2, 359, 462]}
    (source / "generation_config.json").write_text(json.dumps(generation))
    out = source.with_name("out")
    prune_checkpoint(ModelDirectory(source), out, CutSpec(vocab_size=SIZE), documents=documents)
    return source, out


def kept_in(out: Path) -> list[int]:
    tokens = json.loads((out / VOCABULARY_FILE).read_text(encoding="utf-8"))["tokens"]
    return [token[0] for token in tokens]


def test_rows_are_equal_and_so_are_the_logits_of_kept_text(pruned: tuple[Path, Path]) -> None:
    source, out = pruned
    kept = kept_in(out)
    assert len(kept) == SIZE
    tokenizers: list[Any] = [load_tokenizer(directory) for directory in pruned]
    before, after = load_model(source), load_model(out)
    rows = before.get_input_embeddings().weight[kept]
    assert torch.equal(after.get_input_embeddings().weight, rows)
    new = {old: place for place, old in enumerate(kept)}
    for text in (*TEXT[:3], f"<S> {TEXT[0]} <extra_id_0>"):
        ids, again = (tokenizer(text).input_ids for tokenizer in tokenizers)
        assert again == [new[token] for token in ids]
        target = [0, *ids[-3:]]
        with torch.no_grad():
            old = before(
                input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([target])
            ).logits[..., kept]
            found = after(
                input_ids=torch.tensor([again]),
                decoder_input_ids=torch.tensor([[new[token] for token in target]]),
            ).logits
        assert found.shape[-1] == SIZE
        torch.testing.assert_close(found, old, atol=1e-5, rtol=0)


def test_no_id_is_stale(pruned: tuple[Path, Path]) -> None:
    source, out = pruned
    tokenizer: Any = load_tokenizer(out)
    config = json.loads((out / "config.json").read_text())
    assert config["vocab_size"] == SIZE == len(tokenizer)
    generation = json.loads((out / "generation_config.json").read_text())
    new = {old: place for place, old in enumerate(kept_in(out))}
    suppressed = [new[token] for token in (2, 359, 462) if token in new]
    assert generation == {
        "decoder_start_token_id": 0, "eos_token_id": 1, "suppress_tokens": suppressed,
    }  # fmt: skip
    added = json.loads((out / "added_tokens.json").read_text())
    assert added == {mode: SIZE - 3 + i for i, mode in enumerate(("<R>", "<S>", "<X>"))}
    names = json.loads((source / "special_tokens_map.json").read_text())
    assert json.loads((out / "special_tokens_map.json").read_text()) == names
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(100)])
    assert sentinels == list(range(SIZE - 4, SIZE - 104, -1))


def test_pruned_again_it_is_what_one_cut_gives(pruned: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = pruned
    for directory, first in ((source, tmp_path / "one"), (out, tmp_path / "two")):
        prune_checkpoint(
            ModelDirectory(directory), first, CutSpec(vocab_size=420), documents=documents
        )
    for name in ("spiece.model", "model.safetensors", "added_tokens.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_size_below_what_must_stay_names_the_least(
    pruned: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"the least is 364, .* 257 byte") as error:
        prune_checkpoint(
            ModelDirectory(pruned[0]),
            tmp_path / "out",
            CutSpec(vocab_size=300),
            documents=documents,
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_padding_leaves_all_forms_of_the_tokenizer_as_they_are(
    pruned: tuple[Path, Path], tmp_path: Path
) -> None:
    source, plain = pruned
    spec = CutSpec(vocab=VocabularySpec(size=SIZE, pad_to=64))
    done = prune_checkpoint(ModelDirectory(source), tmp_path / "out", spec, documents=documents)
    rows = done.cut.sizes["vocab"]
    assert (rows, done.cut.axes["vocab"].padded) == (448, 448 - SIZE)
    for name in ("spiece.model", "tokenizer_config.json", "added_tokens.json"):
        assert (tmp_path / "out" / name).read_bytes() == (plain / name).read_bytes()
    before, after = (
        json.loads((out / "generation_config.json").read_text())
        for out in (plain, tmp_path / "out")
    )
    suppressed = [*(before["suppress_tokens"] or []), *range(SIZE, rows)]
    assert after == {**before, "suppress_tokens": suppressed}
    found: Any = load_model(tmp_path / "out")
    assert found.get_output_embeddings().weight.shape[0] == rows
    ids = found.generate(torch.tensor([[5, 6, 1]]), max_new_tokens=8, do_sample=False)
    assert ids.max() < SIZE


def test_a_vocabulary_in_another_format_is_left_out_and_that_is_said(
    pruned: tuple[Path, Path], tmp_path: Path
) -> None:
    source = tmp_path / "in"
    shutil.copytree(pruned[0], source)
    (source / "old.tiktoken").write_bytes(b"the old one")
    done = prune_checkpoint(
        ModelDirectory(source), tmp_path / "out", CutSpec(vocab_size=SIZE), documents=documents
    )
    assert done.notes == ("old.tiktoken: left out, it holds the old vocabulary",)
    assert not (tmp_path / "out/old.tiktoken").exists()
    assert (tmp_path / "out/spiece.model").exists()
