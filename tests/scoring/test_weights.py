"""Weights along an axis: every one once, whatever the size of the blocks and the number type."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from regrow.architectures import BLUEPRINTS, Blueprint, Layout
from regrow.architectures.schema import Axis
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.reader import Checkpoint, open_checkpoint
from regrow.common.errors import UserError
from regrow.scoring import weights as weights_module
from regrow.scoring.weights import weights_along
from tests.scoring.models import BY_TYPE
from tests.tiny import write_tiny

CASES = [
    pytest.param(blueprint, number, id=f"{blueprint.model_type}-{number}")
    for blueprint in BLUEPRINTS
    for number in range(len(blueprint.tiny))
]


def opened(directory: Path) -> tuple[Checkpoint, Layout]:
    checkpoint = open_checkpoint(directory)
    return checkpoint, bind_checkpoint(checkpoint)


def squares(
    checkpoint: Checkpoint, layout: Layout, axis: Axis, layer: int | None = None
) -> list[float]:
    """The sum of the squares of each index."""
    total = np.zeros(layout.sizes[axis.name])
    for rows in weights_along(checkpoint, layout, axis, layer):
        assert rows.values.dtype == np.float64
        np.add.at(total, rows.indices, np.square(rows.values).sum(axis=1))
    return [float(value) for value in total]


@pytest.mark.parametrize(("blueprint", "number"), CASES)
def test_what_is_removed_with_an_index(blueprint: Blueprint, number: int, tmp_path: Path) -> None:
    """Weights of an index are those that a cut without it leaves out, in every family."""
    checkpoint, layout = opened(write_tiny(blueprint, tmp_path / "m", number))
    state = load_file(tmp_path / "m" / "model.safetensors")
    shared = {*blueprint.head.aliases, blueprint.head.weight} if layout.tied else set()
    for axis in blueprint.axes:
        if axis.kind == "layer":
            continue
        layer = 1 if axis.along else None
        expected = np.zeros(layout.sizes[axis.name])
        for name, tensor in layout.tensors.items():
            if tensor.parameter in shared | set(blueprint.buffers):
                continue
            if layer is not None and tensor.layer != (axis.along, layer):
                continue
            group = layout.sizes[axis.name] // layout.sizes[axis.groups] if axis.groups else 1
            for which, per in ((axis.name, 1), *([(axis.groups, group)] if axis.groups else [])):
                if tensor.expert is not None and tensor.expert[0] == which:
                    expected[tensor.expert[1]] += np.square(state[name], dtype=np.float64).sum()
                for index in range(layout.sizes[axis.name]):
                    others = np.delete(np.arange(layout.sizes[which]), index // per)
                    kept = tensor.dims.indices(layout.sizes, {which: others})
                    for dimension, places in enumerate(kept):
                        if places is not None:
                            removed = np.delete(state[name], places, axis=dimension)
                            expected[index] += np.square(removed, dtype=np.float64).sum()
        assert squares(checkpoint, layout, axis, layer) == pytest.approx(expected), axis.name


def test_small_blocks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, layout = opened(write_tiny(BY_TYPE["phi3"], tmp_path / "m"))
    axes = [axis for axis in layout.blueprint.axes if axis.kind != "layer"]
    whole = [squares(checkpoint, layout, axis) for axis in axes]
    for values in (1, 100):
        monkeypatch.setattr(weights_module, "BLOCK_VALUES", values)
        for axis, expected in zip(axes, whole, strict=True):
            assert squares(checkpoint, layout, axis) == pytest.approx(expected)
            largest = max(rows.values.size for rows in weights_along(checkpoint, layout, axis))
            assert largest <= max(values, 36)  # the longest row


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_number_types(dtype: torch.dtype, tmp_path: Path) -> None:
    exact = opened(write_tiny(BY_TYPE["llama"], tmp_path / "exact"))
    stored = opened(write_tiny(BY_TYPE["llama"], tmp_path / "stored", dtype=dtype))
    for axis in exact[1].blueprint.axes:
        if axis.kind == "layer":
            continue
        expected = squares(*exact, axis)
        assert squares(*stored, axis) == pytest.approx(expected, rel=0.01)


def test_not_finite(tmp_path: Path) -> None:
    source = write_tiny(BY_TYPE["llama"], tmp_path / "m")
    state = load_file(source / "model.safetensors")
    state["model.layers.2.mlp.up_proj.weight"][4, 0] = np.nan
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    checkpoint, layout = opened(source)
    message = r"model\.layers\.2\.mlp\.up_proj\.weight: holds NaN or infinite weights; repair"
    with pytest.raises(UserError, match=message):
        squares(checkpoint, layout, layout.blueprint.axis("ffn"))
