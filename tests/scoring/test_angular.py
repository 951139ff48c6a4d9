"""The angular distance of blocks, and the run of layers that a cut drops by it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.architectures.llama import LLAMA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.cuts.choose_indices import choose
from regrow.scoring import score as score_module
from regrow.scoring.calibration import CalibrationText
from regrow.scoring.score import score, score_model
from tests.scoring.models import BY_TYPE, kill_layer, load, text
from tests.tiny import sentences, tiny_layout, write_model


def test_angles_between_the_hidden_states(tmp_path: Path) -> None:
    model, layout, _ = load(BY_TYPE["llama"], tmp_path / "m")
    calibration = text((8, 8, 8))
    table = score_model(model, layout, ["layer"], by="angular", calibration=calibration)["layer"]
    assert table.shape == (5, 5)
    assert (table == table.T).all()
    assert (np.diagonal(table) == 0).all()
    ids = torch.from_numpy(np.stack(calibration.pieces))
    with torch.no_grad():
        states = model.double()(input_ids=ids, output_hidden_states=True).hidden_states
    # The last of them has passed the final norm.
    for first in range(4):
        for second in range(first + 1, 4):
            cosine = torch.cosine_similarity(states[first], states[second], dim=-1)
            angle = (cosine.arccos() / math.pi).mean().item()
            assert table[first, second] == pytest.approx(angle, abs=1e-6)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_a_run_of_layers_that_do_nothing_is_dropped(stack: str, tmp_path: Path) -> None:
    axis = f"{stack}.layer"
    model, layout, _ = load(BY_TYPE["t5"], tmp_path / "m")
    size = layout.sizes[axis]
    for layer in (size - 3, size - 2):
        kill_layer(model, layout, axis, layer)
    scores = score_model(model, layout, [axis], by="angular", calibration=text())
    assert scores[axis][size - 3, size - 1] == 0
    kept = choose(layout, "m", {axis: size - 2}, scores).axes[axis].keep
    assert kept.tolist() == [*range(size - 3), size - 1]
    # One layer of two that do nothing: the first.
    assert choose(layout, "m", {axis: size - 1}, scores).axes[axis].keep.tolist() == [
        index for index in range(size) if index != size - 3
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_the_run_with_the_least_distance(size: int, seed: int, levels: int) -> None:
    layout: Any = tiny_layout(LLAMA)  # 4 layers
    table = np.random.default_rng(seed).integers(levels, size=(5, 5)).astype(float)
    kept = choose(layout, "m", {"layer": size}, {"layer": table}).axes["layer"].keep.tolist()
    drop = 4 - size
    runs = [(table[first, first + drop], first) for first in range(size + 1)]
    first = min(runs)[1]
    assert kept == [*range(first), *range(first + drop, 4)]


def test_only_scores_from_the_loss_keep_narrow_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelDirectory(write_model(tmp_path / "m"))
    room = int(5 * model.layout.parameters() / (1 - score_module.FREE))
    monkeypatch.setattr(score_module, "available_memory", lambda: room)
    monkeypatch.setattr(score_module, "resolve_precision", lambda *_: "bf16")
    text = CalibrationText(lambda: iter(sentences(40)))
    score(model, ["layer"], by="angular", text=text)
    with pytest.raises(UserError, match=r"float32 weights and bfloat16 copies do not fit.* loss n"):
        score(model, ["layer"], by="loss", text=text)


def test_a_model_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelDirectory(write_model(tmp_path / "m"))
    monkeypatch.setattr(score_module, "available_memory", lambda: 1000)
    for by in ("angular", "loss"):
        with pytest.raises(UserError, match=f"{by} needs all of them at once; .* random or infl"):
            score(model, ["layer"], by=by, text=CalibrationText(lambda: iter(sentences(9))))
