"""Rotation: a cut of hidden keeps principal directions of the residual stream."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import regrow
from regrow.architectures import BLUEPRINTS, Blueprint
from regrow.architectures.bart import MBART
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.granite import GRANITE
from regrow.architectures.llama import LLAMA
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import MT5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import QUIET
from regrow.cuts.cut import AxisCut, Cut
from regrow.cuts.rotatable import rotation_problem
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.recipe import Recipe
from regrow.pipeline.stage_layouts import at_once_stage, layouts_by_stage
from regrow.pipeline.summary import summarise
from regrow.scoring.batches import without_loss
from regrow.scoring.calibration import Calibration
from regrow.scoring.observe import read_batch
from regrow.scoring.stream import measure_stream, read_by
from regrow.surgery.carve import carve, with_corrections
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prepare_cut, repeat_cut
from regrow.surgery.refitting.refit import refit
from regrow.surgery.result_files import plan_output
from regrow.surgery.rotation import Rotation, _balanced, rotated, rotation_of
from regrow.surgery.search.measure import CalibrationDraw, Measurement
from regrow.surgery.search.measured_cuts import MeasuredCuts
from regrow.surgery.search.text import read_search_text
from tests.surgery.carving import assert_same_bytes, tensors
from tests.tiny import (
    add_tokenizer,
    sentences,
    tiny_layout,
    write_model,
    write_text,
    write_tiny,
)

torch.set_num_threads(1)

EACH = [
    (each, number)
    for each in BLUEPRINTS
    for number in range(len(each.tiny))
    if rotation_problem(tiny_layout(each, number)) is None
]
SOME = [LLAMA, GPT_NEOX, OPENBA, MT5]
WIDTH_ALONE = [LLAMA, OPENBA, MT5, GRANITE]
"""Hidden of GPT-NeoX can be cut only with its heads."""


def named(each: Any) -> Any:
    return getattr(each, "model_type", each)


def text_for(model: ModelDirectory, texts: int = 24) -> Calibration:
    random = np.random.default_rng(0)
    lengths = sorted(random.integers(4, 16, size=texts), reverse=True)  # so batches have padding
    vocabulary = model.layout.sizes["vocab"]
    return Calibration(tuple(random.integers(3, vocabulary, size=each) for each in lengths))


def rotation(model: ModelDirectory, kept: int) -> Rotation:
    stream = measure_stream(model, text_for(model))
    return rotation_of(stream, model.checkpoint, model.layout, kept)


def rotating(model: ModelDirectory, kept: int, **axes: AxisCut) -> Cut:
    hidden = AxisCut(model.layout.sizes["hidden"], np.arange(kept), rotated=True)
    names = model.layout.blueprint.axis_names
    chosen = {**axes, "hidden": hidden}
    return Cut(model.checkpoint.fingerprint, {n: chosen[n] for n in names if n in chosen})


def write_rotated(model: ModelDirectory, out: Path, kept: int, **axes: AxisCut) -> ModelDirectory:
    cut = rotating(model, kept, **axes)
    plan = rotated(plan_output(model, cut), model.layout, cut, rotation(model, kept))
    carve(plan, out)
    return ModelDirectory(out)


def logits(model: ModelDirectory, text: Calibration) -> torch.Tensor:
    loaded = model.load()
    found = []
    with torch.no_grad():
        for batch in without_loss(text, model.config, 64):
            is_text = batch.is_text if batch.decoder_is_text is None else batch.decoder_is_text
            states = read_batch(loaded, batch)[is_text]
            found.append(loaded.get_output_embeddings()(states))
    return torch.cat(found)


def narrow(model: ModelDirectory, rank: int) -> ModelDirectory:
    """The same model, whose residual stream varies in so many random directions alone."""
    path, layout = model.path / "model.safetensors", model.layout
    size = layout.sizes["hidden"]
    drawn = torch.randn(size, rank, generator=torch.Generator().manual_seed(1))
    basis, _ = torch.linalg.qr(drawn)
    onto = basis @ basis.T
    readers = {label.name for label in read_by(layout).values()}
    values = load_file(path)
    for name, label in layout.tensors.items():
        dimensions = [dimension.names for dimension in label.dims.dimensions]
        if name in readers or "norm" in name or not any("hidden" in each for each in dimensions):
            continue
        is_table = "hidden" in dimensions[-1] and len(dimensions) == 2
        values[name] = (values[name] @ onto if is_table else onto @ values[name]).contiguous()
    save_file(values, path, metadata={"format": "pt"})
    return ModelDirectory(model.path)


def smaller(model: ModelDirectory) -> int:
    """A size of hidden that is accepted, about half of the model's."""
    size = model.layout.sizes["hidden"]
    near = range(size // 2, size)
    return next(each for each in near if model.layout.size_problem({"hidden": each}) is None)


def test_families_that_can_be_rotated() -> None:
    assert {each.model_type for each, _ in EACH} == {
        "llama", "mistral", "granite", "qwen2", "qwen3", "phi3", "gpt_neox", "t5", "mt5", "umt5",
        "openba",
    }  # fmt: skip


@pytest.mark.parametrize(("blueprint", "number"), EACH, ids=named)
def test_all_directions_compute_the_same(tmp_path: Path, blueprint: Blueprint, number: int) -> None:
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m", number))
    kept = model.layout.sizes["hidden"]
    result = write_rotated(model, tmp_path / "out", kept)
    text = text_for(model)
    before, after = logits(model, text), logits(result, text)
    assert (before - after).abs().max() < 2e-4 * before.abs().max()
    embeddings = [each.load().get_input_embeddings().weight for each in (model, result)]
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-2


@pytest.mark.parametrize("blueprint", WIDTH_ALONE, ids=named)
def test_directions_in_which_nothing_varies_are_not_missed(
    tmp_path: Path, blueprint: Blueprint
) -> None:
    made = ModelDirectory(write_tiny(blueprint, tmp_path / "m", tie_word_embeddings=False))
    kept = smaller(made)
    model = narrow(made, kept - 2)
    result = write_rotated(model, tmp_path / "out", kept)
    text = text_for(model)
    before, after = logits(model, text), logits(result, text)
    # The norms' epsilon is a larger part of the mean square if there are more channels.
    assert (before - after).abs().max() < 3e-3 * before.abs().max()


@pytest.mark.parametrize("blueprint", SOME, ids=named)
def test_with_other_axes_cut_it_is_as_if_they_were_cut_alone(
    tmp_path: Path, blueprint: Blueprint
) -> None:
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    sizes = model.layout.sizes
    axes = {
        axis.name: AxisCut(sizes[axis.name], np.arange(1, sizes[axis.name]))
        for axis in model.layout.blueprint.axes
        if axis.kind == "layer"
    }
    axes["vocab"] = AxisCut(sizes["vocab"], np.r_[0:3, 5 : sizes["vocab"]])
    alone = Cut(model.checkpoint.fingerprint, axes)
    carve(plan_output(model, alone), tmp_path / "alone")
    result = write_rotated(model, tmp_path / "out", sizes["hidden"], **axes)
    text = text_for(result)
    before, after = logits(ModelDirectory(tmp_path / "alone"), text), logits(result, text)
    assert (before - after).abs().max() < 2e-4 * before.abs().max()


@pytest.mark.parametrize("blueprint", WIDTH_ALONE, ids=named)
def test_a_refit_has_nothing_to_do_where_nothing_is_missed(
    tmp_path: Path, blueprint: Blueprint
) -> None:
    made = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    kept = smaller(made)
    model = narrow(made, kept - 2)
    tokens = AxisCut(model.layout.sizes["vocab"], np.r_[0:3, 5 : model.layout.sizes["vocab"]])
    cut = rotating(model, kept, vocab=tokens)
    plain = rotating(model, kept)
    turned = rotation(model, kept)
    carve(rotated(plan_output(model, plain), model.layout, plain, turned), tmp_path / "plain")
    (tmp_path / "weights").mkdir()
    found = refit(
        model, ModelDirectory(tmp_path / "plain"), cut, text_for(model), tmp_path / "weights",
        rotation=turned, precision="fp32",
    )  # fmt: skip
    assert all(each.after < 1e-4 for each in found.matrices)
    plan = rotated(plan_output(model, cut), model.layout, cut, turned)
    carve(with_corrections(plan, model.layout, found.corrections), tmp_path / "out")
    result = ModelDirectory(tmp_path / "out")
    assert any(model.layout.blueprint.head.weight in name for name in found.corrections)
    carve(plan, tmp_path / "before")
    text = text_for(result)
    before, after = logits(ModelDirectory(tmp_path / "before"), text), logits(result, text)
    assert (before - after).abs().max() < 0.02 * before.abs().max()


@settings(max_examples=20)
@given(size=st.integers(2, 40))
def test_balanced_columns_are_orthonormal_and_have_no_sum(size: int) -> None:
    found = _balanced(size)
    assert torch.allclose(found.T @ found, torch.eye(size - 1, dtype=torch.float64))
    assert found.sum(0).abs().max() < 1e-12


def test_one_layer_at_a_time_sees_the_same_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelDirectory(write_tiny(OPENBA, tmp_path / "m"))
    text = text_for(model)
    whole = measure_stream(model, text)
    monkeypatch.setattr("regrow.scoring.stream.memory_problem", lambda _: "too large")
    said: list[str] = []
    parts = measure_stream(model, text, said.append)
    assert "too large; reading it one layer at a time" in said
    assert torch.allclose(whole.moments, parts.moments, atol=1e-5)
    assert (whole.centred, whole.norm_of) == (parts.centred, parts.norm_of)


@pytest.mark.parametrize(
    ("blueprint", "why"),
    [(GEMMA2, "is not the norm that was expected"), (MBART, "no matrix reads .*embedding")],
    ids=named,
)
def test_other_norms_are_refused(tmp_path: Path, blueprint: Blueprint, why: str) -> None:
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    with pytest.raises(UserError, match=why):
        measure_stream(model, text_for(model))


def write_untied(out: Path, **changes: Any) -> Path:
    return write_model(out, tie_word_embeddings=False, **changes)


def text_file(directory: Path) -> Path:
    return write_text(directory / "text.jsonl", sentences(80))


def is_rotated(out: Path) -> bool:
    return Cut.load(out / "regrow_cut.json").is_rotated


def test_hidden_is_rotated_by_default_if_it_can_be(tmp_path: Path) -> None:
    source, text = write_untied(tmp_path / "m"), text_file(tmp_path)
    options: dict[str, Any] = {"hidden": 24, "calibration_tokens": 512}
    result = regrow.prune(source, tmp_path / "a", calibration=text, **options)
    assert "hidden 32 -> 24 (principal directions)" in result.cut.words()
    assert is_rotated(tmp_path / "a")
    assert any(each.name == "lm_head" for each in result.refitted)
    regrow.prune(source, tmp_path / "b", calibration=text, rotate=False, **options)
    regrow.prune(source, tmp_path / "c", calibration=text, by="activation", **options)
    regrow.prune(source, tmp_path / "d", by="random", **options)
    tied = write_model(tmp_path / "tied")
    regrow.prune(tied, tmp_path / "e", calibration=text, **options)
    assert not any(is_rotated(tmp_path / name) for name in "bcde")
    scores = tmp_path / "scores.json"
    regrow.score(source, scores, calibration=text, calibration_tokens=512)
    regrow.prune(source, tmp_path / "f", calibration=text, scores=scores, **options)
    assert not is_rotated(tmp_path / "f")
    regrow.prune(source, tmp_path / "g", calibration=text, scores=scores, rotate=True, **options)
    assert is_rotated(tmp_path / "g")


def test_a_rotation_loses_less_than_channels_do(tmp_path: Path) -> None:
    """The stream varies in half of all directions, and these are no channels."""
    source, text = write_untied(tmp_path / "m"), text_file(tmp_path)
    model = narrow(ModelDirectory(source), 14)
    options: dict[str, Any] = {"hidden": 16, "calibration_tokens": 1024, "calibration": text}
    for name, rotate in {"a": None, "b": False}.items():
        regrow.prune(source, tmp_path / name, refit=False, rotate=rotate, **options)
    sample = text_for(model)
    original = logits(model, sample)
    errors = [
        (logits(ModelDirectory(tmp_path / name), sample) - original).square().sum() for name in "ab"
    ]
    assert errors[0] < 1e-4 * errors[1]


def test_a_rotated_cut_is_repeated_to_the_bit(tmp_path: Path) -> None:
    source, text = ModelDirectory(write_untied(tmp_path / "m")), text_file(tmp_path)
    options: dict[str, Any] = {"hidden": 24, "layers": 3, "vocab_size": 300}
    result = regrow.prune(
        source.path, tmp_path / "a", calibration=text, calibration_tokens=512, **options
    )
    spec = CutSpec(calibration_tokens=512, **options)
    lines = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    repeat_cut(source, tmp_path / "b", result.cut, spec, lambda: iter(lines), 0)
    assert_same_bytes(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
    # As a cut file, too, which needs the text again.
    file = tmp_path / "a/regrow_cut.json"
    regrow.prune(source.path, tmp_path / "c", cut=file, calibration=text, calibration_tokens=512)
    assert_same_bytes(tensors(tmp_path / "a"), tensors(tmp_path / "c"))
    with pytest.raises(UserError, match="cut: its principal directions are found on a text"):
        regrow.prune(source.path, tmp_path / "d", cut=file)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("blueprint", SOME, ids=named)
def test_a_rotated_model_can_be_rotated_again(tmp_path: Path, blueprint: Blueprint) -> None:
    """The mean of its stream is zero, so LayerNorm computes there as RMSNorm does."""
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    kept = model.layout.sizes["hidden"]
    once = write_rotated(model, tmp_path / "once", kept)
    twice = write_rotated(once, tmp_path / "twice", kept)
    text = text_for(model)
    before, after = logits(model, text), logits(twice, text)
    assert (before - after).abs().max() < 2e-4 * before.abs().max()


def test_a_second_stage_rotates_again(tmp_path: Path) -> None:
    source, text = write_untied(tmp_path / "m"), text_file(tmp_path)
    options: dict[str, Any] = {"calibration": text, "calibration_tokens": 512}
    regrow.prune(source, tmp_path / "a", hidden=24, **options)
    regrow.prune(tmp_path / "a", tmp_path / "b", hidden=16, **options)
    origin = Cut.load(tmp_path / "b/regrow_origin.json")
    assert origin.axes["hidden"] == AxisCut(32, np.arange(16), rotated=True)
    assert ModelDirectory(tmp_path / "b").load().config.hidden_size == 16


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (write_model, {"hidden": 24}, "rotate: the head is tied to the embedding"),
        (write_untied, {"layers": 3}, "rotate is about hidden, which is not cut"),
        (write_untied, {"cut": "x.json"}, "a cut file says all that is cut"),
        (write_untied, {"hidden": 32, "layers": 3}, "rotate: hidden keeps its size"),
        (write_untied, {"hidden": 24, "by": "activation"}, "leave by or rotate out"),
    ],
)
def test_a_rotation_that_is_not_possible_is_refused(
    tmp_path: Path, make: Any, options: dict[str, Any], message: str
) -> None:
    source, text = make(tmp_path / "m"), text_file(tmp_path)
    with pytest.raises(UserError, match=message):
        regrow.prune(source, tmp_path / "out", calibration=text, rotate=True, **options)
    assert not (tmp_path / "out").exists()


def test_a_rotation_needs_a_text(tmp_path: Path) -> None:
    source = ModelDirectory(write_untied(tmp_path / "m"))
    with pytest.raises(UserError, match="rotate: principal directions are found on a text"):
        prepare_cut(source, CutSpec(hidden=24, rotate=True))


def test_layer_norm_needs_two_channels(tmp_path: Path) -> None:
    model = ModelDirectory(write_tiny(GPT_NEOX, tmp_path / "m"))
    with pytest.raises(UserError, match="LayerNorm needs at least two channels"):
        rotation(model, 1)


def test_a_plan_whose_directions_were_not_measured_is_not_carved(tmp_path: Path) -> None:
    model = ModelDirectory(add_tokenizer(write_tiny(LLAMA, tmp_path / "m", vocab_size=320)))
    plan = plan_output(model, rotating(model, smaller(model)))
    with pytest.raises(ValueError, match="not measured"):
        carve(plan, tmp_path / "out")


def test_a_cut_file_that_rotates_what_it_cannot_is_refused(tmp_path: Path) -> None:
    tied = ModelDirectory(write_model(tmp_path / "m"))
    with pytest.raises(UserError, match="axis hidden: the head is tied"):
        plan_output(tied, rotating(tied, 16))
    with pytest.raises(ValueError, match="numbered from 0"):
        AxisCut(8, np.array([1, 2]), rotated=True)
    good = rotating(tied, 16).to_json()
    assert Cut.from_json(good, "x") == rotating(tied, 16)
    each = {"size": 4, "along": "layer", "keep": ["0-1"], "rotated": True}
    with pytest.raises(UserError, match=r"axes\.ffn: rotated, but each layer"):
        Cut.from_json({**good, "axes": {"ffn": each}}, "x")
    good["axes"]["hidden"]["rotated"] = "yes"
    with pytest.raises(UserError, match=r"axes\.hidden: rotated is not true or false"):
        Cut.from_json(good, "x")


def test_a_dry_run_looks_for_no_directions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("regrow.scoring.stream.measure_stream", refuse)
    result = regrow.prune(
        write_untied(tmp_path / "m"), tmp_path / "out", hidden=24, dry_run=True,
        calibration=text_file(tmp_path), progress=QUIET,
    )  # fmt: skip
    assert result.cut.is_rotated


@pytest.mark.parametrize("size", [3e-3, 2e-2])
def test_a_stream_as_small_as_the_epsilon_of_the_norms_is_rotated(
    tmp_path: Path, size: float
) -> None:
    path = write_tiny(LLAMA, tmp_path / "m", rms_norm_eps=1e-5)
    values = load_file(path / "model.safetensors")
    values["model.embed_tokens.weight"] *= size / 0.2
    values["model.embed_tokens.weight"][5] = 0  # a token that was never trained
    save_file(values, path / "model.safetensors", metadata={"format": "pt"})
    model = ModelDirectory(path)
    result = write_rotated(model, tmp_path / "out", model.layout.sizes["hidden"])
    text = text_for(model)
    before, after = logits(model, text), logits(result, text)
    assert (before - after).abs().max() < 1e-3 * before.abs().max()


def test_the_mean_that_layer_norm_takes_off_is_no_direction(tmp_path: Path) -> None:
    """The stream varies in fewer directions than are kept, and its mean is not zero."""
    model = narrow(ModelDirectory(write_tiny(OPENBA, tmp_path / "m")), 8)
    values = load_file(model.path / "model.safetensors")
    values["shared_embedding.weight"] += 1.0
    save_file(values, model.path / "model.safetensors", metadata={"format": "pt"})
    model = ModelDirectory(model.path)
    found = rotation(model, 16)
    assert found.directions.sum(0).abs().max() < 1e-6  # of what is written to the new channels
    assert (found.directions @ torch.ones(24, dtype=torch.float64)).abs().max() < 1e-6
    result = write_rotated(model, tmp_path / "out", 16)
    text = text_for(model)
    before, after = logits(model, text), logits(result, text)
    assert (before - after).abs().max() < 3e-3 * before.abs().max()


def test_a_rotated_checkpoint_in_bfloat16_is_as_exact_as_bfloat16(tmp_path: Path) -> None:
    model = ModelDirectory(write_tiny(LLAMA, tmp_path / "m", dtype=torch.bfloat16))
    result = write_rotated(model, tmp_path / "out", model.layout.sizes["hidden"])
    assert {each.dtype for each in tensors(result.path).values()} == {torch.bfloat16}
    text = text_for(model)
    before, after = logits(model, text), logits(result, text)
    assert (before - after).abs().max() < 0.05 * before.abs().max()


def test_a_vocabulary_with_padding_is_rotated(tmp_path: Path) -> None:
    source, text = write_untied(tmp_path / "m"), text_file(tmp_path)
    options: dict[str, Any] = {"hidden": 24, "calibration": text, "calibration_tokens": 512}
    vocab: dict[str, Any] = {"size": 290, "pad_to": 64}
    for name, kept_tokens in {"a": vocab, "b": None}.items():
        regrow.prune(source, tmp_path / name, vocab=kept_tokens, **options)
    kept = Cut.load(tmp_path / "a/regrow_cut.json").axes["vocab"].keep
    assert len(kept) == 320
    found, whole = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.allclose(found[name], whole[name][torch.from_numpy(kept.copy())], atol=1e-6)


def test_a_refit_of_one_layer_at_a_time_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several batches."""
    source = write_untied(tmp_path / "m", max_position_embeddings=512)
    text = write_text(tmp_path / "text.jsonl", sentences(400))
    options: dict[str, Any] = {"hidden": 24, "calibration": text, "calibration_tokens": 4_608}
    regrow.prune(source, tmp_path / "a", **options)
    for place in ("scoring.stream", "surgery.prune"):
        monkeypatch.setattr(f"regrow.{place}.memory_problem", lambda _: "too large")
    monkeypatch.setattr("regrow.surgery.refitting.refit.check_memory", lambda *_: "too large")
    regrow.prune(source, tmp_path / "b", **options)
    assert_same_bytes(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


def test_a_search_measures_rotated_cuts(tmp_path: Path) -> None:
    """With and without a refit; and speeds without looking for directions."""
    source = write_untied(tmp_path / "m")
    documents = [" ".join(sentences(6, seed=number)) for number in range(24)]
    text = read_search_text([write_text(tmp_path / "text.jsonl", documents)], 512)
    (tmp_path / "known").mkdir()
    known = MeasuredCuts(tmp_path / "known", {})
    measured = Measurement(ModelDirectory(source), 0, text, CalibrationDraw(512, 0), known, QUIET)
    cuts = [measured._cut({"hidden": 24}, tmp_path / name, refit=False, rotate=rotate)
            for name, rotate in {"a": None, "b": False}.items()]  # fmt: skip
    assert [is_rotated(cut.path) for cut in cuts] == [True, False]


def test_a_run_rotates_and_says_so(tmp_path: Path) -> None:
    """Also after its cut was lost, and in the comparison with all cuts at once."""
    write_untied(tmp_path / "m")
    write_text(tmp_path / "train.jsonl", sentences(80))
    write_text(tmp_path / "heldout.jsonl", sentences(4, seed=1))
    recover = {"tokens": 128, "row_length": 32, "batch_tokens": 64}
    recipe: dict[str, Any] = {
        "name": "tiny", "model": str(tmp_path / "m"), "threads": 1,
        "data": {"train": str(tmp_path / "train.jsonl"),
                 "heldout": {"domain": str(tmp_path / "heldout.jsonl")}},
        "stages": [
            {"name": "width", "cut": {"hidden": 24, "calibration_tokens": 512}, "recover": recover},
            {"name": "depth", "cut": {"layers": 3, "calibration_tokens": 512}, "recover": recover},
        ],
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    regrow.run(path, tmp_path / "run", compare=["at-once"])
    entries = read_entries(tmp_path / "run/ledger.jsonl")
    for step in ("width/carve", "at-once/carve"):
        assert "(principal directions)" in entries[step].outputs["words"]
    result = summarise(tmp_path / "run")
    (row,) = (row for row in result.stages if row.name == "width")
    assert "principal directions" in row.cut
    assert row.kept == ()
    again = copy.deepcopy(recipe)
    again["stages"][0]["recover"]["tokens"] = 192
    path.write_text(yaml.safe_dump(again, sort_keys=False))
    regrow.run(path, tmp_path / "run", redo=True)
    after = read_entries(tmp_path / "run/ledger.jsonl")
    assert after["width/carve"] == entries["width/carve"]


@pytest.mark.parametrize(
    ("changes", "rotates"),
    [([{}, {}], True), ([{"by": "influence"}, {"by": "activation"}], False),
     ([{}, {"rotate": False}], False)],
)  # fmt: skip
def test_all_cuts_at_once_are_rotated_as_the_stages_are(
    tmp_path: Path, changes: list[dict[str, Any]], rotates: bool
) -> None:
    original = ModelDirectory(write_untied(tmp_path / "m"))
    recover = {"tokens": 128, "row_length": 32, "batch_tokens": 64}
    cuts = [{"layers": 3, "refit_passes": 2, **changes[0]}, {"hidden": 24, **changes[1]}]
    recipe = Recipe.model_validate({
        "name": "tiny", "model": "m", "data": {"train": "train.jsonl"},
        "stages": [{"name": f"s{n}", "cut": cut, "recover": recover} for n, cut in enumerate(cuts)],
    })  # fmt: skip
    stage = at_once_stage(recipe, layouts_by_stage(recipe.stages, original))
    assert stage is not None
    assert stage.cut is not None
    assert stage.cut.rotate is rotates
    assert stage.cut.refit_passes == 2
