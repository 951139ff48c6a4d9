"""Helpers for the tests of carving: cut a directory, and compute the expected tensors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from regrow.architectures import Layout, bind, blueprint_for
from regrow.architectures.cut_config import cut_config
from regrow.checkpoint.reader import Checkpoint, open_checkpoint
from regrow.cuts.cut import AxisCut, Cut, check_cut
from regrow.surgery.carve import CarvePlan, carve, plan_carve

LARGE = 1 << 40


def opened(directory: Path) -> tuple[Checkpoint, Layout]:
    checkpoint = open_checkpoint(directory)
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    blueprint = blueprint_for(checkpoint.config)
    assert blueprint is not None
    return checkpoint, bind(blueprint, checkpoint.config, shapes)


def planned(directory: Path, cut: Cut, max_shard_bytes: int = LARGE, **files: bytes) -> CarvePlan:
    """The plan of a cut; the model fingerprint in the cut is ignored."""
    checkpoint, layout = opened(directory)
    check_cut(Cut(checkpoint.fingerprint, cut.axes), layout, checkpoint.fingerprint)
    layers = {
        axis.name: cut.layers(axis.name, layout.sizes[axis.name]).tolist()
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
    }
    config = cut_config(layout, cut.sizes, layers)
    return plan_carve(checkpoint, layout, cut, config, files, max_shard_bytes)


def carved(directory: Path, out: Path, cut: Cut, max_shard_bytes: int = LARGE) -> Path:
    carve(planned(directory, cut, max_shard_bytes), out)
    return out


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory, read by the safetensors library."""
    loaded: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        part = load_file(file)
        assert not part.keys() & loaded.keys()
        loaded |= part
    return loaded


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, also of a dtype that NumPy does not have."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same_bytes(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert tensor.shape == b[name].shape, name
        assert raw(tensor) == raw(b[name]), name


def sharded(directory: Path, count: int) -> Path:
    """Spread the tensors of a directory over `count` shards with an index."""
    single = directory / "model.safetensors"
    state = load_file(single)
    weight_map: dict[str, str] = {}
    for i in range(count):
        name = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        part = dict(list(state.items())[i::count])
        save_file(part, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    single.unlink()
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def expected(directory: Path, cut: Cut) -> dict[str, torch.Tensor]:
    """The tensors after the cut, by torch's own indexing; folds are not applied."""
    layout = opened(directory)[1]
    result = {}
    for name, tensor in tensors(directory).items():
        label = layout.tensors[name]
        new_name, position = name, 0
        if label.layer is not None:
            axis, old = label.layer
            kept = cut.layers(axis, layout.sizes[axis]).tolist()
            if old not in kept:
                continue
            position = kept.index(old)
            new_name = label.pattern.replace("{" + axis + "}", str(position))
        if label.expert is not None:
            axis, old = label.expert
            whole = range(layout.sizes[axis])
            kept = cut.axes[axis].row(position).tolist() if axis in cut.axes else [*whole]
            if old not in kept:
                continue
            new_name = new_name.replace("{" + axis + "}", str(kept.index(old)))
        keep = {axis: cut.axes[axis].row(position) for axis in label.dims.names & cut.axes.keys()}
        for dimension, indices in enumerate(label.dims.indices(layout.sizes, keep)):
            if indices is not None:
                tensor = tensor.index_select(dimension, torch.tensor(indices))
        result[new_name] = tensor
    return result


def axis_cut(size: int, keep: Any, along: str | None = None) -> AxisCut:
    return AxisCut(size, np.array(keep, dtype=np.int64), along)
