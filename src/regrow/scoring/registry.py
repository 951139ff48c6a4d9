"""All scores by name: the kinds of axes that each can score, and what it is computed from.

A new score is one file with its function, and one entry in `SCORES`. The name is then accepted
in recipes and by `--by`. Reading this table imports neither torch nor transformers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Axis, Layout
from regrow.architectures.schema import AXIS_KINDS, AxisKind
from regrow.scoring import activation, influence, taylor, wanda
from regrow.scoring.angular import mean_angles
from regrow.scoring.layer_loss import drop_order
from regrow.scoring.magnitude import magnitude
from regrow.scoring.random_scores import random_scores
from regrow.scoring.weights import WeightRows

if TYPE_CHECKING:
    from regrow.checkpoint.reader import Checkpoint
    from regrow.scoring.calibration import Calibration
    from regrow.scoring.observe import Statistic

ScoreFunction = Callable[[Layout, str, "Checkpoint", "Calibration | None"], "NDArray[np.float64]"]
"""A user's own score: (layout, name of the axis, open checkpoint, calibration text) -> scores.

The result is [size], or [layers, size] where each layer has a choice of its own; the indices with
the highest scores are kept. The text is None where none was given.
"""


@dataclass(frozen=True)
class RandomDraw:
    """Scores that are drawn: (layout, axis, seed) -> [size] or [layers, size]."""

    draw: Callable[[Layout, Axis, int], NDArray[np.float64]]


@dataclass(frozen=True)
class FromWeights:
    """Scores from the weights alone, streamed from the checkpoint.

    `function`: (weights, size of the axis) -> [size]. It is called once for each choice of
    indices: for each layer where layers choose differently, and otherwise once.
    """

    function: Callable[[Iterable[WeightRows], int], NDArray[np.float64]]


@dataclass(frozen=True)
class FromText:
    """Scores from what the model computes on calibration text.

    `statistics`: by kind of axis, what is averaged over the tokens of the text. `gradients`:
    whether the statistics read the gradient of the loss. `sites`: (layout, axis) -> the modules
    that are observed; None takes the sites of the blueprint.
    """

    statistics: "Mapping[AxisKind, Statistic]"
    gradients: bool = False
    sites: Callable[[Layout, Axis], Iterator[str]] | None = None


@dataclass(frozen=True)
class FromModel:
    """Scores of layers from a model in memory, for what no mean at one module can say.

    `function`: (model, layout, layer axis, calibration text, number of layers that are left) ->
    [layers], or a table [layers + 1, layers + 1] of distances (`cuts/choose_indices.py`).
    `loss`: whether the text must give the loss of the model.
    """

    function: "Callable[[Any, Layout, Axis, Calibration, int], NDArray[np.float64]]"
    loss: bool = False


@dataclass(frozen=True)
class FromFunction:
    """Scores from a function of the user."""

    function: ScoreFunction


@dataclass(frozen=True)
class Score:
    """One way to score indices.

    `kinds`: the kinds of axes that it can score. Key-value heads are scored through their query
    heads. `source`: what it is computed from.
    """

    kinds: tuple[AxisKind, ...]
    source: RandomDraw | FromWeights | FromText | FromModel | FromFunction

    @property
    def needs_text(self) -> bool:
        """Whether it is computed from calibration text."""
        return isinstance(self.source, FromText | FromModel)

    @property
    def needs_loss(self) -> bool:
        """Whether the text must give the loss of the model."""
        if isinstance(self.source, FromText):
            return self.source.gradients
        return isinstance(self.source, FromModel) and self.source.loss

    @property
    def needs_memory(self) -> bool:
        """Whether all layers of the model must be in memory together."""
        return isinstance(self.source, FromModel) or self.needs_loss


WIDTHS: tuple[AxisKind, ...] = ("hidden", "ffn", "kv_head", "head")

SCORES: Mapping[str, Score] = {
    "random": Score(AXIS_KINDS, RandomDraw(random_scores)),
    "activation": Score(
        (*WIDTHS, "expert"),
        FromText(
            {
                "hidden": activation.hidden, "ffn": activation.ffn, "head": activation.head,
                "expert": activation.expert,
            }
        ),
    ),
    "influence": Score(("layer",), FromText({"layer": influence.layer})),
    "angular": Score(("layer",), FromModel(mean_angles)),
    "loss": Score(("layer",), FromModel(drop_order, loss=True)),
    "magnitude": Score((*WIDTHS, "expert"), FromWeights(magnitude)),
    "taylor": Score(
        WIDTHS,
        FromText(
            {"hidden": taylor.hidden, "ffn": taylor.ffn_or_head, "head": taylor.ffn_or_head},
            gradients=True,
        ),
    ),
    "wanda": Score(
        WIDTHS,
        FromText(dict.fromkeys(("hidden", "ffn", "head"), wanda.product), sites=wanda.readers),
    ),
}  # fmt: skip

DEFAULT: Mapping[AxisKind, str] = {
    "hidden": "activation",
    "ffn": "activation",
    "kv_head": "activation",
    "head": "activation",
    "expert": "activation",
    "layer": "influence",
}
"""The score of each kind of axis where the user names none.

Measured by benchmarks/scores.py on SmolLM2-135M. Activation loses far less than random scores for
all widths; of experts benchmarks/experts.py measured that. Influence loses far less for layers than
random or evenly spaced layers. Dropping six layers in a row from the middle lost another 0.1 nats a
token less; a user who wants that names the layers.
"""
