"""Scores of the indices along axes; a cut keeps the indices with the highest scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Axis, Layout
from regrow.architectures.schema import AXIS_KINDS
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import Checkpoint
from regrow.common.errors import UserError
from regrow.common.memory import available_memory
from regrow.common.precision import Precision, resolve_precision
from regrow.scoring.registry import (
    DEFAULT,
    SCORES,
    FromFunction,
    FromModel,
    FromText,
    FromWeights,
    RandomDraw,
    Score,
    ScoreFunction,
)
from regrow.scoring.weights import weights_along

if TYPE_CHECKING:
    from torch import nn

    from regrow.scoring.calibration import Calibration, CalibrationText
    from regrow.scoring.observe import Statistic

Notify = Callable[[str], None]
Scores = dict[str, NDArray[np.float64]]
"""By axis, [size] or [layers, size]; for layers also [layers + 1, layers + 1] (angular.py)."""

FREE = 0.1
"""The part of available memory that is kept for activations; the rest is for weights."""


def score(
    directory: ModelDirectory,
    axes: Sequence[str],
    *,
    by: str | ScoreFunction | None = None,
    text: "CalibrationText | None" = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    notify: Notify = lambda _: None,
) -> Scores:
    """Scores of some axes of a model, [size] or [layers, size]; higher scores are kept.

    The score `angular` gives a table of layers instead, see `mean_angles` in `angular.py`.

    `by`: a name in `SCORES`, or a function of the user; None takes the default of each axis.
    `text`: calibration text, for scores that need it. `sizes`: sizes after the cut, by axis. The
    score `loss` looks only for the layers to drop down to this size; an axis that is absent is
    scored for all sizes. `seed`: of random scores, and of which rows of the text are read.
    The score of a key-value head is the mean of its query heads' scores: a request for key-value
    heads gives the scores of their query heads too.

    Matrices are multiplied in bfloat16 where the hardware does so, except for `angular`. A model
    whose float32 weights do not fit in available memory is read one layer at a time
    (scoring/offload.py). The scores are the same to rounding, and `notify` is told. Scores that
    need gradients, `angular` and `loss` cannot be computed that way.

    Raises UserError, before the model is loaded, where a score cannot score an axis, or lacks its
    text, its memory or the package that offloads; and where scores come out wrong: activations or
    weights that are not finite, or a function whose result has another shape.
    """
    checkpoint, layout = directory.checkpoint, directory.layout
    wanted = _wanted(layout, axes, by)
    _check_text(wanted, has_text=text is not None)
    from_text = {name: each for name, each in wanted.items() if each[1].needs_text}
    observed: Scores = {}
    calibration: Calibration | None = None
    if from_text:
        assert text is not None
        assert not callable(by)  # such scores are not from text
        observed = _observed(directory, from_text, by, text, sizes or {}, seed, notify)
    elif callable(by) and text is not None:
        calibration = draw_text(directory, text, seed, notify)

    scores: Scores = {}
    for name, (_, chosen) in wanted.items():
        axis, source = layout.blueprint.axis(name), chosen.source
        if isinstance(source, FromWeights):
            scores[name] = _from_weights(source, checkpoint, layout, axis)
        elif isinstance(source, FromFunction):
            result = source.function(layout, name, checkpoint, calibration)
            scores[name] = _checked(layout, axis, result)
    return _with_groups(layout, wanted, scores | observed | _drawn(layout, wanted, seed))


def scorable_axes(layout: Layout, by: str | None) -> list[str]:
    """The axes that a score can score; None takes the default of each axis.

    Key-value heads are left out, since they are scored through their query heads.
    """
    kinds = DEFAULT if by is None else _named(by).kinds
    grouped = {axis.groups for axis in layout.blueprint.axes}
    return [
        axis.name
        for axis in layout.blueprint.axes
        if axis.kind in kinds
        and axis.kind != "vocab"
        and axis.name not in grouped
        and not (by and _looks_at_readers(SCORES[by]) and _experts_read(layout, axis.name))
    ]


def check_scores(
    layout: Layout, axes: Sequence[str], by: str | ScoreFunction | None, *, has_text: bool
) -> None:
    """Raise UserError if :func:`score` cannot score an axis, or lacks its text.

    `by`: as there. `has_text`: whether there is a text.
    """
    _check_text(_wanted(layout, axes, by), has_text=has_text)


def score_names(layout: Layout, axes: Sequence[str], by: str | None) -> dict[str, str]:
    """The name of the score of each axis, as :func:`score` takes it."""
    return {name: said for name, (said, _) in _wanted(layout, axes, by).items()}


def score_model(
    model: "nn.Module",
    layout: Layout,
    axes: Sequence[str],
    *,
    calibration: "Calibration",
    by: str | None = None,
    sizes: Mapping[str, int] | None = None,
    precision: Precision = "fp32",
) -> Scores:
    """Scores from calibration text of a model in memory, in its own dtype and on its device.

    As :func:`score`, of a model in evaluation mode, for scores that are computed from text.
    `precision`: of matrix products. `angular` always takes float32, since angles between layers are
    small, and `loss` takes bfloat16 where the hardware multiplies it.
    """
    from regrow.scoring.observe import observe, observe_gradients

    wanted = _wanted(layout, axes, by)
    observed: Scores = {}
    if statistics := _statistics(layout, wanted, gradients=False):
        observed |= observe(
            model, layout, statistics, calibration, at=_places(layout, wanted), precision=precision
        )
    if statistics := _statistics(layout, wanted, gradients=True):
        observed |= observe_gradients(model, layout, statistics, calibration, precision=precision)
    scores = _over_sites(layout, wanted, observed)
    for name, (said, chosen) in wanted.items():
        if isinstance(chosen.source, FromModel):
            size, axis = (sizes or {}).get(name, 1), layout.blueprint.axis(name)
            found = chosen.source.function(model, layout, axis, calibration, size)
            _check_finite(name, said, found.reshape(len(found), -1))
            scores[name] = found
    return _with_groups(layout, wanted, scores)


_Wanted = Mapping[str, tuple[str, Score]]
"""By axis, the name of its score, and the score."""


def _wanted(layout: Layout, axes: Sequence[str], by: str | ScoreFunction | None) -> _Wanted:
    """The score of each axis to be scored; in place of key-value heads, of their query heads."""
    if isinstance(by, str):
        _named(by)
    wanted: dict[str, tuple[str, Score]] = {}
    for name in axes:
        axis = layout.blueprint.axis(name)
        scored = next((a.name for a in layout.blueprint.axes if a.groups == name), name)
        if callable(by):
            named = getattr(by, "__name__", "function")
            wanted[scored] = (named, Score(AXIS_KINDS, FromFunction(by)))
            continue
        if by is None and axis.kind not in DEFAULT:
            raise UserError(f"{name}: no score by default; score by random, or name what is kept")
        chosen = by or DEFAULT[axis.kind]
        if axis.kind not in SCORES[chosen].kinds:
            raise UserError(
                f"{chosen} scores {', '.join(SCORES[chosen].kinds)}, not {name}; give "
                f"{_able(axis)}, or leave it out to take the best for each axis",
                key="by",
            )
        if _looks_at_readers(SCORES[chosen]) and _experts_read(layout, name):
            able = _able(axis, lambda other: not _looks_at_readers(other))
            raise UserError(
                f"{chosen} looks at each matrix that reads {name}, and those of experts are no "
                f"modules; give {able}",
                key="by",
            )
        wanted[scored] = (chosen, SCORES[chosen])
    return wanted


def _check_text(wanted: _Wanted, *, has_text: bool) -> None:
    """Raise UserError if a score needs a text and there is none."""
    for name, (said, each) in wanted.items():
        if each.needs_text and not has_text:
            raise UserError(
                f"{name}: scoring by {said} needs a text; give one, or score by random",
                key="calibration",
            )


def _looks_at_readers(score: Score) -> bool:
    return isinstance(score.source, FromText) and score.source.sites is not None


def _experts_read(layout: Layout, axis: str) -> bool:
    """Whether tensors of experts lie along an axis."""
    return any(each.is_of_experts and axis in each.dims.names for each in layout.tensors.values())


def _named(by: str) -> Score:
    if by not in SCORES:
        known = ", ".join(SCORES)
        raise UserError(f"no such score; those that are: {known}", key="by", value=repr(by))
    return SCORES[by]


def _able(axis: Axis, accept: Callable[[Score], bool] = lambda _: True) -> str:
    """The scores that can score an axis, as an error lists them."""
    return " or ".join(n for n, each in SCORES.items() if axis.kind in each.kinds and accept(each))


def _drawn(layout: Layout, wanted: _Wanted, seed: int) -> Scores:
    return {
        name: chosen.source.draw(layout, layout.blueprint.axis(name), seed)
        for name, (_, chosen) in wanted.items()
        if isinstance(chosen.source, RandomDraw)
    }


def _from_weights(
    source: FromWeights, checkpoint: Checkpoint, layout: Layout, axis: Axis
) -> NDArray[np.float64]:
    size = layout.sizes[axis.name]
    if axis.along is None:
        return source.function(weights_along(checkpoint, layout, axis), size)
    layers = range(layout.sizes[axis.along])
    return np.stack(
        [source.function(weights_along(checkpoint, layout, axis, each), size) for each in layers]
    )


def _observed(
    directory: ModelDirectory,
    wanted: _Wanted,
    by: str | None,
    text: "CalibrationText",
    sizes: Mapping[str, int],
    seed: int,
    notify: Notify,
) -> Scores:
    """Scores from calibration text, of a model that may be larger than memory."""
    layout = directory.layout
    loss = any(each.needs_loss for _, each in wanted.values())
    too_large = memory_problem(directory, copies=loss)
    if too_large:
        for name, (said, each) in wanted.items():
            if each.needs_memory:
                able = _able(layout.blueprint.axis(name), lambda other: not other.needs_memory)
                raise UserError(
                    f"{too_large}, and {said} needs all of them at once; score by {able}"
                )
        from regrow.scoring.offload import check_offload

        check_offload(too_large)
    calibration = draw_text(directory, text, seed, notify, loss=loss)
    if not too_large:
        model = directory.load()
        notify(f"scoring on {calibration.tokens:,} tokens")
        return score_model(
            model, layout, [*wanted], calibration=calibration, by=by, sizes=sizes, precision="auto"
        )

    from regrow.scoring.observe import BATCH_TOKENS, observe
    from regrow.scoring.offload import BATCHES, load_offloaded

    notify(f"{too_large}; reading it one layer at a time")
    offloaded = load_offloaded(directory.checkpoint, layout)
    notify(f"scoring on {calibration.tokens:,} tokens")
    batch_tokens = max(BATCH_TOKENS, -(-calibration.tokens // BATCHES))
    observed = observe(
        offloaded.model, layout, _statistics(layout, wanted, gradients=False), calibration,
        at=_places(layout, wanted), batch_tokens=batch_tokens, run=offloaded.run,
        precision="auto",
    )  # fmt: skip
    return _over_sites(layout, wanted, observed)


def draw_text(
    directory: ModelDirectory,
    text: "CalibrationText",
    seed: int,
    notify: Notify = lambda _: None,
    *,
    loss: bool = False,
) -> "Calibration":
    """Draw rows of a text in tokens of a model; the same seed draws the same rows.

    `loss`: whether the text must give the loss of the model.

    Raises UserError if the text is too short, or the tokenizer does not fit the model.
    """
    from regrow.scoring.calibration import ROW_LENGTH, draw_calibration

    layout = directory.layout
    learned_positions = layout.sizes.get("position", ROW_LENGTH)
    calibration = draw_calibration(
        text.read(), directory.tokenizer, tokens=text.tokens,
        row_length=min(ROW_LENGTH, learned_positions), seed=seed, notify=notify,
    )  # fmt: skip
    largest, rows = max(int(piece.max()) for piece in calibration.pieces), layout.sizes["vocab"]
    if largest >= rows:
        raise UserError(
            f"{directory.path}: its tokenizer gives the id {largest:,}, but the embedding has "
            f"{rows:,} rows; put the model's own tokenizer there"
        )
    if loss and layout.blueprint.is_encoder_decoder:
        from regrow.objectives.rows.span_corruption import check_sentinels, denoising_tokens

        denoising = denoising_tokens(directory.tokenizer, directory.config)
        check_sentinels(denoising, max(map(len, calibration.pieces)))
        return replace(calibration, denoising=denoising)
    return calibration


def memory_problem(
    directory: ModelDirectory, *, copies: bool = False, twice: bool = False
) -> str | None:
    """Why the model does not fit in memory, or None where it does.

    `copies`: whether its matrix products keep bfloat16 copies of the weights, on a CPU that
    multiplies bfloat16. `twice`: whether another model of at most its size is in memory beside it.
    """
    each = 4
    if copies:
        import torch

        each += 2 if resolve_precision("auto", torch.device("cpu")) == "bf16" else 0
    models = 2 if twice else 1
    needed, available = each * models * directory.layout.parameters(), available_memory()
    if needed <= (1 - FREE) * available:
        return None
    which = " of two models" if twice else " and bfloat16 copies" if each > 4 else ""
    return (
        f"{directory.path}: {needed / 1e9:,.1f} GB of float32 weights{which} do not fit in "
        f"{available / 1e9:,.1f} GB of free memory"
    )


def _statistics(layout: Layout, wanted: _Wanted, *, gradients: bool) -> "dict[str, Statistic]":
    return {
        name: chosen.source.statistics[layout.blueprint.axis(name).kind]
        for name, (_, chosen) in wanted.items()
        if isinstance(chosen.source, FromText) and chosen.source.gradients is gradients
    }


def _places(layout: Layout, wanted: _Wanted) -> dict[str, list[str]]:
    """The modules at which axes are observed, where these are not the sites of the blueprint."""
    return {
        name: [*chosen.source.sites(layout, layout.blueprint.axis(name))]
        for name, (_, chosen) in wanted.items()
        if isinstance(chosen.source, FromText) and chosen.source.sites is not None
    }


def _over_sites(layout: Layout, wanted: _Wanted, observed: Scores) -> Scores:
    """From [sites, size] to the shape of the choice."""
    scores: Scores = {}
    for name, means in observed.items():
        axis = layout.blueprint.axis(name)
        _check_finite(name, wanted[name][0], means)
        if axis.kind == "layer":
            scores[name] = means[:, 0]
        else:
            scores[name] = means if axis.along else means.sum(axis=0)
    return scores


def _with_groups(layout: Layout, wanted: _Wanted, scores: Scores) -> Scores:
    """In the order asked for, with the key-value heads of query heads."""
    ordered: Scores = {}
    for name in wanted:
        ordered[name] = scores[name]
        if groups := layout.blueprint.axis(name).groups:
            by_group = scores[name].reshape(*scores[name].shape[:-1], layout.sizes[groups], -1)
            ordered[groups] = by_group.mean(axis=-1)
    return ordered


def _check_finite(name: str, said: str, means: NDArray[np.float64]) -> None:
    wrong = np.flatnonzero(~np.isfinite(means).all(axis=1))
    if len(wrong):
        raise UserError(
            f"{name}: the {said} is NaN or infinite at site {wrong[0]} of {len(means)}; the "
            "model overflows or holds such weights, so repair it first"
        )


def _checked(layout: Layout, axis: Axis, result: object) -> NDArray[np.float64]:
    """What a user's function gave, as float64. Raises UserError where it cannot be scores."""
    size = layout.sizes[axis.name]
    shapes = [(size,), *([(layout.sizes[axis.along], size)] if axis.along else [])]
    expected = " or ".join(str(list(shape)) for shape in shapes)
    try:
        values = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(
            f"{axis.name}: the function must give an array of numbers, {expected}, not "
            f"{type(result).__name__}"
        ) from None
    if values.shape not in shapes:
        raise UserError(
            f"{axis.name}: the function gave scores of shape {list(values.shape)}; {expected} is "
            "wanted"
        )
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        raise UserError(
            f"{axis.name}: the function gave a score that is NaN or infinite, at "
            f"{wrong[0].tolist()}"
        )
    return values
