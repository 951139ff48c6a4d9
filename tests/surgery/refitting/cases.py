"""Helpers for the tests of refits: text, cuts, and what a refit of them does."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.precision import Precision
from regrow.cuts.cut import AxisCut, Cut
from regrow.scoring.batches import without_loss
from regrow.scoring.calibration import Calibration
from regrow.scoring.observe import read_batch
from regrow.surgery.carve import carve
from regrow.surgery.refitting.layer_training import UNSEEN
from regrow.surgery.refitting.memory import batch_tokens_of
from regrow.surgery.refitting.refit import Refit, refit
from regrow.surgery.result_files import plan_output


def calibration(model: ModelDirectory, texts: int = 60, seed: int = 0) -> Calibration:
    random = np.random.default_rng(seed)
    vocabulary = model.layout.sizes["vocab"]
    lengths = sorted(random.integers(4, 16, size=texts), reverse=True)  # so batches have padding
    return Calibration(tuple(random.integers(3, vocabulary, size=each) for each in lengths))


def without_layer(model: ModelDirectory, dropped: int = 1) -> Cut:
    """One layer of each stack goes; -1 is the last one."""
    axes = {}
    for axis in model.layout.blueprint.axes:
        if axis.kind == "layer":
            size = model.layout.sizes[axis.name]
            keep = np.array([index for index in range(size) if index != dropped % size])
            axes[axis.name] = AxisCut(size, keep)
    return Cut(model.checkpoint.fingerprint, axes)


def without_channels(model: ModelDirectory) -> Cut:
    """Every other channel of the streams goes."""
    sizes = model.layout.sizes
    axes = {
        axis.name: AxisCut(sizes[axis.name], np.arange(0, sizes[axis.name], 2))
        for axis in model.layout.blueprint.axes
        if axis.kind == "hidden"
    }
    return Cut(model.checkpoint.fingerprint, axes)


def with_silent_neurons(model: ModelDirectory) -> tuple[ModelDirectory, Cut]:
    """A model half of whose neurons write nothing, beside this one, and the cut that drops them."""
    loaded: Any = model.load()
    axes = {}
    for axis in model.layout.blueprint.axes:
        if axis.kind == "ffn":
            assert axis.along is not None
            size, layers = (model.layout.sizes[each] for each in (axis.name, axis.along))
            half = size // 2
            axes[axis.name] = AxisCut(size, np.tile(np.arange(half), (layers, 1)), axis.along)
            with torch.no_grad():
                for name in model.layout.modules(axis.sites):
                    loaded.get_submodule(name).weight[:, half:] = 0
    out = Path(tempfile.mkdtemp(dir=model.path.parent)) / "silent"
    loaded.save_pretrained(out)
    silent = ModelDirectory(out)
    return silent, Cut(silent.checkpoint.fingerprint, axes)


def carved(model: ModelDirectory, cut: Cut) -> ModelDirectory:
    """The cut model without a refit, beside the model."""
    out = Path(tempfile.mkdtemp(dir=model.path.parent)) / "carved"
    carve(plan_output(model, cut), out)
    return ModelDirectory(out)


def refitted(
    model: ModelDirectory,
    cut: Cut,
    text: Calibration,
    *,
    passes: int = 0,
    precision: Precision = "fp32",
) -> Refit:
    """The refit of a cut; its files are written beside the model."""
    cut_model = carved(model, cut)
    weights = cut_model.path.parent / "weights"
    weights.mkdir()
    return refit(model, cut_model, cut, text, weights, passes=passes, precision=precision)


def last_stream(
    model: ModelDirectory, axis: str, text: Calibration, *, learned: bool = False
) -> torch.Tensor:
    """The hidden states behind the last layer of a stack, [tokens, hidden].

    `learned`: only of the batches from which layers are trained.
    """
    loaded: Any = model.load()
    *_, last = model.layout.modules(model.layout.blueprint.axis(axis).sites)
    found = []

    def note(_: Any, __: Any, out: Any) -> None:
        found.append((out[0] if isinstance(out, tuple) else out).double())

    loaded.get_submodule(last).register_forward_hook(note)
    step = batch_tokens_of(text.tokens, passes=1)
    with torch.no_grad():
        for batch in without_loss(text, model.config, step):
            read_batch(loaded, batch)
            found[-1] = found[-1][batch.is_text]
    if learned:
        del found[UNSEEN - 1 :: UNSEEN]
    return torch.cat(found)
