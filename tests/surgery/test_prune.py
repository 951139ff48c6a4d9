"""Prune one directory: cut it, repeat the cut, and write nothing before all checks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import regrow
from regrow.architectures import Blueprint, Layout
from regrow.architectures.bart import BART
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.llama import LLAMA
from regrow.architectures.t5 import T5
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from regrow.common.progress import Progress, telling_parts
from regrow.cuts.cut import CUT_FILE, Cut
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prepared_cut import Pruned
from regrow.surgery.prune import prepare_cut, prune_checkpoint
from regrow.surgery.result_files import ORIGIN_FILE
from tests.surgery.carving import assert_same_bytes, tensors
from tests.tiny import sentences, write_model, write_seq2seq, write_text, write_tiny


def _prune(source: Path, out: Path, *, seed: int = 0, **options: Any) -> Pruned:
    by = {} if "cut" in options or "drop_layers" in options else {"by": "random"}
    return prune_checkpoint(ModelDirectory(source), out, CutSpec(**by, **options), seed=seed)


def _with(directory: Path, name: str, tensor: torch.Tensor) -> Path:
    """Add a tensor to a directory."""
    state = load_file(directory / "model.safetensors")
    save_file({**state, name: tensor}, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


# Bound


def _stored_head(tmp_path: Path, difference: float) -> Path:
    source = write_tiny(LLAMA, tmp_path / "in", 1)
    embedding = load_file(source / "model.safetensors")["model.embed_tokens.weight"].clone()
    embedding[-1, -1] += difference
    return _with(source, "lm_head.weight", embedding)


@pytest.mark.parametrize("flag", [True, None])
def test_head_is_tied_where_its_bytes_are_the_embedding(tmp_path: Path, flag: bool | None) -> None:
    source = _stored_head(tmp_path, 0.0)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": flag}))
    layout = bind_checkpoint(open_checkpoint(source))
    assert layout.tied
    assert "embedding" in layout.parameters_by_part()
    assert "head" not in layout.parameters_by_part()


def test_head_that_differs_is_refused_where_it_should_be_tied(tmp_path: Path) -> None:
    source = _stored_head(tmp_path, 1e-3)
    with pytest.raises(UserError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        bind_checkpoint(open_checkpoint(source))


def test_untied_head_is_its_own_even_when_it_is_equal(tmp_path: Path) -> None:
    source = _stored_head(tmp_path, 0.0)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert not bind_checkpoint(open_checkpoint(source)).tied


# Pruned


@pytest.mark.parametrize(
    ("blueprint", "options"),
    [
        (LLAMA, dict(layers=2, hidden=12, ffn=8, heads=4, kv_heads=2)),
        (GPT_NEOX, dict(layers=2, hidden=16, heads=2)),
        (GEMMA2, dict(layers=3, hidden=12, ffn=8)),
        (T5, dict(layers=dict(encoder=2, decoder=1), hidden=12, ffn=8, heads=2)),
    ],
    ids=lambda value: value.model_type if isinstance(value, Blueprint) else "",
)
def test_result_is_a_model(tmp_path: Path, blueprint: Blueprint, options: dict[str, Any]) -> None:
    source = write_tiny(blueprint, tmp_path / "in")
    (source / "LICENSE").write_text("mine")
    (source / "generation_config.json").write_text('{"eos_token_id": 1}')
    (source / "training_args.bin").write_bytes(b"not copied")
    pruned = _prune(source, tmp_path / "out", **options)
    kind = "Seq2SeqLM" if blueprint.is_encoder_decoder else "CausalLM"
    model, report = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert pruned.parameters == sum(p.numel() for p in model.parameters())
    assert pruned.parameters == sum(pruned.parts.values())
    assert pruned.parameters_before == sum(pruned.parts_before.values())
    assert pruned.parameters < pruned.parameters_before
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json", "model.safetensors", "LICENSE", "generation_config.json", CUT_FILE,
        ORIGIN_FILE, "README.md", "regrow_history.json",
    }  # fmt: skip
    assert Cut.load(tmp_path / "out" / CUT_FILE) == pruned.cut
    assert Cut.load(tmp_path / "out" / ORIGIN_FILE) == pruned.cut
    assert pruned.cut.model == open_checkpoint(source).fingerprint


def test_folds_are_said(tmp_path: Path) -> None:
    source = write_tiny(GEMMA2, tmp_path / "in")
    notes = _prune(source, tmp_path / "out", hidden=12).notes
    assert any(note.startswith("model.embed_tokens.weight: scaled") for note in notes)
    assert _prune(source, tmp_path / "narrow", ffn=3).notes == ()


def test_ignored_tensors_are_said(tmp_path: Path) -> None:
    source = write_tiny(GPT_NEOX, tmp_path / "in")
    name = "gpt_neox.layers.0.attention.bias"
    _with(source, name, torch.ones(1, 1, 4, 4))
    pruned = _prune(source, tmp_path / "out", ffn=3)
    assert pruned.notes == (f"{name}: dropped, gpt_neox ignores it",)
    assert name not in tensors(tmp_path / "out")


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    cuts = [
        _prune(source, tmp_path / name, seed=seed, ffn=8, layers=2).cut
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert cuts[0] == cuts[1] != cuts[2]
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_score_of_the_user(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")

    def descending(layout: Layout, axis: str, *_: Any) -> NDArray[np.float64]:
        return -np.arange(layout.sizes[axis], dtype=np.float64)

    pruned = regrow.prune(source, tmp_path / "out", ffn=8, by=descending)
    assert pruned.cut.axes["ffn"].keep.tolist() == list(range(8))
    cut = tmp_path / "out" / CUT_FILE
    with pytest.raises(UserError, match="a cut file says all that is cut"):
        regrow.prune(source, tmp_path / "again", cut=cut, by=descending)


def test_cut_file_repeats_the_cut(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    _prune(source, tmp_path / "a", ffn=8, layers=2, heads=3)
    _prune(source, tmp_path / "b", cut=tmp_path / "a" / CUT_FILE)
    assert_same_bytes(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


def test_origin_leads_from_the_first_model_to_the_last(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    _prune(source, tmp_path / "a", ffn=12, layers=3, hidden=18)
    _prune(tmp_path / "a", tmp_path / "b", drop_layers="1")
    _prune(tmp_path / "b", tmp_path / "c", ffn=5, heads=3, hidden=12)
    origin = Cut.load(tmp_path / "c" / ORIGIN_FILE)
    assert origin.model == open_checkpoint(source).fingerprint
    assert origin.sizes == {"ffn": 5, "layer": 2, "hidden": 12, "head": 3}
    _prune(source, tmp_path / "d", cut=tmp_path / "c" / ORIGIN_FILE)
    assert_same_bytes(tensors(tmp_path / "c"), tensors(tmp_path / "d"))


# Refused before anything is written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(hidden=13), "12 or 18 would be right"),
        (dict(layers=5), "layers: 5 is not between 1 and 4"),
        (dict(drop_layers="0-3"), "no layer is left"),
        (dict(heads=5), "whole groups of 2"),
        (dict(cut=Path("/nonexistent/cut.json")), "no such file"),
    ],
)
def test_refuses(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    with pytest.raises(UserError, match=message):
        _prune(source, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_option_that_was_given_is_blamed(tmp_path: Path) -> None:
    """The number of query heads follows from that of key-value heads, and 32 is no multiple."""
    source = write_tiny(
        LLAMA, tmp_path / "in", hidden_size=32, num_attention_heads=8, num_key_value_heads=4
    )
    with pytest.raises(UserError, match=r"^kv_heads: .* refuses 32 with 6 heads.*; 4 or 8 heads w"):
        _prune(source, tmp_path / "out", kv_heads=3)


def test_refuses_the_cut_of_another_model(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    other = write_tiny(LLAMA, tmp_path / "other", dtype=torch.bfloat16)
    _prune(source, tmp_path / "a", ffn=8)
    with pytest.raises(UserError, match="cut: it was made for model sha256:"):
        _prune(other, tmp_path / "b", cut=tmp_path / "a" / CUT_FILE)
    assert not (tmp_path / "b").exists()


def test_refuses_an_output_in_use_before_it_reads(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("")
    with pytest.raises(UserError, match="already holds something"):
        _prune(tmp_path / "nothing", tmp_path / "out", ffn=8)


@pytest.mark.parametrize(
    ("by", "parts"),
    [(None, ["scoring, batch", "refitting, layer"]),
     ("taylor", ["scoring, batch", "refitting, layer"]),
     ("loss", ["scoring, layers by loss, batch", "refitting, layer"])],
)  # fmt: skip
def test_scores_and_refits_tell_how_far_they_are(
    tmp_path: Path, by: str | None, parts: list[str]
) -> None:
    source = ModelDirectory(write_model(tmp_path / "in"))
    sizes = {"layers": 3} if by == "loss" else {"ffn": 40}
    spec = CutSpec(**sizes, by=by, calibration_tokens=3_000)
    heard: list[tuple[str, int, int]] = []
    with telling_parts(lambda *part: heard.append(part)):
        prune_checkpoint(source, tmp_path / "out", spec, documents=lambda: iter(sentences(300)))
    doings = dict.fromkeys(doing for doing, _, total in heard if total > 1)
    assert list(doings) == parts
    assert ("loading the model", 0, 1) in heard
    for part in parts:
        told = [(done, total) for doing, done, total in heard if doing == part]
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert len({total for _, total in told}) == 1
        assert len(told) > 2


@pytest.mark.parametrize("by", [None, "loss"])
def test_rows_are_no_longer_than_the_positions_that_a_model_has_learned(
    tmp_path: Path, by: str | None
) -> None:
    model = write_seq2seq(tmp_path / "m", BART, max_position_embeddings=40)
    text = write_text(tmp_path / "text.jsonl", sentences(400))
    done = regrow.prune(
        model, tmp_path / "out", layers={"encoder": 2}, by=by, calibration=text,
        calibration_tokens=4_096, refit_passes=1,
    )  # fmt: skip
    assert done.cut.sizes["encoder.layer"] == 2
    assert done.refitted


def test_a_refit_may_read_more_text_than_scores_do(tmp_path: Path) -> None:
    source = ModelDirectory(write_model(tmp_path / "in"))
    spec = CutSpec(ffn=40, calibration_tokens=20_480)
    said: list[str] = []
    prune_checkpoint(
        source, tmp_path / "out", spec, documents=lambda: iter(sentences(3_000)),
        progress=Progress(say=said.append),
    )  # fmt: skip
    assert "scoring on 16,384 tokens" in said
    assert "refitting on 20,480 tokens" in said


@pytest.mark.parametrize("by", ["activation", "magnitude"])
def test_a_notice_about_the_text_is_said_once(tmp_path: Path, by: str) -> None:
    """By the refit, if scores read no text."""
    source = ModelDirectory(write_model(tmp_path / "in"))
    said: list[str] = []
    prepare_cut(
        source, CutSpec(ffn=40, by=by), documents=lambda: iter(sentences(100)),
        progress=Progress(say=said.append),
    )  # fmt: skip
    notices = [text for text in said if "of the 16,384 asked for" in text]
    assert len(notices) == 1


def test_dry_run_writes_nothing_and_says_the_same(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    spec = CutSpec(ffn=8, hidden=12, by="random")
    dry = prepare_cut(ModelDirectory(source), spec).result(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    progress_calls: list[tuple[int, int]] = []
    wet = prune_checkpoint(
        ModelDirectory(source),
        tmp_path / "out",
        spec,
        progress=Progress(advance=lambda *given: progress_calls.append(given)),
    )
    assert (dry.cut, dry.parameters, dry.nbytes, dry.parts) == (
        wet.cut, wet.parameters, wet.nbytes, wet.parts,
    )  # fmt: skip
    assert dry.seconds == 0
    assert progress_calls[-1][0] == progress_calls[-1][1]
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert wet.nbytes == written
