"""Layers trained alone: after a refit, each layer learns to give the original's stream."""

from bisect import bisect_left
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import regrow
from regrow.architectures import Blueprint
from regrow.architectures.bart import BART, MBART
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.granite import GRANITE
from regrow.architectures.llama import LLAMA
from regrow.architectures.mixtral import MIXTRAL
from regrow.architectures.olmo2 import OLMO2
from regrow.architectures.openba import OPENBA
from regrow.architectures.phi3 import PHI3
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.scoring.calibration import Calibration
from regrow.surgery.carve import carve, with_corrections
from regrow.surgery.refitting import layer_training
from regrow.surgery.refitting.layer_fit import LayerFit
from regrow.surgery.refitting.layer_training import _share
from regrow.surgery.refitting.memory import FREE, check_memory
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
from tests.tiny import add_tokenizer, sentences, write_model, write_seq2seq, write_text, write_tiny

torch.set_num_threads(1)

# One of each kind of layer: the other families have the same.
SOLVABLE = [LLAMA, GRANITE, GPT_NEOX, PHI3, T5, MBART, OPENBA]
OTHERS = [GEMMA2, OLMO2, T5GEMMA, BART, MIXTRAL]
PASSES = 6
TEXTS = 400
FIRST = 1
"""The token that opens each text, where its stream is very large."""


@pytest.mark.parametrize("blueprint", SOLVABLE, ids=lambda b: b.model_type)
def test_a_trained_layer_is_nearer_to_the_original(tmp_path: Path, blueprint: Blueprint) -> None:
    """The first layer, behind which another one is dropped."""
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    cut, text = without_layer(model), calibration(model, TEXTS)
    plain, found = (refitted(model, cut, text, passes=each) for each in (0, PASSES))
    shapes = plan_output(model, cut).shapes
    assert {name: each.shape for name, each in found.corrections.items()} == {
        name: shapes[name] for name in found.corrections
    }
    first, trained = (
        next(each for each in fits if each.name == name)
        for name in [plain.matrices[1].name]
        for fits in (plain.matrices, found.matrices)
    )
    assert trained.trained
    assert trained.after < first.after
    text_words = found.words()
    assert f"{sum(each.trained for each in found.matrices)} layers trained alone" in text_words
    assert found.corrections.keys() > plain.corrections.keys()


@pytest.mark.parametrize(
    ("blueprint", "kind"),
    [*((each, "layer") for each in OTHERS), (GEMMA2, "hidden"), (T5GEMMA, "hidden")],
    ids=lambda each: getattr(each, "model_type", each),
)
def test_layers_of_which_no_matrix_can_be_solved_for_are_trained_alone(
    tmp_path: Path, blueprint: Blueprint, kind: str
) -> None:
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    cut = without_layer(model) if kind == "layer" else without_channels(model)
    text = calibration(model, TEXTS)
    found = refitted(model, cut, text, passes=PASSES)
    assert found.matrices
    assert all(each.after < each.before for each in found.matrices)
    plan = with_corrections(plan_output(model, cut), model.layout, found.corrections)
    carve(plan, tmp_path / "out")
    axis = next(each for each in reversed(blueprint.axes) if each.kind == "layer")
    original, plain, result = (
        last_stream(directory, axis.name, text)
        for directory in (model, carved(model, cut), ModelDirectory(tmp_path / "out"))
    )
    if kind == "hidden":
        *_, keep = (each.keep for each in cut.axes.values())
        original = original[:, torch.from_numpy(keep.copy())]
    assert (result - original).square().sum() < (plain - original).square().sum()


@pytest.mark.parametrize("blueprint", [LLAMA, T5, OPENBA], ids=lambda b: b.model_type)
def test_where_all_is_made_up_for_nothing_is_trained(tmp_path: Path, blueprint: Blueprint) -> None:
    """The error is rounding alone there, and training makes it larger."""
    model, cut = with_silent_neurons(ModelDirectory(write_tiny(blueprint, tmp_path / "m")))
    found = refitted(model, cut, calibration(model, TEXTS), passes=2)
    assert found.matrices
    assert not [each for each in found.matrices if each.trained]
    before = dict(carved(model, cut).load().named_parameters())
    for name, each in found.corrections.items():
        whole = each.rows(0, each.shape[0])
        assert np.allclose(whole, before[name].detach().numpy(), atol=1e-4), name


@pytest.mark.parametrize(
    ("blueprint", "axis"),
    [(LLAMA, "layer"), (T5, "encoder.layer"), (T5, "decoder.layer"), (OPENBA, "decoder.layer")],
    ids=lambda each: getattr(each, "model_type", each),
)
def test_the_error_is_that_of_the_loaded_model(
    tmp_path: Path, blueprint: Blueprint, axis: str
) -> None:
    """The stream behind the last layer, from whole models that run by themselves."""
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    cut, text = without_layer(model, -1), calibration(model, TEXTS)
    found = refitted(model, cut, text, passes=PASSES)
    plan = with_corrections(plan_output(model, cut), model.layout, found.corrections)
    carve(plan, tmp_path / "out")
    original, result = (
        last_stream(directory, axis, text, learned=True)
        for directory in (model, ModelDirectory(tmp_path / "out"))
    )
    error = (result - original).square().sum() / original.square().sum()
    stack = axis.rpartition(".")[0]
    last = [each for each in found.matrices if not stack or f"{stack}." in each.name][-1]
    assert last.trained
    assert last.after == pytest.approx(error.item(), rel=1e-3)


def test_the_position_biases_that_other_layers_read_stay(tmp_path: Path) -> None:
    """T5's first layer has the table for all layers of its stack."""
    model = ModelDirectory(write_tiny(T5, tmp_path / "m"))
    found = refitted(model, without_layer(model), calibration(model, TEXTS), passes=2)
    (_, table) = sorted(name for name in found.corrections if "relative_attention_bias" in name)
    values = found.corrections[table].rows(0, found.corrections[table].shape[0])
    assert np.array_equal(values, model.load().get_parameter(table).detach().numpy())
    query = table.replace("relative_attention_bias", "q")
    values = found.corrections[query].rows(0, found.corrections[query].shape[0])
    assert not np.array_equal(values, model.load().get_parameter(query).detach().numpy())


def test_a_layer_that_a_training_makes_worse_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelDirectory(write_tiny(LLAMA, tmp_path / "m"))
    cut, text = without_layer(model), calibration(model, TEXTS)
    monkeypatch.setattr("regrow.surgery.refitting.refit.train_layer", lambda *_: None)
    solved = refitted(model, cut, text, passes=1)
    monkeypatch.undo()
    monkeypatch.setattr("regrow.surgery.refitting.layer_training.RATE", 100.0)
    found = refitted(model, cut, text, passes=1)
    assert found.matrices == solved.matrices
    for name, each in solved.corrections.items():
        whole = each.rows(0, each.shape[0])
        assert whole.tobytes() == found.corrections[name].rows(0, each.shape[0]).tobytes()


def _noted_errors(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The errors of learned and of unseen tokens, before and after each training, as they come."""
    errors: list[tuple[float, float]] = []
    measured = layer_training._errors

    def noted(*args: Any) -> Any:
        found = measured(*args)
        errors.append((found.learned, found.unseen))
        return found

    monkeypatch.setattr(layer_training, "_errors", noted)
    return errors


def test_a_layer_that_is_better_only_where_it_learns_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few tokens are learned by heart."""
    model = ModelDirectory(write_tiny(LLAMA, tmp_path / "m"))
    errors = _noted_errors(monkeypatch)
    text = calibration(model, 16)
    found = refitted(model, without_layer(model), text, passes=40)
    pairs = list(zip(errors[::2], errors[1::2], strict=True))
    better = [(after[0] < before[0], after[1] < before[1]) for before, after in pairs]
    assert (True, False) in better
    assert sum(each.trained for each in found.matrices) == better.count((True, True))


def test_what_is_solved_for_does_not_depend_on_batches_that_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelDirectory(write_tiny(LLAMA, tmp_path / "m"))
    monkeypatch.setattr("regrow.surgery.refitting.refit.train_layer", lambda *_: None)
    pieces = calibration(model, 64).pieces
    pieces = [each[:4] for each in pieces]  # batches of 8 pieces
    others = [*pieces[:-8], *(np.roll(each, 1) for each in pieces[-8:])]
    cut = without_layer(model)
    one, two, three = (
        refitted(model, cut, Calibration(tuple(each)), passes=passes)
        for each, passes in ((pieces, 1), (others, 1), (others, 0))
    )
    assert one.matrices == two.matrices
    assert one.matrices != three.matrices


def test_the_order_of_the_batches_follows_the_seed(tmp_path: Path) -> None:
    model = ModelDirectory(write_tiny(LLAMA, tmp_path / "m"))
    pieces, cut = calibration(model, 64).pieces, without_layer(model)
    one, two, three = (
        refitted(model, cut, Calibration(pieces, seed=seed), passes=PASSES).matrices
        for seed in (0, 1, 1)
    )
    assert one != two
    assert two == three


def test_a_token_counts_by_its_own_stream_and_by_that_of_all() -> None:
    """One token has a very large stream, and one a stream of zeros."""
    text = torch.tensor([[True, True, True, False]])
    target = torch.tensor([[[3.0, 4.0], [300.0, 400.0], [0.0, 0.0], [9.0, 9.0]]])
    fit: Any = SimpleNamespace(texts=[text], unseen=range(0))
    (weights,) = layer_training._weights(fit, [target])
    mean = 250_025 / 3
    own = [25, 250_000, 1e-6 * mean]
    assert weights.tolist() == pytest.approx([(1 / each + 1 / mean) / 2 for each in own])
    behind = target + torch.tensor([[[1.0, 0.0], [100.0, 0.0], [0.0, 0.0], [5.0, 5.0]]])
    errors = layer_training._errors(fit, [behind], [target], [weights])
    whole = 10_001 / 250_025
    relative = (1 / 25 + 10_000 / 250_000) / 3
    assert errors.learned == pytest.approx((relative + whole) / 2)
    assert errors.whole == pytest.approx(whole)


def test_streams_of_zeros_give_finite_weights() -> None:
    fit: Any = SimpleNamespace(texts=[torch.ones(1, 3, dtype=torch.bool)], unseen=range(0))
    (weights,) = layer_training._weights(fit, [torch.zeros(1, 3, 2)])
    assert torch.isfinite(weights).all()


def test_a_very_large_stream_is_not_turned_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next layer normalises it, and its error shows whether it was harmed."""
    model = _with_a_massive_first_token(tmp_path / "m")
    errors = _noted_errors(monkeypatch)
    text = calibration(model, TEXTS)
    pieces = tuple(np.concatenate([[FIRST], each]) for each in text.pieces)
    squares = last_stream(model, "layer", Calibration(pieces)).square().sum(-1)
    assert squares.max() > 200 * squares.median()
    found = refitted(model, without_layer(model), Calibration(pieces), passes=20)
    assert found.matrices[1].trained
    trained, following = (learned for learned, _ in errors[1:3])
    assert following < 2 * trained


def _with_a_massive_first_token(out: Path) -> ModelDirectory:
    """One neuron of the first layer reads a channel that the embedding of `FIRST` fills most."""
    model = ModelDirectory(write_tiny(LLAMA, out))
    loaded = model.load()
    layer = loaded.model.layers[0]
    with torch.no_grad():
        loaded.model.embed_tokens.weight[:, 0] = 0
        loaded.model.embed_tokens.weight[FIRST, 0] = 1
        layer.post_attention_layernorm.weight[0] = 1
        for reader in (layer.mlp.gate_proj, layer.mlp.up_proj):
            reader.weight[0] = 0
            reader.weight[0, 0] = 10
        layer.mlp.down_proj.weight[:, 0] = 0
        layer.mlp.down_proj.weight[1, 0] = 1
    loaded.save_pretrained(out)
    return ModelDirectory(out)


def test_the_loss_is_the_error_that_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a part of that before the training: 1 in the mean of a pass that learns nothing."""
    model = ModelDirectory(write_tiny(LLAMA, tmp_path / "m"))
    losses: list[float] = []
    gradients = torch.autograd.grad

    def noted(loss: Any, *args: Any, **kwargs: Any) -> Any:
        losses.append(loss.item())
        return gradients(loss, *args, **kwargs)

    def uneven(fit: LayerFit, target: Any) -> list[torch.Tensor]:
        """Tokens count as much as their place in the batch."""
        return [torch.arange(1.0, 1 + int(each.sum())) for each in fit.texts]

    monkeypatch.setattr(torch.autograd, "grad", noted)
    monkeypatch.setattr(layer_training, "_weights", uneven)
    monkeypatch.setattr(layer_training, "RATE", 0.0)
    refitted(model, without_layer(model), calibration(model, TEXTS), passes=1)
    assert fmean(losses[:7]) == pytest.approx(1, rel=0.05)


def test_a_text_of_one_batch_trains_nothing(tmp_path: Path) -> None:
    """There is no other batch to see whether the layers are better."""
    model = ModelDirectory(write_tiny(LLAMA, tmp_path / "m"))
    text = Calibration((calibration(model).pieces[0],))
    found = refitted(model, without_layer(model), text, passes=4)
    assert found.matrices
    assert not [each for each in found.matrices if each.trained]


def test_the_same_text_gives_the_same_weights(tmp_path: Path) -> None:
    model = ModelDirectory(write_tiny(LLAMA, tmp_path / "m"))
    one, two = (
        refitted(model, without_layer(model), calibration(model), passes=3) for _ in range(2)
    )
    assert one.matrices == two.matrices
    for name, each in one.corrections.items():
        whole = each.rows(0, each.shape[0])
        assert whole.tobytes() == two.corrections[name].rows(0, each.shape[0]).tobytes()


@given(st.integers(1, 200))
def test_the_learning_rate_rises_once_and_falls_to_zero(steps: int) -> None:
    shares = [_share(step, steps) for step in range(steps)]
    peak = shares.index(max(shares))
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert all(0 <= each <= 1 for each in shares)
    assert all(shares)
    assert shares[-1] <= (1 if steps == 1 else 0.5 + 0.5 / steps)


@pytest.mark.parametrize("blueprint", [LLAMA, T5], ids=lambda b: b.model_type)
def test_the_memory_of_a_training_is_that_of_the_largest_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blueprint: Blueprint
) -> None:
    model = ModelDirectory(write_tiny(blueprint, tmp_path / "m"))
    cut, text = without_layer(model), calibration(model)
    layers = [each.name for each in blueprint.axes if each.kind == "layer"]
    sizes = {name: number - 1 for name, number in model.layout.sizes.items() if name in layers}
    # Those of T5 depend on the rows of a batch; test_memory.py has them.
    monkeypatch.setattr("regrow.surgery.refitting.memory._BIASES", 0)
    whole = model.layout.parameters(sizes)
    largest = max(
        whole - model.layout.parameters({**sizes, name: sizes[name] - 1}) for name in layers
    )

    def needed(passes: int) -> int:
        """The least memory with which the models are not read one layer at a time."""

        def is_enough(memory: int) -> bool:
            monkeypatch.setattr("regrow.surgery.refitting.memory.available_memory", lambda: memory)
            try:
                return check_memory(tmp_path, model.layout, cut.sizes, text.tokens, passes) is None
            except UserError:  # not even the states fit
                return False

        return bisect_left(range(1 << 30), True, key=is_enough)

    more = (1 - FREE) * (needed(3) - needed(0))
    step, hidden = text.tokens // 8, model.config.hidden_size
    assert 24 * largest < more < 24 * largest + 4 * (step * 100 * hidden + 20 * hidden**2)


# As users call it


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_one_layer_at_a_time_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model, dropped = write_model(tmp_path / "m"), "1"
    if family == "t5":
        model = write_seq2seq(tmp_path / "t5", T5, num_layers=2, num_decoder_layers=2)
    text = write_text(tmp_path / "text.jsonl", sentences(400))
    options: dict[str, Any] = {
        "drop_layers": dropped if family == "llama" else {"encoder": "1", "decoder": "0"},
        "calibration": text, "calibration_tokens": 4_096, "refit_passes": 2,
    }  # fmt: skip
    done = regrow.prune(model, tmp_path / "one", **options)
    assert any(each.trained for each in done.refitted)
    monkeypatch.setattr("regrow.surgery.refitting.memory.FREE", 1)
    regrow.prune(model, tmp_path / "two", **options)
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert all(torch.equal(found, two[name]) for name, found in one.items())


def test_passes_need_a_refit(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    text = write_text(tmp_path / "text.jsonl", sentences(200))
    passes: dict[str, Any] = {"drop_layers": "1", "refit_passes": 2}
    with pytest.raises(UserError, match="refit_passes: refit is false, so no layer is trained"):
        regrow.prune(model, tmp_path / "out", calibration=text, refit=False, **passes)
    with pytest.raises(UserError, match="refit_passes: a refit needs a text; give one, or leave"):
        regrow.prune(model, tmp_path / "out", **passes)
    with pytest.raises(UserError, match="refit_passes: only the vocabulary is cut"):
        regrow.prune(model, tmp_path / "out", calibration=text, vocab_size=300, refit_passes=2)
    long = write_text(tmp_path / "long.jsonl", [" ".join(sentences(200))])
    with pytest.raises(UserError, match=r"refit_passes: 512 tokens .* too few .* at least 4,096"):
        regrow.prune(model, tmp_path / "out", calibration=long, calibration_tokens=1_000, **passes)
    with pytest.raises(UserError, match="leave refit and refit_passes out"):
        regrow.prune(model, tmp_path / "out", refit=True, **passes)
    assert not (tmp_path / "out").exists()


def test_a_family_that_cannot_be_solved_for_is_refitted_by_passes_alone(tmp_path: Path) -> None:
    model = add_tokenizer(write_tiny(GEMMA2, tmp_path / "gemma2", vocab_size=330))
    text = write_text(tmp_path / "text.jsonl", sentences(400))
    options: dict[str, Any] = {
        "drop_layers": "1", "calibration": text, "calibration_tokens": 4_096
    }  # fmt: skip
    with pytest.raises(UserError, match=r"refit: gemma2 .*; give refit_passes, which trains each"):
        regrow.prune(model, tmp_path / "out", refit=True, **options)
    assert not regrow.prune(model, tmp_path / "plain", **options).refitted
    done = regrow.prune(model, tmp_path / "out", refit_passes=8, **options)
    assert done.refitted
    assert all(each.trained for each in done.refitted)
    shapes = (
        {n: t.shape for n, t in tensors(tmp_path / each).items()} for each in ("plain", "out")
    )
    assert next(shapes) == next(shapes)
