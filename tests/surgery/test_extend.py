"""Added tokens: old rows are unchanged, new rows are means, tokenizer and configs agree."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import regrow.surgery.carve as carving
from regrow.architectures import Blueprint
from regrow.architectures.bart import BART, MBART
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.llama import LLAMA
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.checkpoint.verify import verify_all
from regrow.common.errors import UserError
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.registry import missing_tokens
from regrow.objectives.special_tokens import SENTINELS
from regrow.surgery.extend import add_merged_tokens, add_tokens, ensure_tokens
from tests.surgery.carving import sharded
from tests.tiny import add_tokenizer, sentences, write_tiny

TOKENS = [*SENTINELS[:5], "<X>"]
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CASES = [
    (LLAMA, 0), (LLAMA, 1), (GEMMA2, 0), (BART, 0), (MBART, 0), (T5, 0), (T5GEMMA, 0), (OPENBA, 0),
    (OPENBA, 1),
]  # fmt: skip
NAMES = [f"{blueprint.model_type}-{number}" for blueprint, number in CASES]


def write(
    out: Path, blueprint: Blueprint, number: int, rows: int, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a model with a tokenizer of 320 tokens and `rows` rows in the embedding."""
    ids = {**IDS, **({"decoder_start_token_id": 0} if blueprint.is_encoder_decoder else {})}
    ids |= {"forced_eos_token_id": 2} if blueprint is BART else {}
    stacks = {
        name: {**stack, "vocab_size": rows}
        for name, stack in blueprint.tiny[number].items()
        if isinstance(stack, dict)
    }
    write_tiny(blueprint, out, number, dtype, **{"vocab_size": rows, **stacks, **ids})
    (out / "generation_config.json").write_text(json.dumps(ids), encoding="utf-8")
    return add_tokenizer(out)


def logits(directory: Path, ids: list[int]) -> torch.Tensor:
    model = load_model(directory)
    given = {"input_ids": torch.tensor([ids])}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = given["input_ids"]
    with torch.no_grad():
        found: torch.Tensor = model(**given).logits[0]
    return found


@pytest.mark.parametrize("rows", [320, 323, 330])
@pytest.mark.parametrize(("blueprint", "number"), CASES, ids=NAMES)
def test_old_tokens_stay_and_new_ones_are_the_mean(
    tmp_path: Path, blueprint: Blueprint, number: int, rows: int
) -> None:
    source = write(tmp_path / "m", blueprint, number, rows)
    add_tokens(ModelDirectory(source), tmp_path / "new", TOKENS)
    before, after = (load_file(d / "model.safetensors") for d in (source, tmp_path / "new"))
    assert before.keys() == after.keys()
    layout = bind_checkpoint(open_checkpoint(source))
    grown = bind_checkpoint(open_checkpoint(tmp_path / "new"))
    assert grown.sizes["vocab"] == max(rows, 326)
    assert grown.tied == layout.tied
    of_tokens = 0
    for name, old in before.items():
        new = after[name]
        dims = [d.names for d in layout.tensors[name].dims.dimensions]
        axes = [axis for axis, names in enumerate(dims) if "vocab" in names]
        if not axes:
            assert torch.equal(old, new)
            continue
        of_tokens += 1
        old, new = old.transpose(0, axes[0]), new.transpose(0, axes[0])
        assert torch.equal(new[:320], old[:320])
        assert torch.equal(new[326:], old[326:])
        mean = old[:320].double().mean(0).expand_as(new[320:326])
        torch.testing.assert_close(new[320:326].double(), mean, rtol=1e-6, atol=1e-7)
    assert of_tokens >= 1
    ids = load_tokenizer(source)(sentences(1)[0])["input_ids"]
    assert torch.equal(logits(source, ids)[:, :320], logits(tmp_path / "new", ids)[:, :320])


def test_the_tokenizer_reads_as_before(tmp_path: Path) -> None:
    source = write(tmp_path / "m", BART, 0, 320)
    add_tokens(ModelDirectory(source), tmp_path / "new", TOKENS)
    old, new = load_tokenizer(source), load_tokenizer(tmp_path / "new")
    assert new.convert_tokens_to_ids(TOKENS) == list(range(320, 326))
    assert len(new) == 326
    for text in sentences(5):
        assert new(text)["input_ids"] == old(text)["input_ids"]
    marked = f"The <extra_id_3> river{TOKENS[-1]}"
    assert {323, 325} <= set(new(marked)["input_ids"])
    assert new.decode([323, 325], skip_special_tokens=True).strip() == ""


def test_anyone_can_load_it(tmp_path: Path) -> None:
    """All in one process. The library always warns about a T5 with an untied head."""
    made = []
    for name, (blueprint, number) in zip(NAMES, CASES, strict=True):
        source = write(tmp_path / name, blueprint, number, 320)
        made.append(tmp_path / f"{name}-new")
        add_tokens(ModelDirectory(source), made[-1], TOKENS)
    checked = verify_all(made)
    for name, result in zip(NAMES, checked, strict=True):
        failed = {check.name for check in result.checks if not check.ok}
        assert failed <= ({"no warnings"} if name == "t5-0" else set()), result.checks


def test_shards_and_bfloat16(tmp_path: Path) -> None:
    source = write(tmp_path / "m", LLAMA, 0, 320, torch.bfloat16)
    state = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = list(state)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, str(source / file), {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (source / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    add_tokens(ModelDirectory(source), tmp_path / "new", TOKENS)
    checkpoint = open_checkpoint(tmp_path / "new")
    assert {info.dtype for info in checkpoint.tensors.values()} == {"BF16"}
    assert {n: info.file.name for n, info in checkpoint.tensors.items()} == weight_map
    name = "model.embed_tokens.weight"
    new = load_file(tmp_path / "new" / weight_map[name])[name]
    mean = state[name].double().mean(0).to(torch.bfloat16)
    assert all(torch.equal(row, mean) for row in new[320:])


def test_no_file_lies_elsewhere_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process leaves its files where the next one with the same target removes them."""
    source = write(tmp_path / "m", LLAMA, 0, 320)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    add_tokens(ModelDirectory(source), tmp_path / "new", TOKENS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "new"]
    assert not (tmp_path / "new/tokenizer").exists()


def test_it_is_made_once_and_only_where_something_lacks(tmp_path: Path) -> None:
    source = ModelDirectory(write(tmp_path / "m", LLAMA, 0, 320))
    messages: list[str] = []
    first = ensure_tokens(source, TOKENS, tmp_path / "cache", messages.append)
    assert ensure_tokens(source, TOKENS, tmp_path / "cache", messages.append) == first
    assert len(messages) == 1
    assert ensure_tokens(first, TOKENS, tmp_path / "cache", messages.append) == first
    assert ensure_tokens(source, [], tmp_path / "cache", messages.append) == source
    assert [p.name for p in (tmp_path / "cache/extended").iterdir()] == [first.path.name]


def test_it_is_made_again_for_other_tokens_and_other_files(tmp_path: Path) -> None:
    source = write(tmp_path / "m", LLAMA, 0, 320)

    def made(tokens: Sequence[str]) -> ModelDirectory:
        return ensure_tokens(ModelDirectory(source), tokens, tmp_path / "cache", lambda _: None)

    first, others = made(TOKENS), made([f"{each}'" for each in TOKENS])
    assert others.path != first.path
    assert f"{TOKENS[0]}'" in others.tokenizer.get_vocab()
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert made(TOKENS).config.rms_norm_eps == 1e-3


def test_what_cannot_be_extended_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "m", LLAMA, 0, 320)
    with pytest.raises(UserError, match="already has <pad>"):
        add_tokens(ModelDirectory(source), tmp_path / "new", ["<pad>"])
    small = write(tmp_path / "small", LLAMA, 0, 300)
    with pytest.raises(UserError, match="ids up to 319, the embedding 300 rows"):
        add_tokens(ModelDirectory(small), tmp_path / "new", TOKENS)

    import regrow.surgery.extend as module

    whole = load_tokenizer

    def forgetful(directory: Path) -> Any:
        if directory != source:
            for path in directory.glob("tokenizer*"):
                path.write_bytes((source / path.name).read_bytes())
        return whole(directory)

    monkeypatch.setattr(module, "load_tokenizer", forgetful)
    with pytest.raises(UserError, match="cannot be given tokens without changing"):
        add_tokens(ModelDirectory(source), tmp_path / "new", TOKENS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "small"]


def test_what_each_objective_lacks(tmp_path: Path) -> None:
    bare = load_tokenizer(add_tokenizer(tmp_path))
    assert missing_tokens("causal", bare) == missing_tokens("prefix-lm", bare) == ()
    assert missing_tokens("span-corruption", bare) == SENTINELS
    assert missing_tokens("ul2", bare) == (*SENTINELS, "<R>", "<S>", "<X>")
    bare.add_tokens(["<extra_id_0>", "<S>"], special_tokens=True)
    assert missing_tokens("o-ul2", bare) == ("<R>", "<X>")
    assert missing_tokens("span-corruption", bare) == ()


def test_padded_ids_that_get_a_token_are_no_longer_suppressed(tmp_path: Path) -> None:
    source = write(tmp_path / "in", LLAMA, 0, rows=330)
    path = source / "generation_config.json"
    path.write_text(json.dumps({**IDS, "suppress_tokens": [7, *range(320, 330)]}))
    add_tokens(ModelDirectory(source), tmp_path / "out", TOKENS)
    found = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert found == {**IDS, "suppress_tokens": [7, *range(320 + len(TOKENS), 330)]}


@pytest.mark.parametrize("buffer", [8, 1 << 9, 1 << 14])
@pytest.mark.parametrize("rows", [320, 330])
def test_small_buffers_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, buffer: int
) -> None:
    """Blocks begin and end before, within and after the new rows."""
    source = write(tmp_path / "m", LLAMA, 0, rows, torch.bfloat16)
    merges = [("a", "b"), ("ab", "c")]
    add_tokens(ModelDirectory(source), tmp_path / "extended", TOKENS)
    add_merged_tokens(ModelDirectory(source), tmp_path / "grown", merges)
    monkeypatch.setattr(carving, "BUFFER_BYTES", buffer)
    add_tokens(ModelDirectory(source), tmp_path / "extended-again", TOKENS)
    add_merged_tokens(ModelDirectory(source), tmp_path / "grown-again", merges)
    for name in ("extended", "grown"):
        for path in (tmp_path / name).iterdir():
            assert path.read_bytes() == (tmp_path / f"{name}-again" / path.name).read_bytes()


def test_a_single_shard_with_an_index_keeps_it(tmp_path: Path) -> None:
    source = sharded(write(tmp_path / "m", LLAMA, 0, 320), 1)
    add_tokens(ModelDirectory(source), tmp_path / "new", TOKENS)
    (file,) = open_checkpoint(tmp_path / "new").files
    assert file.name == "model-00001-of-00001.safetensors"


def test_rows_are_added_to_floats_only(tmp_path: Path) -> None:
    source = add_tokenizer(write_tiny(LLAMA, tmp_path / "in", 1, vocab_size=320))
    state = load_file(source / "model.safetensors")
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"].to(torch.int64)
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"embed_tokens\.weight is I64; new rows are means"):
        add_tokens(ModelDirectory(source), tmp_path / "out", ["<new>"])
    assert not (tmp_path / "out").exists()
