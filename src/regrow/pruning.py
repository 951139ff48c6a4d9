"""Prune one model directory: bind, choose, check, carve."""

from collections.abc import Mapping
from typing import Any

from regrow.architectures import Blueprint, Layout, bind, blueprint_for
from regrow.architectures.config import cut_config
from regrow.checkpoint.carve import CarvePlan, plan_carve
from regrow.checkpoint.reader import Checkpoint
from regrow.cuts.cut import Cut, check_cut

MAX_SHARD_BYTES = 5 * 10**9


def bind_checkpoint(checkpoint: Checkpoint, blueprint: Blueprint | None = None) -> Layout:
    """The layout of a checkpoint, by its own blueprint unless one is given."""
    blueprint = blueprint or blueprint_for(checkpoint.config)
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    return bind(blueprint, checkpoint.config, shapes)


def carve_plan(
    checkpoint: Checkpoint,
    layout: Layout,
    cut: Cut,
    *,
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> CarvePlan:
    """What will be written, with all checks that need no weights."""
    check_cut(cut, layout, checkpoint.fingerprint)
    if config is None:
        layers = {
            axis.name: cut.layers(axis.name, layout.sizes[axis.name]).tolist()
            for axis in layout.blueprint.axes
            if axis.kind == "layer"
        }
        config = cut_config(layout, cut.sizes, layers)
    return plan_carve(checkpoint, layout, cut, config, files or {}, max_shard_bytes)
