"""Activation times weight norm, at each matrix that reads an axis."""

from pathlib import Path

import numpy as np
import pytest
import torch

from regrow.architectures import BLUEPRINTS, Blueprint
from regrow.common.errors import UserError
from regrow.scoring.registry import SCORES
from regrow.scoring.score import check_scores, scorable_axes, score_model
from regrow.scoring.wanda import readers
from tests.scoring.models import BY_TYPE, kill, load, text
from tests.tiny import tiny_layout

CASES = [
    pytest.param(blueprint, number, id=f"{blueprint.model_type}-{number}")
    for blueprint in BLUEPRINTS
    for number in range(len(blueprint.tiny))
]


def test_written_out_for_llama(tmp_path: Path) -> None:
    model, layout, _ = load(BY_TYPE["llama"], tmp_path / "m")
    read: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, name=name: read.__setitem__(name, args[0].flatten(0, 1))
            )
    calibration = text((8, 8, 8))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(np.stack(calibration.pieces)))
    expected = {
        name: (states.abs() * model.get_submodule(name).weight.norm(dim=0)).detach()
        for name, states in read.items()
    }
    found = score_model(
        model, layout, ["hidden", "ffn", "head"], by="wanda", calibration=calibration
    )
    hidden = 0
    for layer in range(4):
        each = f"model.layers.{layer}"
        ffn = expected[f"{each}.mlp.down_proj"].mean(0)
        assert found["ffn"][layer] == pytest.approx(ffn.numpy(), rel=1e-4)
        heads = expected[f"{each}.self_attn.o_proj"].reshape(24, 6, 10).norm(dim=-1).mean(0)
        assert found["head"][layer] == pytest.approx(heads.numpy(), rel=1e-4)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj",
                     "mlp.up_proj"):  # fmt: skip
            hidden = hidden + expected[f"{each}.{name}"].mean(0)
    assert found["hidden"] == pytest.approx(np.asarray(hidden), rel=1e-4)


@pytest.mark.parametrize(("blueprint", "number"), CASES)
def test_the_dead_score_zero(blueprint: Blueprint, number: int, tmp_path: Path) -> None:
    for axis in blueprint.axes:
        if axis.kind not in ("hidden", "ffn", "head"):
            continue
        if axis.kind == "hidden" and "expert" in blueprint.axis_names:
            model, layout, _ = load(blueprint, tmp_path / axis.name, number)
            refusal = "by: wanda looks at each matrix that reads hidden, and those of experts are"
            with pytest.raises(UserError, match=refusal):
                score_model(model, layout, [axis.name], by="wanda", calibration=text())
            continue
        model, layout, _ = load(blueprint, tmp_path / axis.name, number)
        modules = [*readers(layout, axis)]
        if axis.kind != "hidden":
            sites = [pattern.partition("{")[0] for pattern in axis.sites]
            assert len(modules) == layout.sizes[axis.along or f"{axis.stack}.layer"]
            assert all(name.startswith(sites[0]) for name in modules)
        group, dead, killed = 1, 3, axis.name
        if axis.groups:
            # Heads give nothing when the values that they read are 0.
            group = layout.sizes[axis.name] // layout.sizes[axis.groups]
            dead, killed = group, axis.groups
        kill(model, layout, {killed: dead // group}, (axis.along, 1) if axis.along else None)
        scores = score_model(model, layout, [axis.name], by="wanda", calibration=text())[axis.name]
        row = scores[1] if axis.along else scores
        assert row[dead : dead + group] == pytest.approx(0, abs=1e-9), axis.name
        others = np.delete(row, range(dead, dead + group))
        assert (others > 1e-7).mean() > 0.7  # relu silences some


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda b: b.model_type)
@pytest.mark.parametrize("by", [None, *SCORES])
def test_all_scorable_axes_can_be_scored(blueprint: Blueprint, by: str | None) -> None:
    layout = tiny_layout(blueprint)
    axes = scorable_axes(layout, by)
    assert axes
    check_scores(layout, axes, by, has_text=True)
