"""The greedy search for layers: against the loss of the model with these layers silenced."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regrow.architectures import Blueprint, Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.precision import autocast
from regrow.cuts.cut import AxisCut, Cut
from regrow.cuts.silence import silenced
from regrow.objectives.rows.denoisers import DenoisingTokens
from regrow.scoring.batches import with_loss
from regrow.scoring.calibration import Calibration, CalibrationText
from regrow.scoring.layer_loss import losses_without_each
from regrow.scoring.observe import BATCH_TOKENS, text_loss
from regrow.scoring.score import score, score_model
from tests.scoring.models import BY_TYPE, kill_layer, load, text
from tests.tiny import sentences, write_model, write_seq2seq

FAMILIES = ["llama", "gemma3_text", "gpt_neox", "t5", "umt5", "bart", "t5gemma", "openba"]
MARKS = DenoisingTokens(prefixes={}, sentinels=tuple(range(60, 50, -1)), eos=1, pad=0, start=0)


def loss(model: Any, layout: Layout, calibration: Calibration, axis: str, kept: Any) -> float:
    """The loss with only these layers of an axis."""
    cut = Cut("m", {axis: AxisCut(layout.sizes[axis], np.array(kept))})
    products = autocast("auto", torch.device("cpu"))
    with torch.no_grad(), products, silenced(model, layout, cut):
        batches = with_loss(calibration, model.config, BATCH_TOKENS)
        return sum(text_loss(model, batch).item() for batch in batches)


def searched(model: Any, layout: Layout, calibration: Calibration, axis: str) -> list[int]:
    """The layers in the order in which they are dropped, by definition."""
    left, order = [*range(layout.sizes[axis])], []
    while len(left) > 1:
        losses = {
            each: loss(model, layout, calibration, axis, [o for o in left if o != each])
            for each in left
        }
        order.append(min(losses, key=lambda each: losses[each]))
        left.remove(order[-1])
    return [*order, *left]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_without_which_the_loss_is_least(family: str, tmp_path: Path) -> None:
    blueprint: Blueprint = BY_TYPE[family]
    model, layout, _ = load(blueprint, tmp_path / "m")
    calibration = replace(text((11, 9, 9, 6)), denoising=MARKS)
    for axis in (each.name for each in blueprint.axes if each.kind == "layer"):
        found = score_model(model, layout, [axis], by="loss", calibration=calibration)[axis]
        assert np.argsort(found).tolist() == searched(model, layout, calibration, axis)
        size = layout.sizes[axis] - 2
        fewer = score_model(
            model, layout, [axis], by="loss", calibration=calibration, sizes={axis: size}
        )[axis]
        assert fewer.tolist() == np.minimum(found, 2).tolist()


def test_a_layer_that_does_nothing_goes_after_none_that_helps(tmp_path: Path) -> None:
    model, layout, _ = load(BY_TYPE["llama"], tmp_path / "m")
    kill_layer(model, layout, "layer", 2)
    calibration = text()
    whole = loss(model, layout, calibration, "layer", range(4))
    found = score_model(model, layout, ["layer"], by="loss", calibration=calibration)["layer"]
    before = np.flatnonzero(found < found[2])
    # Random layers may only disturb: what is dropped first made the loss no greater.
    kept = [index for index in range(4) if index not in before]
    assert loss(model, layout, calibration, "layer", kept) <= whole + 1e-5


@pytest.mark.parametrize("family", ["llama", "t5", "openba"])
def test_the_loss_without_each_layer(family: str, tmp_path: Path) -> None:
    model, layout, _ = load(BY_TYPE[family], tmp_path / "m")
    calibration = replace(text((11, 9, 9, 6)), denoising=MARKS)
    for axis in (each for each in BY_TYPE[family].axes if each.kind == "layer"):
        told: list[tuple[int, int]] = []

        def tell(done: int, total: int, told: list[tuple[int, int]] = told) -> None:
            told.append((done, total))

        found = losses_without_each(model, layout, axis, calibration, tell)
        assert [done for done, _ in told] == [*range(1, told[0][1] + 1)]
        count = layout.sizes[axis.name]
        whole = loss(model, layout, calibration, axis.name, range(count))
        assert found.whole * found.tokens == pytest.approx(whole, rel=1e-4)
        for layer, without in enumerate(found.without):
            kept = [other for other in range(count) if other != layer]
            expected = loss(model, layout, calibration, axis.name, kept)
            assert without * found.tokens == pytest.approx(expected, rel=1e-4)


def test_nothing_stays_behind(tmp_path: Path) -> None:
    model, layout, _ = load(BY_TYPE["llama"], tmp_path / "m")
    score_model(model, layout, ["layer"], by="loss", calibration=text())
    assert not any("forward" in vars(module) for module in model.modules())


def test_from_a_directory(tmp_path: Path) -> None:
    documents = CalibrationText(lambda: iter(sentences(60)), 400)
    decoder = ModelDirectory(write_model(tmp_path / "m"))
    orders = [score(decoder, ["layer"], by="loss", text=documents)["layer"] for _ in range(2)]
    assert (orders[0] == orders[1]).all()
    assert sorted(orders[0]) == [0, 1, 2, 3]
    seq2seq = ModelDirectory(write_seq2seq(tmp_path / "t5", BY_TYPE["t5"]))
    found = score(seq2seq, ["encoder.layer"], by="loss", text=documents)["encoder.layer"]
    assert sorted(found) == [0, 1, 2]
