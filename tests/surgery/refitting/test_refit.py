"""Refit: what writes to the residual stream is solved for again after a cut."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regrow
from regrow.architectures import BLUEPRINTS, Blueprint
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.granite import GRANITE
from regrow.architectures.llama import LLAMA
from regrow.architectures.openba import OPENBA
from regrow.architectures.phi3 import PHI3
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import Progress
from regrow.cuts.cut import AxisCut, Cut
from regrow.surgery.carve import carve, with_corrections
from regrow.surgery.result_files import plan_output
from tests.surgery.carving import tensors
from tests.surgery.refitting.cases import (
    calibration,
    carved,
    last_stream,
    refitted,
    with_silent_neurons,
    without_channels,
    without_layer,
)
from tests.tiny import (
    add_tokenizer,
    sentences,
    write_model,
    write_seq2seq,
    write_text,
    write_tiny,
)

torch.set_num_threads(1)

EACH = [(each, number) for each in BLUEPRINTS for number in range(len(each.tiny))]


@pytest.mark.parametrize(("blueprint", "number"), EACH)
def test_every_family_is_refitted_or_refused(
    tmp_path: Path, blueprint: Blueprint, number: int
) -> None:
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m", number))
    cut, text = without_layer(model), calibration(model)
    if not blueprint.solvable:
        with pytest.raises(UserError, match=r"refit: .* before it is added to the residual stream"):
            refitted(model, cut, text)
        return
    found = refitted(model, cut, text)
    assert all(each.after <= each.before for each in found.matrices)
    # The matrix in front of a dropped layer takes over some of its work.
    assert min(each.after / each.before for each in found.matrices if each.before > 1e-9) < 0.9
    plan = plan_output(model, cut)
    shapes = plan.shapes
    assert {name: each.shape for name, each in found.corrections.items()} == {
        name: shapes[name] for name in found.corrections
    }


def test_where_nothing_is_cut_nothing_changes(tmp_path: Path) -> None:
    model = ModelDirectory(write_tiny(LLAMA, tmp_path / "m"))
    found = refitted(model, Cut(model.checkpoint.fingerprint, {}), calibration(model))
    assert not found.corrections
    assert not found.matrices
    assert found.words().endswith(": nothing got better")


@pytest.mark.parametrize("blueprint", [LLAMA, GRANITE, T5, OPENBA], ids=lambda b: b.model_type)
def test_what_can_be_made_up_for_wholly_is_not_changed(
    tmp_path: Path, blueprint: Blueprint
) -> None:
    """Neurons that write nothing go, so there is only rounding to make up for."""
    model, cut = with_silent_neurons(ModelDirectory(write_tiny(blueprint, tmp_path / "m")))
    found = refitted(model, cut, calibration(model))
    assert found.matrices
    before = dict(carved(model, cut).load().named_parameters())
    for name, each in found.corrections.items():
        whole = each.rows(0, each.shape[0])
        assert np.allclose(whole, before[name].detach().numpy(), atol=1e-4), name
    assert all(each.after < 1e-9 for each in found.matrices)


@pytest.mark.parametrize(
    ("blueprint", "axis", "dropped"),
    [
        (LLAMA, "layer", 2),
        (LLAMA, "layer", -1),
        (T5, "decoder.layer", 1),
        (T5, "encoder.layer", -1),
    ],
    ids=lambda each: getattr(each, "model_type", each),
)
@pytest.mark.parametrize("passes", [0, 1])
def test_layers_in_front_of_the_first_cut_stay(
    tmp_path: Path, blueprint: Blueprint, axis: str, dropped: int, passes: int
) -> None:
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    size = model.layout.sizes[axis]
    keep = np.delete(np.arange(size), dropped)
    cut = Cut(model.checkpoint.fingerprint, {axis: AxisCut(size, keep)})
    found = refitted(model, cut, calibration(model, 400), passes=passes)
    # The layer in front of the dropped one is the first that does something else.
    first = dropped % size - 1
    layers = [
        label.layer
        for label in carved(model, cut).layout.tensors.values()
        if label.parameter in found.corrections
    ]
    assert min(each[1] for each in layers if each and each[0] == axis) == first
    # An encoder in front of a decoder that is cut stays; a decoder behind a cut encoder does not.
    stacks = {each[0] for each in layers if each}
    assert stacks == ({axis, "decoder.layer"} if axis == "encoder.layer" else {axis})
    assert all(each.after <= each.before for each in found.matrices)


def test_neurons_that_are_combinations_of_others_are_made_up_for(tmp_path: Path) -> None:
    """Half of the neurons compute the same as the other half, and go."""
    path = write_tiny(LLAMA, tmp_path / "m")
    model = ModelDirectory(path)
    loaded: Any = model.load()
    size = model.layout.sizes["ffn"]
    half = size // 2
    with torch.no_grad():
        for layer in loaded.model.layers:
            for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
                projection.weight[half : 2 * half] = projection.weight[:half]
                if projection.bias is not None:
                    projection.bias[half : 2 * half] = projection.bias[:half]
    loaded.save_pretrained(path)
    model = ModelDirectory(path)
    layers = model.layout.sizes["layer"]
    keep = np.tile(np.r_[0:half, 2 * half : size], (layers, 1))
    axes = {"ffn": AxisCut(size, keep, along="layer")}
    found = refitted(model, Cut(model.checkpoint.fingerprint, axes), calibration(model, 120))
    down = [each for each in found.matrices if "down_proj" in each.name]
    assert all(each.before > 1e-7 for each in down)
    # To within what the ridge, which pulls towards the carved weights, leaves.
    assert all(each.after < 0.01 * each.before for each in down)


@pytest.mark.parametrize(
    ("blueprint", "axis", "reading"),
    [(LLAMA, "layer", 5), (PHI3, "layer", 2), (T5, "encoder.layer", 5),
     (T5, "decoder.layer", 8), (OPENBA, "decoder.layer", 4)],
    ids=lambda each: getattr(each, "model_type", each),
)  # fmt: skip
def test_with_channels_cut_what_reads_the_stream_is_refitted_too(
    tmp_path: Path, blueprint: Blueprint, axis: str, reading: int
) -> None:
    """`reading`: how many matrices of a layer read a stream."""
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    cut, text = without_channels(model), calibration(model)
    found = refitted(model, cut, text)
    assert all(each.after <= each.before for each in found.matrices)
    assert all(each.after < 0.95 * each.before for each in found.matrices if each.reads)
    stack = axis.rpartition(".")[0]
    head = model.layout.blueprint.head.weight.removesuffix(".weight")
    # A head that is not tied reads the stream too, and is solved for after all layers.
    assert [each.name for each in found.matrices].count(head) == (not model.layout.tied)
    inside = [each for each in found.matrices if each.name != head]
    in_stack = [each for each in inside if not stack or f"{stack}." in each.name]
    assert len([e for e in in_stack if e.reads]) == reading * model.layout.sizes[axis]
    plan = with_corrections(plan_output(model, cut), model.layout, found.corrections)
    carve(plan, tmp_path / "out")
    original, result = (
        last_stream(directory, axis, text)
        for directory in (model, ModelDirectory(tmp_path / "out"))
    )
    (keep,) = {each.keep.tobytes(): each.keep for each in cut.axes.values()}.values()
    original = original[:, torch.from_numpy(keep.copy())]
    error = (result - original).square().sum() / original.square().sum()
    assert in_stack[-1].after == pytest.approx(error.item(), rel=1e-3)


def test_a_matrix_that_reads_channels_which_say_all_computes_as_before(tmp_path: Path) -> None:
    """The channels that go are copies of those that stay, in all of the stream."""
    path = write_tiny(LLAMA, tmp_path / "m")
    loaded: Any = ModelDirectory(path).load()
    size = loaded.config.hidden_size
    with torch.no_grad():
        loaded.model.embed_tokens.weight[:, 1::2] = loaded.model.embed_tokens.weight[:, ::2]
        for layer in loaded.model.layers:
            for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
                for parameter in module.parameters():
                    parameter[1::2] = parameter[::2]
    loaded.save_pretrained(path)
    model = ModelDirectory(path)
    cut = Cut(model.checkpoint.fingerprint, {"hidden": AxisCut(size, np.arange(0, size, 2))})
    found = refitted(model, cut, calibration(model, 120))
    assert all(each.before > 1e-3 for each in found.matrices if each.reads)
    assert all(each.after < 0.01 * each.before for each in found.matrices if each.reads)


def test_the_same_text_gives_the_same_weights(tmp_path: Path) -> None:
    model = ModelDirectory(write_tiny(LLAMA, tmp_path / "m"))
    one, two = (refitted(model, without_layer(model), calibration(model)) for _ in range(2))
    assert one.matrices == two.matrices
    for name, each in one.corrections.items():
        whole = each.rows(0, each.shape[0])
        assert whole.tobytes() == two.corrections[name].rows(0, each.shape[0]).tobytes()


def with_first_layer_scaled(blueprint: Blueprint, out: Path, scale: float) -> ModelDirectory:
    """A tiny decoder; what its first layer writes is multiplied by `scale`."""
    path = write_tiny(blueprint, out)
    loaded: Any = ModelDirectory(path).load()
    first = loaded.model.layers[0]
    with torch.no_grad():
        for module in (first.self_attn.o_proj, first.mlp.down_proj):
            for parameter in module.parameters():
                parameter.mul_(scale)
    loaded.save_pretrained(path)
    return ModelDirectory(path)


def test_a_layer_that_writes_nothing_is_left_as_it_is(tmp_path: Path) -> None:
    """The constant of Granite's sums cannot be known from such a layer."""
    model = with_first_layer_scaled(GRANITE, tmp_path / "m", 0.0)
    found = refitted(model, without_layer(model), calibration(model))
    assert found.matrices
    assert not [each for each in found.matrices if ".layers.0." in each.name]


def test_a_layer_that_writes_very_little_is_no_other_architecture(tmp_path: Path) -> None:
    model = with_first_layer_scaled(LLAMA, tmp_path / "m", 1e-7)
    assert refitted(model, without_layer(model), calibration(model)).matrices


@pytest.mark.parametrize("dropped", [1, -1])
@pytest.mark.parametrize(
    ("blueprint", "axis"),
    [(LLAMA, "layer"), (GRANITE, "layer"), (GPT_NEOX, "layer"), (T5, "encoder.layer"),
     (T5, "decoder.layer"), (OPENBA, "decoder.layer")],
    ids=lambda each: getattr(each, "model_type", each),
)  # fmt: skip
def test_the_error_is_that_of_the_loaded_model(
    tmp_path: Path, blueprint: Blueprint, axis: str, dropped: int
) -> None:
    """The stream behind the last layer, from whole models that run by themselves.

    If the last layer is dropped, the one in front of it takes over its work.
    """
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    cut, text = without_layer(model, dropped), calibration(model)
    found = refitted(model, cut, text)
    plan = with_corrections(plan_output(model, cut), model.layout, found.corrections)
    carve(plan, tmp_path / "out")
    original, result = (
        last_stream(directory, axis, text)
        for directory in (model, ModelDirectory(tmp_path / "out"))
    )
    error = (result - original).square().sum() / original.square().sum()
    stack = axis.rpartition(".")[0]
    last = [each for each in found.matrices if not stack or f"{stack}." in each.name][-1]
    assert last.after == pytest.approx(error.item(), rel=1e-3)


# As users call it


def prepared(tmp_path: Path) -> tuple[Path, Path]:
    """A model with a tokenizer, and a text."""
    return write_model(tmp_path / "m"), write_text(tmp_path / "text.jsonl", sentences(200))


def test_a_cut_is_refitted_if_there_is_text(tmp_path: Path) -> None:
    model, text = prepared(tmp_path)
    options: dict[str, Any] = {"drop_layers": "1", "calibration_tokens": 1_024}
    plain = regrow.prune(model, tmp_path / "plain", **options)
    refused = regrow.prune(model, tmp_path / "no", calibration=text, refit=False, **options)
    refitted = regrow.prune(model, tmp_path / "refit", calibration=text, **options)
    assert plain.refitted == refused.refitted == ()
    assert tensors(tmp_path / "plain").keys() == tensors(tmp_path / "refit").keys()
    changed = {
        name
        for name, found in tensors(tmp_path / "refit").items()
        if not torch.equal(found, tensors(tmp_path / "plain")[name])
    }
    fitted = {each.name for each in refitted.refitted if each.ridge is not None}
    assert changed == {f"{name}.weight" for name in fitted}
    assert len(refitted.refitted) == 6  # two in each of three layers
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "m", "no", "plain", "refit", "text.jsonl"
    ]  # fmt: skip
    assert regrow.verify(tmp_path / "refit").ok


def test_a_cut_of_the_vocabulary_alone_is_not_refitted(tmp_path: Path) -> None:
    model, text = prepared(tmp_path)
    done = regrow.prune(model, tmp_path / "out", calibration=text, vocab_size=300)
    assert done.refitted == ()


def test_with_the_vocabulary_cut_too_the_refit_is_the_same(tmp_path: Path) -> None:
    model, text = prepared(tmp_path)
    options: dict[str, Any] = {"drop_layers": "1", "calibration_tokens": 1_024}
    one = regrow.prune(model, tmp_path / "one", calibration=text, **options)
    two = regrow.prune(model, tmp_path / "two", calibration=text, vocab_size=300, **options)
    assert one.refitted == two.refitted
    assert [each for each in one.refitted if each.ridge is not None]
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(tensors(tmp_path / "one")[name], tensors(tmp_path / "two")[name])


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_one_layer_at_a_time_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model, text = prepared(tmp_path)
    dropped: Any = "1"
    if family == "t5":
        model = write_seq2seq(tmp_path / "t5", T5, num_layers=2, num_decoder_layers=2)
        dropped = {"encoder": "1", "decoder": "0"}
    options: dict[str, Any] = {"drop_layers": dropped, "calibration_tokens": 1_024}
    regrow.prune(model, tmp_path / "one", calibration=text, **options)
    monkeypatch.setattr("regrow.surgery.refitting.memory.FREE", 1)
    messages: list[str] = []
    progress = Progress(say=messages.append)
    regrow.prune(model, tmp_path / "two", calibration=text, progress=progress, **options)
    assert any("one layer at a time" in message for message in messages)
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert all(torch.equal(found, two[name]) for name, found in one.items())


def test_what_cannot_be_refitted_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model, text = prepared(tmp_path)
    with pytest.raises(UserError, match="refit: a refit needs a text; give one"):
        regrow.prune(model, tmp_path / "out", drop_layers="1", refit=True)
    with pytest.raises(UserError, match="refit: only the vocabulary is cut"):
        regrow.prune(model, tmp_path / "out", vocab_size=300, calibration=text, refit=True)
    short = write_text(tmp_path / "short.jsonl", ["A river."])
    with pytest.raises(UserError, match=r"refit: .* less than one row .* or set refit to false"):
        regrow.prune(model, tmp_path / "out", drop_layers="1", calibration=short)
    other = add_tokenizer(write_tiny(GEMMA2, tmp_path / "gemma2", vocab_size=330))
    with pytest.raises(UserError, match="refit: gemma2 normalises what attention and ffn write"):
        regrow.prune(other, tmp_path / "out", drop_layers="1", calibration=text, refit=True)
    assert not (tmp_path / "out").exists()
    done = regrow.prune(other, tmp_path / "out", drop_layers="1", calibration=text)
    assert done.refitted == ()


def test_layers_in_another_order_are_not_refitted(tmp_path: Path) -> None:
    model, text = prepared(tmp_path)
    fingerprint = ModelDirectory(model).checkpoint.fingerprint
    Cut(fingerprint, {"layer": AxisCut(4, np.array([3, 1]))}).save(tmp_path / "cut.json")
    options: dict[str, Any] = {"cut": tmp_path / "cut.json", "calibration": text}
    with pytest.raises(UserError, match="refit: the cut puts layers in another order"):
        regrow.prune(model, tmp_path / "out", refit=True, **options)
    assert regrow.prune(model, tmp_path / "out", **options).refitted == ()


def test_memory_that_lacks_accelerate_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = prepared(tmp_path)
    monkeypatch.setattr("regrow.surgery.refitting.memory.FREE", 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"refit: .*accelerate.*, or set refit to false"):
        regrow.prune(model, tmp_path / "out", drop_layers="1", calibration=text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "text.jsonl"]


def test_states_that_do_not_fit_in_memory_are_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = prepared(tmp_path)
    free = 3_000_000
    monkeypatch.setattr("regrow.surgery.refitting.memory.available_memory", lambda: free)
    options: dict[str, Any] = {"drop_layers": "1", "calibration": text}
    said = r"calibration_tokens: to refit .* on 4,096 tokens, .* GB are free; give at most ([\d,]+)"
    with pytest.raises(UserError, match=said) as error:
        regrow.prune(model, tmp_path / "out", calibration_tokens=4_096, **options)
    most = int(re.search(said, str(error.value))[1].replace(",", ""))  # type: ignore[index]
    assert most > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "text.jsonl"]
    assert regrow.prune(model, tmp_path / "out", calibration_tokens=most, **options).refitted
    free = 1_000
    with pytest.raises(UserError, match=r"GB are free; set refit to false$"):
        regrow.prune(model, tmp_path / "two", calibration_tokens=4_096, **options)
