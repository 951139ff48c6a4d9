"""Tiny random models of all families, with a text of token ids, and a way to kill parts of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regrow.architectures import BLUEPRINTS, Blueprint, Layout
from regrow.architectures.schema import AxisKind
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.reader import Checkpoint, open_checkpoint
from regrow.models.networks import model_class
from regrow.scoring.calibration import Calibration
from regrow.scoring.observe import Statistic
from regrow.scoring.registry import DEFAULT, SCORES, FromText
from tests.tiny import weights_by_name, write_tiny

BY_TYPE = {blueprint.model_type: blueprint for blueprint in BLUEPRINTS}
VOCAB = 61


def load(
    blueprint: Blueprint, out: Path, number: int = 0, **changes: Any
) -> tuple[Any, Layout, Checkpoint]:
    checkpoint = open_checkpoint(write_tiny(blueprint, out, number, **changes))
    built = model_class(blueprint.architectures[0])
    model = built.from_pretrained(out, dtype=torch.float32).eval()
    return model, bind_checkpoint(checkpoint), checkpoint


def text(lengths: Sequence[int] = (11, 9, 9, 4, 1), seed: int = 0) -> Calibration:
    random = np.random.default_rng(seed)
    return Calibration(tuple(random.integers(0, VOCAB, n) for n in sorted(lengths, reverse=True)))


def statistic(score: str, kind: AxisKind) -> Statistic:
    source = SCORES[score].source
    assert isinstance(source, FromText)
    return source.statistics[kind]


def default_statistics(blueprint: Blueprint) -> dict[str, Statistic]:
    """Of all axes that are scored from text where no score is named."""
    return {
        axis.name: statistic(DEFAULT[axis.kind], axis.kind)
        for axis in blueprint.axes
        if axis.kind not in ("vocab", "kv_head")
    }


def kill(
    model: Any, layout: Layout, axes: Mapping[str, int], layer: tuple[str, int] | None = None
) -> None:
    """Sets to 0 all weights that belong to an index of some axes, in one layer or in all."""
    state = weights_by_name(model, layout.blueprint)
    for tensor in layout.tensors.values():
        if layer is not None and tensor.layer is not None and tensor.layer != layer:
            continue
        for axis, index in axes.items():
            if tensor.expert == (axis, index):
                state[tensor.parameter].zero_()
            if axis in tensor.dims.names:
                places = tensor.dims.indices(layout.sizes, {axis: np.array([index])})
                for dimension, kept in enumerate(places):
                    if kept is not None:
                        weight = state[tensor.parameter]
                        weight.index_fill_(dimension, torch.from_numpy(kept), 0.0)


def kill_layer(model: Any, layout: Layout, axis: str, index: int) -> None:
    """Sets all weights of a layer to 0, so that it passes on what enters."""
    state = weights_by_name(model, layout.blueprint)
    for tensor in layout.tensors.values():
        if tensor.layer == (axis, index):
            state[tensor.parameter].zero_()
