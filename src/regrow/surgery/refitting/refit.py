"""Refit the matrices beside the residual stream, so that a cut changes less of what they compute.

After a cut, attention and ffn write something else to the residual stream than before. Each matrix
that writes to the stream (the output projections of attention and cross-attention, and the down
projection) is solved for again by least squares, in the order in which the network uses them. With
inputs ``f`` as the cut model computes them, carved weights ``W0``, the cut model's stream ``s`` in
front of the matrix, and the original's stream ``t`` behind it::

    minimise |f W - (t - s)|^2 + ridge * |W - W0|^2

If the following layers are dropped, ``t`` is the original's stream behind them, so the last matrix
of a kept layer takes over what it can of their work. Layers, ffn and heads are then one case. If
hidden channels are cut, ``t`` is restricted to the channels that stay, and the matrices that read
the stream (query, key, value, gate, up) are solved for too: with the channels that stay as inputs,
towards what the original's matrix gives. The ridge pulls towards the
carved weights. It is chosen for each matrix on tokens that are held back, and the carved weights
stay if no ridge helps there. So without passes the error on the calibration text never grows.

If hidden is cut and the head is not tied, the head is solved for as well. The states ``h`` that it
reads in the original are fitted by those that it reads in the cut model, ``h = M f``, and its
weights ``W`` become ``W M``.

Each layer can then be trained alone, for a few passes over the calibration text, before the next
one is solved for (`regrow.surgery.refitting.layer_training`).

Memory holds the hidden states of the calibration text about eight times, what one matrix reads, the
sums of one matrix, and both models in float32. If all this does not fit, one layer of each model is
read at a time.

Matrices can be solved for if the architecture is pre-norm: what attention and ffn write is added to
the stream as it is, or times a constant. :func:`refit` checks that on the original. In other
architectures, and in mixtures of experts, whose outputs a router weighs, the layers are only
trained.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from regrow.architectures import Layout
from regrow.architectures.assembled import parts_of
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.files import save_tensors
from regrow.common.precision import Precision
from regrow.common.progress import QUIET, Progress, tell_part
from regrow.cuts.cut import Cut
from regrow.cuts.kept import Shared, kept_indices
from regrow.cuts.rotatable import hidden_axis
from regrow.scoring.batches import TextBatch, without_loss
from regrow.scoring.calibration import Calibration
from regrow.surgery.computed import Computed
from regrow.surgery.kept_bytes import Selection
from regrow.surgery.refitting.layer_calls import LayerModel
from regrow.surgery.refitting.layer_fit import (
    FittedMatrix,
    LayerFit,
    fitted_matrix,
    module_of,
    readers,
    writers,
)
from regrow.surgery.refitting.layer_targets import Place, Reader, Wanted, wanted_of
from regrow.surgery.refitting.layer_training import UNSEEN, train_layer
from regrow.surgery.refitting.least_squares import LeastSquares
from regrow.surgery.refitting.memory import batch_tokens_of, check_memory
from regrow.surgery.refitting.words import passes_words, refit_words
from regrow.surgery.rotation import Rotation, RowsTimes


@dataclass(frozen=True)
class Refit:
    """All that was refitted.

    Attributes:
        matrices: In the order in which they were solved for; or the trained layers, if no matrix
            can be solved for.
        corrections: Their weights and biases, by parameter name in the result. The values are in
            files of the directory that :func:`refit` was given, but for the head, which is computed
            from that of the source.
        tokens: Tokens of calibration text.
    """

    matrices: tuple[FittedMatrix, ...]
    corrections: dict[str, Computed]
    tokens: int

    def words(self) -> str:
        """What the refit did, in one line."""
        errors = [(each.before, each.after) for each in self.matrices if not each.reads]
        reading = len(self.matrices) - len(errors)
        more = f"; also {reading:,} that read the stream" if reading else ""
        done = refit_words(errors, sum(each.trained for each in self.matrices))
        return f"refitted on {self.tokens:,} tokens: {done or 'nothing got better'}{more}"


def refit(  # noqa: PLR0913 - where the refit runs, beside what it is for
    source: ModelDirectory,
    carved: ModelDirectory,
    cut: Cut,
    calibration: Calibration,
    directory: Path,
    *,
    passes: int = 0,
    rotation: Rotation | None = None,
    progress: Progress = QUIET,
    precision: Precision = "auto",
) -> Refit:
    """Solve for the matrices of a cut that write to the residual stream, and train its layers.

    Args:
        source: the model before the cut.
        carved: the carved model, with the vocabulary of `source`.
        cut: the cut. Of its vocabulary only the rows of the head are read.
        calibration: text in tokens of `source`.
        directory: an empty directory for the new weights, 4 bytes each.
        passes: over the text, in which each layer is then trained alone.
        rotation: which directions the cut keeps, if its hidden is rotated.
        progress: receives messages.
        precision: of the matrix products of both models. Sums are float64.

    Raises:
        UserError: no matrix can be solved for and there are no passes, the states of the text
            do not fit in memory, or the models fit only one layer at a time and accelerate is
            missing.
    """
    problem = check_memory(source.path, source.layout, cut.sizes, calibration.tokens, passes)
    if problem:
        progress.say(f"{problem}; reading them one layer at a time")
    original, cut_model = (
        LayerModel(directory, precision, offloaded=problem is not None)
        for directory in (source, carved)
    )
    models = _Models(original, cut_model, cut, rotation)
    batch_tokens = batch_tokens_of(calibration.tokens, passes)
    batches = list(without_loss(calibration, source.config, batch_tokens))
    more = f"{passes_words(passes)} to train each layer" if passes else ""
    progress.say(f"refitting on {calibration.tokens:,} tokens{more}")
    stacks = [axis.name for axis in source.layout.blueprint.axes if axis.kind == "layer"]
    matrices: list[FittedMatrix] = []
    corrections: dict[str, Computed] = {}
    total, done = sum(carved.layout.sizes[name] for name in stacks), 0
    tell_part("refitting, layer", 0, total)
    with original.computing():
        for stack in stacks:
            for fitted, weights in _refit_stack(models, stack, batches, passes, calibration.seed):
                file = directory / f"{done:05d}.safetensors"
                save_tensors(weights, file)
                for name, values in weights.items():
                    cut_model.replaced(name, str(file))
                    corrections.update(_corrections(carved.layout, file, name, values))
                matrices += fitted
                done += 1
                tell_part("refitting, layer", done, total)
        if hidden_axis(source.layout) in cut.axes and not source.layout.tied:
            head, reading = _refit_head(models, batches)
            matrices.append(head)
            corrections[f"{head.name}.weight"] = _head_rows(source, cut, reading)
    return Refit(tuple(matrices), corrections, calibration.tokens)


def _corrections(
    layout: Layout, file: Path, parameter: str, values: Tensor
) -> Iterator[tuple[str, Computed]]:
    """The tensors of a result that a new parameter stands for, by name, read from `file`."""
    shape = tuple(values.shape)
    parts = parts_of(layout.blueprint, parameter, shape)
    for part in parts:
        read = partial(_rows, file, parameter, part.expert, part.first)
        yield part.name, Computed((part.last - part.first, *shape[-1:]), read)
    if not parts:
        yield parameter, Computed(shape, partial(_rows, file, parameter, None, 0))


def _rows(file: Path, name: str, expert: int | None, start: int, first: int, last: int) -> Any:
    """Rows of a stored tensor, or of one of its experts, counted from `start`."""
    rows = slice(start + first, start + last)
    with safe_open(file, framework="np") as tensors:
        stored = tensors.get_slice(name)
        return stored[rows] if expert is None else stored[expert, rows]


@dataclass(frozen=True, eq=False)
class _Models:
    """The original and the cut model."""

    original: LayerModel
    cut_model: LayerModel
    cut: Cut
    rotation: Rotation | None

    def readers(self, place: Place) -> dict[str, Reader]:
        """Matrices of a layer that read cut channels, by name in the original."""
        after = readers(self.cut_model.layout, place.axis, place.number)
        found: dict[str, Reader] = {}
        shared: Shared = {}
        for pattern, label in readers(self.original.layout, place.axis, place.layer).items():
            rows, columns = label.dims.dimensions
            if columns.names & self.cut.axes.keys():
                keep = kept_indices(rows, place.number, self.original.layout, self.cut, shared)
                found[module_of(label)] = Reader(module_of(after[pattern]), keep)
        return found

    def kept(self, axis: str) -> Callable[[Tensor], Tensor] | None:
        """From the original's stream to what the cut keeps of it; None if it keeps all.

        `axis`: the layers of the stack.
        """
        blueprint = self.original.layout.blueprint
        stack = blueprint.axis(axis).stack
        for each in blueprint.axes:
            is_stream = each.kind == "hidden" and each.stack in (None, stack)
            if is_stream and each.name in self.cut.axes:
                if self.rotation is not None:
                    return partial(_along, self.rotation.directions.float())
                return partial(_chosen, torch.from_numpy(self.cut.axes[each.name].keep.copy()))
        return None

    def reading_of_head(self) -> Tensor:
        """What the head's weights are multiplied with by the cut, [channels, kept]."""
        layout = self.original.layout
        name, head = hidden_axis(layout), layout.blueprint.head.weight.removesuffix(".weight")
        assert name is not None
        if self.rotation is not None:
            return self.rotation.reading(head).float()
        keep = self.cut.axes[name].keep
        return torch.eye(layout.sizes[name])[:, torch.from_numpy(keep.copy())]


def _along(directions: Tensor, stream: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return stream @ directions.T


def _chosen(channels: Tensor, stream: Tensor) -> Tensor:
    return stream[..., channels]


_Fitted = tuple[list[FittedMatrix], dict[str, Tensor]]
"""The matrices of one layer, and its new parameters by name."""


def _refit_stack(
    models: _Models, axis: str, batches: Sequence[TextBatch], passes: int, seed: int
) -> Iterator[_Fitted]:
    """Refit the layers of one stack from the first to the last.

    `passes`: over the text, in which each layer is then trained alone. `seed`: of their orders.
    """
    layer_axis = models.original.layout.blueprint.axis(axis)
    names = models.original.layout.modules(layer_axis.sites)
    cut_names = models.cut_model.layout.modules(layer_axis.sites)
    kept = models.cut.layers(axis, len(names)).tolist()
    texts = [_text_of(batch, layer_axis.stack == "decoder") for batch in batches]
    calls, streams = models.original.calls(names, batches)
    cut_calls, cut_streams = models.cut_model.calls(cut_names, batches)
    kept_of = models.kept(axis)
    is_solvable = models.original.layout.blueprint.solvable or not passes

    def through(layers: range, streams: list[Tensor]) -> list[Tensor]:
        """The original's stream behind these layers."""
        for layer in layers:
            module = models.original.network.get_submodule(names[layer])
            with models.original.loaded(module):
                streams = [c[layer](module, s) for c, s in zip(calls, streams, strict=True)]
        return streams

    streams = through(range(kept[0]), streams)
    unchanged = _unchanged_layers(models.cut, models.original.layout, axis)
    for number, layer in enumerate(kept):
        if number < unchanged:
            cut_streams = streams = through(range(layer, layer + 1), streams)
            yield [], {}
            continue
        following = kept[number + 1] if number + 1 < len(kept) else len(names)
        if is_solvable:
            place, own = Place(axis, layer, number), [each[layer] for each in calls]
            wanted = wanted_of(models.original, place, models.readers(place), own, streams)
        else:
            wanted = Wanted([], 1.0, [], through(range(layer, layer + 1), streams))
        streams = through(range(layer + 1, following), wanted.behind)
        if wanted.written:
            wanted.written[-1] = streams
        fit = LayerFit(
            models.cut_model,
            models.cut_model.network.get_submodule(cut_names[number]),
            writers(models.cut_model.layout, axis, number),
            [each[number] for each in cut_calls],
            texts,
            range(UNSEEN - 1, len(batches), UNSEEN) if passes else range(0),
            wanted.factor,
        )
        with models.cut_model.loaded(fit.layer):
            fitted, behind = _fit_layer(fit, wanted, cut_streams, kept_of)
            target = streams if kept_of is None else list(map(kept_of, streams))
            trained = None
            if passes:
                trained = train_layer(fit, cut_streams, behind, target, passes, seed)
            if trained is not None:
                alone = FittedMatrix(cut_names[number], None, trained.before, trained.error)
                last = fitted.pop() if fitted else alone
                fitted.append(replace(last, after=trained.error, trained=True))
                behind = trained.behind
            cut_streams = behind
            solved = tuple(f"{each.name}." for each in fitted)
            weights = {
                name: parameter.detach().clone()
                for name, parameter in fit.layer.named_parameters(cut_names[number])
                if fitted and (fitted[-1].trained or name.startswith(solved))
            }
        yield fitted, weights


def _unchanged_layers(cut: Cut, layout: Layout, axis: str) -> int:
    """How many layers at the beginning of a stack compute what they did before the cut.

    Nothing in them, in front of them or right behind them is cut. (A matrix in front of dropped
    layers is solved for.)
    """
    blueprint = layout.blueprint
    stack, stacks = blueprint.axis(axis).stack, blueprint.stacks
    later = () if stack is None else stacks[stacks.index(stack) + 1 :]
    elsewhere = {axis, "vocab", *(each.name for each in blueprint.axes if each.stack in later)}
    if cut.axes.keys() - elsewhere:
        return 0
    size = layout.sizes[axis]
    kept = [*cut.layers(axis, size).tolist(), size]
    pairs = enumerate(pairwise(kept))
    changed = (number for number, pair in pairs if pair != (number, number + 1))
    return next(changed, len(kept) - 1)


def _fit_layer(
    fit: LayerFit,
    wanted: Wanted,
    streams: list[Tensor],
    kept_of: Callable[[Tensor], Tensor] | None,
) -> tuple[list[FittedMatrix], list[Tensor]]:
    """Solve for the matrices of a layer; the stream behind it, by batch.

    `streams`: the cut model's, in front of the layer. `kept_of`: from the original's stream to what
    the cut keeps of it; None if it keeps all.
    """
    fitted: list[FittedMatrix] = []
    if not wanted.written:
        return fitted, fit.through(streams)
    behind = streams
    for number, target in enumerate(wanted.written):
        for group in wanted.read[number]:
            fitted += fit.solve_readers(streams, group)
        if kept_of is not None:
            target = list(map(kept_of, target))
        done, behind = fit.solve(number, streams, target)
        fitted.append(done)
    return fitted, behind


def _refit_head(models: _Models, batches: Sequence[TextBatch]) -> tuple[FittedMatrix, Tensor]:
    """Solve for ``M``, [channels, kept], from what the heads of both models read."""
    reading = models.reading_of_head()
    module = torch.nn.Linear(reading.shape[1], reading.shape[0], bias=False)
    module.weight.copy_(reading)
    problem, whole = LeastSquares(module), 0.0
    head = models.original.layout.blueprint.head.weight.removesuffix(".weight")
    states = (each.head_inputs(batches) for each in (models.original, models.cut_model))
    for batch, target, inputs in zip(batches, *states, strict=True):
        is_text = _text_of(batch, is_decoder=True)
        target, inputs = target[is_text].float(), inputs[is_text].float()
        with torch.autocast("cpu", enabled=False):
            problem.add(inputs, target - module(inputs))
        whole += float(target.double().square().sum())
    return fitted_matrix(head, problem.solve(), whole, reads=True), module.weight.detach()


def _head_rows(source: ModelDirectory, cut: Cut, reading: Tensor) -> Computed:
    """The rows of the head that a cut keeps, as they read the cut model."""
    head = source.layout.blueprint.head.weight
    label = next(each for each in source.layout.tensors.values() if each.parameter == head)
    keep = kept_indices(label.dims.dimensions[0], 0, source.layout, cut, {})
    selection = Selection(source.checkpoint.tensors[label.name], (keep, None))
    shape = (selection.shape[0], reading.shape[1])
    return Computed(shape, RowsTimes(selection, keep, lambda: reading))


def _text_of(batch: TextBatch, is_decoder: bool) -> Tensor:
    """Where the stack has tokens, [texts, tokens]."""
    if is_decoder and batch.decoder_is_text is not None:
        return batch.decoder_is_text
    return batch.is_text
