"""Refit the matrices that write to the residual stream, so that a cut changes the stream less.

After a cut, attention and ffn write something else to the residual stream than before. Each matrix
that writes to the stream (the output projections of attention and cross-attention, and the down
projection) is solved for again by least squares, in the order in which the network uses them. With
inputs ``f`` as the cut model computes them, carved weights ``W0``, the cut model's stream ``s`` in
front of the matrix, and the original's stream ``t`` behind it::

    minimise |f W - (t - s)|^2 + ridge * |W - W0|^2

If the following layers are dropped, ``t`` is the original's stream behind them, so the last matrix
of a kept layer takes over what it can of their work. Layers, ffn and heads are then one case. If
hidden channels are cut, ``t`` is restricted to the channels that stay. The ridge pulls towards the
carved weights. It is chosen for each matrix on tokens that are held back, and the carved weights
stay if no ridge helps there. So the error on the calibration text never grows.

Memory holds the hidden states of the calibration text about eight times, what one matrix reads, the
sums of one matrix, and both models in float32. If all this does not fit, one layer of each model is
read at a time.

The architecture must be pre-norm: what attention and ffn write is added to the stream as it is, or
times a constant. :func:`refit` checks that on the original.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.files import save_tensors
from regrow.common.memory import available_memory
from regrow.common.precision import Precision
from regrow.common.progress import QUIET, Progress
from regrow.scoring.batches import TextBatch, without_loss
from regrow.scoring.calibration import Calibration
from regrow.scoring.observe import BATCH_TOKENS, sites
from regrow.scoring.offload import BATCHES
from regrow.surgery.computed import Computed
from regrow.surgery.cut import Cut
from regrow.surgery.layer_calls import LayerCall, LayerModel
from regrow.surgery.least_squares import BYTES_PER_PAIR, LeastSquares
from regrow.surgery.refit_words import refit_words

FREE = 0.2
"""The part of available memory that is kept for states and sums; the rest is for weights."""
_STATES = 8
"""How many times the hidden states of the text are in memory."""
_TOLERANCE = 1e-4
"""The largest part of what a layer adds that may be something else than what its matrices write."""
_ROUNDING = 1e-13
"""The square of float32's rounding, relative to the square of the stream to which a layer adds."""


@dataclass(frozen=True)
class FittedMatrix:
    """One matrix that was solved for.

    Attributes:
        name: The name of its module in the result: `model.layers.3.mlp.down_proj`.
        ridge: The ridge that was chosen, as a multiple of the mean square of an input; None if the
            carved weights were kept.
        before, after: Squared error of the stream behind the matrix on the calibration text,
            relative to the square of the original's stream, with the carved and with the refitted
            weights. Matrices in front of this one are refitted in both.
    """

    name: str
    ridge: float | None
    before: float
    after: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Refit:
    """All matrices that were solved for.

    Attributes:
        matrices: In the order in which they were solved for.
        corrections: Their weights and biases, by parameter name in the result. The values are in
            files of the directory that :func:`refit` was given.
        tokens: Tokens of calibration text.
    """

    matrices: tuple[FittedMatrix, ...]
    corrections: dict[str, Computed]
    tokens: int

    def words(self) -> str:
        """What the refit did, in one line."""
        errors = [(each.before, each.after) for each in self.matrices]
        return f"refitted on {self.tokens:,} tokens: {refit_words(errors)}"


def refit(
    source: ModelDirectory,
    carved: ModelDirectory,
    cut: Cut,
    calibration: Calibration,
    directory: Path,
    progress: Progress = QUIET,
    precision: Precision = "auto",
) -> Refit:
    """Solve again for the matrices of a cut that write to the residual stream.

    Args:
        source: the model before the cut.
        carved: the carved model, with the vocabulary of `source`.
        cut: the cut; its vocabulary is ignored.
        calibration: text in tokens of `source`.
        directory: an empty directory for the new weights, 4 bytes each.
        progress: receives messages, and the layers that are done.
        precision: of the matrix products of both models. Sums are float64.

    Raises:
        UserError: the architecture is not pre-norm, or the models fit in memory only one layer at a
            time and accelerate is missing.
    """
    problem = check_memory(source, cut, calibration)
    if problem:
        progress.say(f"{problem}; reading them one layer at a time")
    original, cut_model = (
        LayerModel(directory, precision, offloaded=problem is not None)
        for directory in (source, carved)
    )
    models = _Models(original, cut_model, cut)
    # An offloaded model needs a thread for each batch. The same batches in memory give equal bits.
    batch_tokens = max(BATCH_TOKENS, -(-calibration.tokens // BATCHES))
    batches = list(without_loss(calibration, source.config, batch_tokens))
    progress.say(f"refitting on {calibration.tokens:,} tokens")
    stacks = [axis.name for axis in source.layout.blueprint.axes if axis.kind == "layer"]
    matrices: list[FittedMatrix] = []
    corrections: dict[str, Computed] = {}
    total, done = sum(carved.layout.sizes[name] for name in stacks), 0
    with original.computing():
        for stack in stacks:
            for fitted, weights in _refit_stack(models, stack, batches):
                file = directory / f"{done:05d}.safetensors"
                save_tensors(weights, file)
                for name, values in weights.items():
                    cut_model.replaced(name, str(file))
                    corrections[name] = Computed(tuple(values.shape), partial(_rows, file, name))
                matrices += fitted
                done += 1
                progress.advance(done, total)
    return Refit(tuple(matrices), corrections, calibration.tokens)


def _rows(file: Path, name: str, first: int, last: int) -> Any:
    with safe_open(file, framework="np") as tensors:
        return tensors.get_slice(name)[first:last]


def check_memory(source: ModelDirectory, cut: Cut, calibration: Calibration) -> str | None:
    """Why the models of a refit are read one layer at a time; None if they fit in memory.

    Raises UserError if they do not fit and accelerate is missing.
    """
    layout, kinds = source.layout, ("hidden", "ffn")
    axes = [axis for axis in layout.blueprint.axes if axis.kind in kinds]
    width, inner = (max(layout.sizes[a.name] for a in axes if a.kind == kind) for kind in kinds)
    states = 4 * calibration.tokens * (_STATES * width + inner)
    sums = BYTES_PER_PAIR * inner**2
    needed = 4 * (layout.parameters() + layout.parameters(cut.sizes)) + states + sums
    available = available_memory()
    if needed <= (1 - FREE) * available:
        return None
    from regrow.scoring.offload import check_offload

    problem = (
        f"{source.path}: the original and the cut model need {needed / 1e9:,.1f} GB in float32 "
        f"with all states, and {available / 1e9:,.1f} GB of memory are free"
    )
    try:
        check_offload(problem)
    except UserError as error:
        raise UserError(f"{error}, or set refit to false", key="refit") from None
    return problem


@dataclass(frozen=True, eq=False)
class _Models:
    """The original and the cut model."""

    original: LayerModel
    cut_model: LayerModel
    cut: Cut

    def channels(self, axis: str) -> Tensor | None:
        """Channels of the original's stream that the cut keeps; None if all are kept."""
        blueprint = self.original.layout.blueprint
        stack = blueprint.axis(axis).stack
        for each in blueprint.axes:
            is_stream = each.kind == "hidden" and each.stack in (None, stack)
            if is_stream and each.name in self.cut.axes:
                return torch.from_numpy(self.cut.axes[each.name].keep.copy())
        return None


def _writers(model: LayerModel, axis: str, layer: int) -> list[str]:
    """Modules of a layer that write to the residual stream, in no order."""
    place = "{" + axis + "}"
    found = [
        pattern.replace(place, str(layer))
        for each in model.layout.blueprint.axes
        if each.kind in ("ffn", "head")
        for pattern in each.sites
        if place in pattern
    ]
    return list(dict.fromkeys(found))


_Fitted = tuple[list[FittedMatrix], dict[str, Tensor]]
"""The matrices of one layer, and their new parameters by name."""


def _refit_stack(models: _Models, axis: str, batches: Sequence[TextBatch]) -> Iterator[_Fitted]:
    """Refit the layers of one stack from the first to the last."""
    layer_axis = models.original.layout.blueprint.axis(axis)
    names = list(sites(models.original.layout, layer_axis))
    cut_names = list(sites(models.cut_model.layout, layer_axis))
    kept = models.cut.layers(axis, len(names)).tolist()
    texts = [_text_of(batch, layer_axis.stack == "decoder") for batch in batches]
    calls, streams = models.original.calls(names, batches)
    cut_calls, cut_streams = models.cut_model.calls(cut_names, batches)
    channels = models.channels(axis)

    def through(layers: range, streams: list[Tensor]) -> list[Tensor]:
        """The original's stream behind these layers."""
        for layer in layers:
            module = models.original.network.get_submodule(names[layer])
            with models.original.loaded(module):
                streams = [c[layer](module, s) for c, s in zip(calls, streams, strict=True)]
        return streams

    streams = through(range(kept[0]), streams)
    for number, layer in enumerate(kept):
        following = kept[number + 1] if number + 1 < len(kept) else len(names)
        here = [each[layer] for each in calls]
        targets, factor, streams = _targets(models, axis, layer, here, streams)
        streams = through(range(layer + 1, following), streams)
        if factor is None:
            targets = []
        else:
            targets[-1] = streams
        if channels is not None:
            targets = [[each[..., channels] for each in target] for target in targets]
        fit = _LayerFit(
            models.cut_model,
            models.cut_model.network.get_submodule(cut_names[number]),
            _writers(models.cut_model, axis, number),
            [each[number] for each in cut_calls],
            texts,
            factor or 1.0,
        )
        with models.cut_model.loaded(fit.layer):
            fitted: list[FittedMatrix] = []
            behind = cut_streams if targets else fit.through(cut_streams)
            while targets:
                done, behind = fit.solve(len(fitted), cut_streams, targets.pop(0))
                fitted.append(done)
            cut_streams = behind
            weights = {
                f"{each.name}.{name}": parameter.detach().clone()
                for each in fitted
                for name, parameter in fit.module(each.name).named_parameters(recurse=False)
            }
        yield fitted, weights


def _text_of(batch: TextBatch, is_decoder: bool) -> Tensor:
    """Where the stack has tokens, [texts, tokens]."""
    if is_decoder and batch.decoder_is_text is not None:
        return batch.decoder_is_text
    return batch.is_text


def _targets(
    models: _Models, axis: str, layer: int, calls: Sequence[LayerCall], streams: Sequence[Tensor]
) -> tuple[list[list[Tensor]], float | None, list[Tensor]]:
    """The original's stream behind each writing matrix of a layer, [matrices][batches].

    Also the constant that multiplies what the matrices write, and the stream behind the layer. The
    constant is None if the matrices write zeros, so that it cannot be known.

    Raises UserError if the layer adds something else than what its matrices write.
    """
    original = models.original
    layer_axis = original.layout.blueprint.axis(axis)
    module = original.network.get_submodule(list(sites(original.layout, layer_axis))[layer])
    writers = _writers(original, axis, layer)
    written: list[list[Tensor]] = []
    after: list[Tensor] = []
    along = squares = 0.0
    with original.loaded(module):
        for call, stream in zip(calls, streams, strict=True):
            noted = original.run_noting(
                lambda: after.append(call(module, stream)),  # noqa: B023 - called at once
                writers,
                0,
            )
            parts = [wrote.reshape(stream.shape).float() for _, _, wrote in noted]
            total = torch.stack(parts).sum(0).double()
            along += float(((after[-1] - stream).double() * total).sum())
            squares += float(total.square().sum())
            written.append(parts)
    factor = along / squares if squares else 0.0
    added = rest = rounding = 0.0
    for stream, parts, out in zip(streams, written, after, strict=True):
        difference = out.double() - stream.double()
        added += float(difference.square().sum())
        rounding += _ROUNDING * float(stream.double().square().sum())
        rest += float((difference - factor * torch.stack(parts).double().sum(0)).square().sum())
    if rest > _TOLERANCE * added + rounding:
        raise UserError(
            f"{original.layout.blueprint.model_type} changes what attention and ffn write before "
            "it is added to the residual stream (as post-norm does), which cannot be refitted; "
            "set refit to false",
            key="refit",
        )
    if not factor:
        return [], None, after
    targets = [
        [
            stream + factor * torch.stack(parts[: number + 1]).sum(0)
            for stream, parts in zip(streams, written, strict=True)
        ]
        for number in range(len(written[0]))
    ]
    return targets, factor, after


@dataclass(frozen=True, eq=False)
class _LayerFit:
    """One layer of the cut model, whose writing matrices are solved for in the order of their use.

    `calls`: by batch. `texts`: where the batches have tokens, [texts, tokens] each. `factor`: the
    constant that multiplies what the matrices write.
    """

    model: LayerModel
    layer: nn.Module
    writers: Sequence[str]
    calls: Sequence[LayerCall]
    texts: Sequence[Tensor]
    factor: float

    def module(self, name: str) -> nn.Module:
        module: nn.Module = self.model.network.get_submodule(name)
        return module

    def through(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """The stream behind the layer as it is, by batch."""
        pairs = zip(self.calls, streams, strict=True)
        return [call(self.layer, stream) for call, stream in pairs]

    def solve(
        self, number: int, streams: Sequence[Tensor], target: Sequence[Tensor]
    ) -> tuple[FittedMatrix, list[Tensor]]:
        """Solve for one writing matrix, after those in front of it in the layer.

        `number`: of the matrix, in the order of use. `streams`: the stream in front of the layer,
        by batch. `target`: the stream wanted behind the matrix, by batch.

        Returns what was done, and the stream behind the matrix, by batch.
        """
        reads: list[Tensor] = []
        fronts: list[Tensor] = []
        problem: LeastSquares | None = None
        name, whole = "", 0.0
        for call, stream, wanted, is_text in zip(
            self.calls, streams, target, self.texts, strict=True
        ):
            noted = self.model.run_noting(
                partial(call, self.layer, stream), self.writers, number + 1
            )
            written = [wrote.reshape(stream.shape).float() for _, _, wrote in noted]
            name, read, _ = noted[-1]
            front = stream + self.factor * sum(written[:-1]) if number else stream
            missing = (wanted - front) / self.factor - written[-1]
            if problem is None:
                problem = LeastSquares(self.module(name))
            inputs = read.reshape(*is_text.shape, -1).float()
            problem.add(inputs[is_text], missing[is_text])
            whole += float((wanted[is_text] / self.factor).double().square().sum())
            reads.append(read)
            fronts.append(front)
        assert problem is not None
        solution = problem.solve()
        module = self.module(name)
        behind = [
            front + self.factor * module(read).reshape(front.shape).float()
            for front, read in zip(fronts, reads, strict=True)
        ]
        whole = max(whole, 1e-30)
        done = FittedMatrix(name, solution.ridge, solution.before / whole, solution.after / whole)
        return done, behind
