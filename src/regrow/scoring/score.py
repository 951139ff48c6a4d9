"""Which indices of an axis matter: scores, by axis, of which a cut keeps the highest."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Axis, Layout
from regrow.architectures.schema import AXIS_KINDS, AxisKind
from regrow.checkpoint.reader import Checkpoint
from regrow.common.errors import UserError
from regrow.common.memory import available_memory
from regrow.models.loading import load_model, load_tokenizer
from regrow.scoring import activation, influence
from regrow.scoring.calibration import TOKENS
from regrow.scoring.random_scores import random_scores

if TYPE_CHECKING:
    from torch import nn

    from regrow.scoring.calibration import Calibration
    from regrow.scoring.observe import Statistic

__all__ = ["DEFAULT", "SCORERS", "Scorer", "score", "score_model"]

Documents = Callable[[], Iterator[str]]
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Scorer:
    """A way to score, for some kinds of axes.

    `kinds`: what it scores; key-value heads count where it scores heads. `draw`: scores from
    (layout, axis, seed) alone. `statistics`: by kind, what is averaged over calibration text.
    """

    kinds: tuple[AxisKind, ...]
    draw: Callable[[Layout, Axis, int], NDArray[np.float64]] | None = None
    statistics: "Mapping[AxisKind, Statistic]" = field(default_factory=dict)

    @property
    def needs_text(self) -> bool:
        return self.draw is None


SCORERS: Mapping[str, Scorer] = {
    "random": Scorer(AXIS_KINDS, draw=random_scores),
    "activation": Scorer(
        ("hidden", "ffn", "kv_head", "head"),
        statistics={
            "hidden": activation.hidden,
            "ffn": activation.ffn,
            "head": activation.head,
        },
    ),
    "influence": Scorer(("layer",), statistics={"layer": influence.layer}),
}

DEFAULT: Mapping[AxisKind, str] = {
    "hidden": "activation",
    "ffn": "activation",
    "kv_head": "activation",
    "head": "activation",
    "layer": "influence",
}
"""The score of each kind of axis where none is named, by benchmarks/scores.py on SmolLM2-135M.

Widths lose far less by activation than at random. Layers lose far less by influence than at random
or evenly spaced, yet six in a row from the middle lost 0.1 nats a token less still: where that is
wanted, layers are named by number.
"""


FREE = 0.1
"""Of available memory, what a model's weights leave to its activations."""


def score(
    checkpoint: Checkpoint,
    layout: Layout,
    axes: Sequence[str],
    *,
    by: str | None = None,
    documents: Documents | None = None,
    tokens: int = TOKENS,
    seed: int = 0,
    notify: Notify = lambda _: None,
) -> dict[str, NDArray[np.float64]]:
    """Scores of some axes of a checkpoint, [size] or [layers, size]; what is higher is kept.

    `by`: a name in SCORERS; None takes the default of each axis. `documents`: calibration text,
    where a score needs it; `tokens` of it are read. `seed`: of random scores, and of which rows
    of the text are read. Key-value heads score the mean of the query heads that read them, so
    asking for them gives the scores of their query heads too.

    A model whose float32 weights do not fit in available memory is read one layer at a time
    (scoring/offload.py), which gives the same scores to rounding; that is said through `notify`.

    Raises UserError, before the model is loaded, where a score does not go with an axis or lacks
    its text or the package that offloads, and where the model's activations are not finite.
    """
    wanted = _scorers(layout, axes, by)
    needs = [name for name, scorer in wanted.items() if SCORERS[scorer].needs_text]
    if not needs:
        return _scores(layout, wanted, seed, {})
    if documents is None:
        raise UserError(
            f"{needs[0]}: scoring by {wanted[needs[0]]} needs a text; give one with "
            "--calibration FILE, or score by random"
        )
    from regrow.scoring.calibration import draw_calibration

    directory = checkpoint.directory
    too_large = _memory_problem(directory, layout)
    if too_large:
        from regrow.scoring.offload import check_offload

        check_offload(too_large)
    tokenizer = load_tokenizer(directory)
    calibration = draw_calibration(documents(), tokenizer, tokens=tokens, seed=seed, notify=notify)
    largest, rows = max(int(piece.max()) for piece in calibration.pieces), layout.sizes["vocab"]
    if largest >= rows:
        raise UserError(
            f"{directory}: its tokenizer gives the id {largest:,}, but the embedding has {rows:,} "
            "rows; put the model's own tokenizer there"
        )
    if not too_large:
        model = load_model(directory)
        notify(f"scoring on {calibration.tokens:,} tokens")
        return score_model(model, layout, axes, by=by, calibration=calibration, seed=seed)

    from regrow.scoring.observe import BATCH_TOKENS, observe
    from regrow.scoring.offload import BATCHES, load_offloaded

    notify(f"{too_large}; reading it one layer at a time")
    model, run = load_offloaded(checkpoint, layout)
    notify(f"scoring on {calibration.tokens:,} tokens")
    batch_tokens = max(BATCH_TOKENS, -(-calibration.tokens // BATCHES))
    statistics = _statistics(layout, wanted)
    observed = observe(model, layout, statistics, calibration, batch_tokens=batch_tokens, run=run)
    return _scores(layout, wanted, seed, observed)


def score_model(
    model: "nn.Module",
    layout: Layout,
    axes: Sequence[str],
    *,
    calibration: "Calibration",
    by: str | None = None,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """`score` of a model in memory, in evaluation mode, in its own dtype and on its device."""
    from regrow.scoring.observe import observe

    wanted = _scorers(layout, axes, by)
    observed = observe(model, layout, _statistics(layout, wanted), calibration)
    return _scores(layout, wanted, seed, observed)


def _memory_problem(directory: Path, layout: Layout) -> str | None:
    """What does not fit, or None where the model does."""
    needed, available = 4 * layout.parameters(), available_memory()
    if needed <= (1 - FREE) * available:
        return None
    return (
        f"{directory}: {needed / 1e9:,.1f} GB of float32 weights do not fit in "
        f"{available / 1e9:,.1f} GB of free memory"
    )


def _statistics(layout: Layout, wanted: Mapping[str, str]) -> "dict[str, Statistic]":
    return {
        name: SCORERS[scorer].statistics[layout.blueprint.axis(name).kind]
        for name, scorer in wanted.items()
        if SCORERS[scorer].needs_text
    }


def _scorers(layout: Layout, axes: Sequence[str], by: str | None) -> dict[str, str]:
    """The score of each axis whose choice decides; key-value heads are decided by their heads."""
    if by is not None and by not in SCORERS:
        raise UserError(f"score {by!r}: no such score; those that are: {', '.join(SCORERS)}")
    wanted: dict[str, str] = {}
    for name in axes:
        axis = layout.blueprint.axis(name)
        if by is None and axis.kind not in DEFAULT:
            raise UserError(f"{name}: no score by default; score by random, or name what is kept")
        chosen = by or DEFAULT[axis.kind]
        if axis.kind not in SCORERS[chosen].kinds:
            able = " or ".join(n for n, scorer in SCORERS.items() if axis.kind in scorer.kinds)
            raise UserError(
                f"{name}: {chosen} scores {', '.join(SCORERS[chosen].kinds)}; score by {able}, "
                "or name no score to take the best for each axis"
            )
        deciding = next((a.name for a in layout.blueprint.axes if a.groups == name), name)
        wanted[deciding] = chosen
    return wanted


def _scores(
    layout: Layout,
    wanted: Mapping[str, str],
    seed: int,
    observed: Mapping[str, NDArray[np.float64]],
) -> dict[str, NDArray[np.float64]]:
    scores: dict[str, NDArray[np.float64]] = {}
    for name, scorer in wanted.items():
        axis = layout.blueprint.axis(name)
        draw = SCORERS[scorer].draw
        if draw is not None:
            scores[name] = draw(layout, axis, seed)
        else:
            _check_finite(name, scorer, observed[name])
            scores[name] = _over_sites(axis, observed[name])
        if axis.groups:
            shape = (layout.sizes[axis.groups], -1)
            by_group = scores[name].reshape(*scores[name].shape[:-1], *shape)
            scores[axis.groups] = by_group.mean(axis=-1)
    return scores


def _over_sites(axis: Axis, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """From [sites, size] to the shape of the choice."""
    if axis.kind == "layer":
        return means[:, 0]
    return means if axis.along else means.sum(axis=0)


def _check_finite(name: str, scorer: str, means: NDArray[np.float64]) -> None:
    wrong = np.flatnonzero(~np.isfinite(means).all(axis=1))
    if len(wrong):
        raise UserError(
            f"{name}: the {scorer} is NaN or infinite at site {wrong[0]} of {len(means)}; the "
            "model overflows or holds such weights, so repair it first"
        )
