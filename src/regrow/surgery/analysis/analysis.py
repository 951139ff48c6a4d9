"""What each part of a model is worth: losses after cuts of all kinds, before one is chosen.

The measurements are those of a plan (`regrow.surgery.search`), and are kept in the same place. So
an analysis that was stopped continues, and a plan on the same text knows what was measured here.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.fields import Size, Strict
from regrow.common.files import json_bytes, write_atomically
from regrow.common.progress import Progress, Update
from regrow.corpus.reading import Reading
from regrow.corpus.turns import files_in_turns
from regrow.scoring.calibration import CalibrationText
from regrow.scoring.layer_loss import LayerLosses, losses_without_each
from regrow.scoring.score import draw_text
from regrow.scoring.score_file import load_scores
from regrow.surgery.analysis.points import CutLine, cut_lines
from regrow.surgery.search.axes import SearchAxis, search_axes
from regrow.surgery.search.measure import (
    CalibrationDraw,
    Measurement,
    check_memory,
    open_measurement,
)
from regrow.surgery.search.measured_cuts import Sizes
from regrow.surgery.search.search import AxisCosts, axis_costs
from regrow.surgery.search.text import read_search_text
from regrow.surgery.search.vocabulary_limit import least_vocabulary
from regrow.vocabulary.sizing import VocabularyCurve, vocabulary_curve

_LARGE = 1_000_000_000
"""Parameters of a model from which on fewer cuts are measured, on fewer tokens."""
_POINTS, _TOKENS = 4, 4_096
_FEWEST_POINTS, _FEWEST_TOKENS = 3, 2_048
_LAYER_TOKENS = 2_048
"""Tokens on which the loss without each layer is taken, at most."""
_COUNTED = 1 << 24
"""Characters of the text whose tokens are counted, at most."""
_LAYERS_FILE = "layers.json"


class AnalysisSpec(Strict):
    """How an analysis is measured.

    Attributes:
        calibration_tokens: Tokens that cuts are chosen by and refitted on. About half as many are
            measured on. None takes 4,096, and fewer for a model of more than a billion
            parameters.
        points: Cuts of each line of depth and of width. None takes 4, or 3 for a large model.
        seed: Decides which part of the text is used.
        special_tokens: Whether the names of special tokens in the text stand for the tokens.
    """

    calibration_tokens: Size | None = None
    points: Size | None = None
    seed: int = 0
    special_tokens: bool = Field(default=False, strict=True)


@dataclass(frozen=True)
class CutLoss:
    """The loss after one cut.

    Attributes:
        sizes: Of the axes that are cut, by axis.
        parameters: Of the whole model.
        bits_per_byte: On the held-back text, refitted if the architecture allows it.
        without_refit: The same without a refit; None if the architecture allows none.
    """

    sizes: Sizes
    parameters: int
    bits_per_byte: float
    without_refit: float | None


@dataclass(frozen=True)
class LossLine:
    """Cuts along which ever more parameters go; `kind`: `depth` or `width`."""

    name: str
    kind: str
    cuts: tuple[CutLoss, ...]


@dataclass(frozen=True)
class Importance:
    """How important each layer or head is to its score.

    Attributes:
        axis: The axis.
        by: The name of the score.
        rows: A row of scores for each layer, or one row with a score for each layer.
    """

    axis: str
    by: str
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Analysis:
    """What was measured of a model.

    Attributes:
        model: The model as the user named it.
        model_type: Of its config.
        parameters: Of the whole model.
        parts: Parameters by part.
        original: Bits per byte of the original on the held-back text.
        held_back_bytes: Bytes of text that these losses are over.
        calibration_tokens: Tokens of text that cuts are chosen by and refitted on.
        lines: Depth and width, each along several cuts.
        axes: What each axis costs alone.
        layers: The loss without each layer, by stack, in nats per token.
        importance: The scores of layers and heads.
        vocabulary: How much of the text smaller vocabularies cover; None if it cannot be cut.
        notes: What a reader should know, such as that fewer tokens were used.
        directory: Where the measurements are kept.
        measured_now: Cuts that were measured by this call, and not known before.
    """

    model: str
    model_type: str
    parameters: int
    parts: Mapping[str, int]
    original: float
    held_back_bytes: int
    calibration_tokens: int
    lines: tuple[LossLine, ...]
    axes: tuple[AxisCosts, ...]
    layers: tuple[LayerLosses, ...]
    importance: tuple[Importance, ...]
    vocabulary: VocabularyCurve | None
    notes: tuple[str, ...]
    directory: Path
    measured_now: int


def analyse_model(
    model: ModelDirectory,
    name: str,
    text: Sequence[Path],
    spec: AnalysisSpec,
    progress: Progress,
) -> Analysis:
    """Measure what each part of a model is worth. Nothing is trained, and the model stays as it is.

    `name`: the model as the user named it. `text`: text files, of which a part is held back to
    measure on.

    Raises UserError, before anything is measured, if the model has no weights or does not fit in
    memory, or if the text is too short.
    """
    if model.is_config_only:
        raise UserError(f"{model.path}: has a config and no weights, so nothing can be measured")
    calibration, points, notes = _amounts(model.layout, spec)
    check_memory(model, calibration.tokens)
    for note in notes:
        progress.say(note)
    searched = read_search_text(
        text, calibration.tokens, Reading(special_tokens=spec.special_tokens)
    )
    axes = search_axes(model.layout, least_vocabulary(model, notes))
    with open_measurement(model, searched, calibration, progress) as measurement:
        vocabulary = _vocabulary(model, text, notes, progress)
        layers = _layers(measurement, progress)
        lines, costs, measured_now = _cuts(model.layout, axes, points, measurement)
        original = measurement.losses([{}])[0].bits_per_byte
        return Analysis(
            name, model.layout.blueprint.model_type, model.layout.parameters(),
            model.layout.parameters_by_part(), original, searched.held_back_bytes,
            calibration.tokens, lines, costs, layers, _importance(measurement, axes), vocabulary,
            tuple(notes), measurement.known.directory, measured_now,
        )  # fmt: skip


def _amounts(layout: Layout, spec: AnalysisSpec) -> tuple[CalibrationDraw, int, list[str]]:
    """How much is measured: less of a large model, unless the user says how much."""
    ratio = _LARGE / max(layout.parameters(), _LARGE)
    tokens = max(_FEWEST_TOKENS, int(_TOKENS * ratio))
    points = _POINTS if ratio == 1 else _FEWEST_POINTS
    notes = []
    if ratio < 1 and None in (spec.calibration_tokens, spec.points):
        notes.append(
            f"a large model, so less is measured: {spec.calibration_tokens or tokens:,} tokens, "
            f"{spec.points or points} cuts of each line; more can be asked for"
        )
    calibration = CalibrationDraw(spec.calibration_tokens or tokens, spec.seed)
    return calibration, spec.points or points, notes


def _cuts(
    layout: Layout, axes: Sequence[SearchAxis], points: int, measurement: Measurement
) -> tuple[tuple[LossLine, ...], tuple[AxisCosts, ...], int]:
    """The lines, the costs of each axis alone, and how many cuts were measured for them now."""
    lines = cut_lines(layout, axes, points)
    along = [cut for line in lines for cut in line.cuts]
    cuts: list[Sizes] = [{}, *along, *(probe for axis in axes for probe in axis.probes())]
    plain = along if layout.blueprint.solvable else []
    missing = len(measurement.missing(cuts)) + len(measurement.missing(plain, refit=False))
    total = _distinct(cuts) + _distinct(plain)
    if missing:
        known = f" ({total - missing} of them are known)" if missing < total else ""
        measurement.progress.say(
            f"measuring the original and cuts of it, {total} in all{known}; results are kept in "
            f"{measurement.known.directory}"
        )
    measurement.losses(cuts)
    measurement.losses(plain, refit=False)
    found = tuple(_line(line, layout, measurement) for line in lines)
    return found, tuple(axis_costs(axis, layout, measurement) for axis in axes), missing


def _distinct(cuts: Sequence[Sizes]) -> int:
    return len({tuple(sorted(sizes.items())) for sizes in cuts})


def _line(line: CutLine, layout: Layout, measurement: Measurement) -> LossLine:
    losses = measurement.losses(line.cuts)
    plain: Sequence[float | None] = [None] * len(losses)
    if layout.blueprint.solvable:
        plain = [each.bits_per_byte for each in measurement.losses(line.cuts, refit=False)]
    cuts = tuple(
        CutLoss(sizes, layout.parameters(sizes), found.bits_per_byte, without)
        for sizes, found, without in zip(line.cuts, losses, plain, strict=True)
    )
    return LossLine(line.name, line.kind, cuts)


def _layers(measurement: Measurement, progress: Progress) -> tuple[LayerLosses, ...]:
    """The loss without each layer, of each stack by itself; it is measured once."""
    path = measurement.known.directory / _LAYERS_FILE
    form = TypeAdapter(tuple[LayerLosses, ...])
    if path.is_file():
        try:
            return form.validate_json(path.read_bytes())
        except ValidationError:
            raise UserError(f"{path}: not what was measured; delete it to measure again") from None
    model, calibration = measurement.model, measurement.calibration
    axes = [axis for axis in model.layout.blueprint.axes if axis.kind == "layer"]
    if not axes:
        return ()
    progress.say("measuring the loss without each layer")
    tokens = min(_LAYER_TOKENS, calibration.tokens)
    text = CalibrationText(measurement.text.documents, tokens)
    drawn = draw_text(model, text, calibration.seed, progress.say, loss=True)
    loaded = model.load()
    found = tuple(
        losses_without_each(loaded, model.layout, axis, drawn, _layer_progress(axis.name, progress))
        for axis in axes
    )
    write_atomically(path, json_bytes([asdict(each) for each in found], 1))
    return found


def _layer_progress(axis: str, progress: Progress) -> Callable[[int, int], None]:
    """Tells how far the losses without each layer are."""
    began = time.monotonic()

    def advance(done: int, total: int) -> None:
        left = (time.monotonic() - began) / done * (total - done)
        doing = f"without each {axis}, {done} of {total}"
        progress.update(Update("measuring", doing, done / total, left))

    return advance


def _importance(measurement: Measurement, axes: Sequence[SearchAxis]) -> tuple[Importance, ...]:
    """The scores of layers and heads that the cuts were chosen by."""
    layout = measurement.model.layout
    if all(layout.blueprint.axis(axis.lead).kind == "vocab" for axis in axes):
        return ()
    saved = load_scores(measurement.scores())
    found = []
    for name, values in saved.scores.items():
        if layout.blueprint.axis(name).kind in ("layer", "head"):
            rows = values if values.ndim == 2 else values[None]
            found.append(Importance(name, saved.by[name], tuple(map(tuple, rows.tolist()))))
    return tuple(found)


def _vocabulary(
    model: ModelDirectory, text: Sequence[Path], notes: list[str], progress: Progress
) -> VocabularyCurve | None:
    """How much of the text smaller vocabularies cover."""
    progress.say("counting the tokens of the text")
    try:
        return vocabulary_curve(model, _beginning(text, notes))
    except UserError as error:
        notes.append(f"no curve of the vocabulary: {error}")
        return None


def _beginning(paths: Sequence[Path], notes: list[str]) -> Iterator[str]:
    """The documents of the text, up to so many characters as are counted. Files take turns."""
    left = _COUNTED
    for document in files_in_turns(paths).divided():
        if len(document) > left:
            notes.append(f"tokens are counted in the first {_COUNTED:,} characters of the text")
            yield document[:left]
            return
        left -= len(document)
        yield document
