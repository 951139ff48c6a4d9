"""Figure 5, and which layers to drop: losses right after a cut, without refit and training."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from common import say

import regrow
from regrow.api.arguments import open_model
from regrow.common.progress import Progress
from regrow.evaluation.heldout import text_loss
from regrow.models.loading import load_model, load_tokenizer
from regrow.surgery.analysis.points import cut_lines
from regrow.surgery.search.axes import search_axes
from regrow.surgery.search.measure import CalibrationDraw, open_measurement
from regrow.surgery.search.text import read_search_text


def depth_and_width(model: Path, text: Sequence[Path], tokens: int, points: int) -> dict[str, Any]:
    """Losses along depth and along width, in bits per byte of text that is held back.

    The cuts are those of `regrow analyse`, without its refit, since the report refits nothing.
    Each is kept when it is measured, so a call that was stopped goes on.
    """
    directory = open_model(model, Progress(say=say))
    layout = directory.layout
    searched = read_search_text(text, tokens)
    calibration = CalibrationDraw(tokens, seed=0)
    with open_measurement(directory, searched, calibration, Progress(say=say)) as measurement:
        (original,) = measurement.losses([{}])
        lines = []
        for line in cut_lines(layout, search_axes(layout), points):
            say(f"{line.name}: {len(line.cuts)} cuts")
            losses = measurement.losses(line.cuts, refit=False)
            cuts = [
                {"sizes": dict(sizes), "parameters": layout.parameters(sizes),
                 "bits": loss.bits_per_byte}
                for sizes, loss in zip(line.cuts, losses, strict=True)
            ]  # fmt: skip
            lines.append({"name": line.name, "kind": line.kind, "cuts": cuts})
    return {"original": original.bits_per_byte, "parameters": layout.parameters(), "lines": lines}


def layer_choices(model: Path, texts: Mapping[str, Path]) -> dict[str, Any]:
    """The loss without a quarter of the layers of the (last) stack, by which they are.

    In bits per byte, as the mean over `texts`.
    """
    directory = open_model(model, Progress(say=say))
    axis = [axis for axis in directory.layout.blueprint.axes if axis.kind == "layer"][-1]
    layers = directory.layout.sizes[axis.name]
    stack = axis.name.rpartition(".")[0]
    found: dict[str, Any] = {
        "stack": stack, "layers": layers, "original": _loss(model, texts), "dropped": {},
    }  # fmt: skip
    for name, chosen in choices(layers).items():
        dropped = ",".join(map(str, chosen))
        with tempfile.TemporaryDirectory() as work:
            cut = Path(work) / "model"
            drop: Any = {stack: dropped} if stack else dropped
            regrow.prune(model, cut, drop_layers=drop, refit=False)
            loss = _loss(cut, texts)
        say(f"without {name} ({dropped}): {loss:.3f}")
        found["dropped"][name] = {"layers": dropped, "bits": loss}
    return found


def choices(layers: int) -> dict[str, list[int]]:
    """A quarter of so many layers, chosen in four ways, by their numbers from 0."""
    count = max(2, layers // 4)
    middle = (layers - count) // 2
    return {
        "spaced": [round((place + 1) * layers / (count + 1)) for place in range(count)],
        "neighbours in the middle": [*range(middle, middle + count)],
        "the first": [*range(count)],
        "the last": [*range(layers - count, layers)],
    }


def _loss(model: Path, texts: Mapping[str, Path]) -> float:
    loaded, tokenizer = load_model(model), load_tokenizer(model)
    losses = [text_loss(loaded, tokenizer, path).bits_per_byte for path in texts.values()]
    return fmean(loss for loss in losses if loss is not None)
