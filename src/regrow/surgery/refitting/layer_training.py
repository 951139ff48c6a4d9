"""Train a layer of the cut model alone, so that it gives the stream that the original gives there.

A solution in closed form changes what a layer writes to the residual stream. A training of the
whole layer also changes what it reads, and so what its neurons and heads compute. The inputs are
the cut model's stream in front of the layer, and what is wanted is the original's stream behind it,
or behind the dropped layers that follow (as blocks are trained in Bercovich et al. 2024, "Puzzle:
distillation-based NAS for inference-optimized LLMs"). No gradient leaves the layer, so memory holds
those of one layer, and all else that a refit holds anyway.

The error is the mean of two. One is relative to the square of the stream that is wanted at each
token, since the next layer normalises what it reads. The other is relative to the mean square of
all tokens. Many models give the first token of a text a stream some hundred times as large as that
of others, and all later tokens attend to it (Sun et al. 2024, "Massive Activations in Large
Language Models"). By the first error alone that token counts like any other, and a layer may learn
to give it another direction, which harms all tokens in the layers behind. By the second error
alone, other tokens count little.

The weights are updated by Adam along the principal directions of what they read
(`regrow.surgery.refitting.directions`).

Every eighth batch is left out, of the solution in closed form as well. If the error there does not
fall, the layer stays as it was before the training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from regrow.common.errors import UserError
from regrow.common.random_stream import random_stream
from regrow.scoring.calibration import Calibration
from regrow.surgery.refitting.directions import principal_directions, turned, turned_back
from regrow.surgery.refitting.layer_fit import LayerFit

RATE = 0.01
"""The peak learning rate of a parameter, relative to the root mean square of its values: weights of
one model are ten times as large as those of another, and matrices of a layer differ as much."""
STEP_TOKENS = 1_024
"""Tokens of a step, of which each is one batch, unless a text is very long or short."""
UNSEEN = 8
"""One of so many batches is left out."""
DIRECTIONS_EVERY = 4
"""One of so many learned batches tells the principal directions of the inputs."""
_BETAS = (0.9, 0.95)
_ROUNDING = 1e-10
"""An error (`_Errors`) that is rounding alone: that of layers in front of the first cut."""
_SMALLEST = 1e-6
"""The smallest square of a token's stream that its error is relative to, as a part of the mean."""
_NO_STREAM = 1e-24
"""A smaller mean square of a stream is taken as this, so that nothing is divided by zero."""
_WARMUP = 0.1
"""The part of the steps in which the learning rate rises. Then it falls as a cosine, to near 0."""


@dataclass(frozen=True)
class Trained:
    """What training a layer alone did.

    Attributes:
        behind: The stream behind the layer, by batch.
        before, error: The squared error of the stream before and after the training, over all
            learned tokens, relative to the square of what is wanted there. It may grow, since a
            training is judged by the mean of two errors, of which this is one.
    """

    behind: list[Tensor]
    before: float
    error: float


def train_layer(
    fit: LayerFit,
    streams: Sequence[Tensor],
    behind: Sequence[Tensor],
    target: Sequence[Tensor],
    passes: int,
    seed: int = 0,
) -> Trained | None:
    """Train a layer, in place; None if it stays as it was.

    It does so if the training makes it no better, if there is only rounding to learn, or if an
    error is not finite.

    Args:
        fit: the layer, and how the cut model calls it.
        streams: the stream in front of the layer, by batch: [texts, tokens, hidden].
        behind: the stream behind it before the training, by batch.
        target: the stream wanted behind it, by batch.
        passes: over all batches, each in another order.
        seed: of these orders.
    """
    weights = _weights(fit, target)
    before = _errors(fit, behind, target, weights)
    if not all(_ROUNDING <= each < math.inf for each in (before.unseen, before.learned)):
        return None
    learned = [batch for batch in range(len(streams)) if batch not in fit.unseen]
    parameters = _trained_parameters(fit.layer)
    kept = [each.detach().clone() for each in parameters]
    # With more inputs than a step has tokens, a gradient takes longer to turn than to compute.
    most = max(int(each.sum()) for each in fit.texts)
    by_weight = principal_directions(fit, streams, learned[::DIRECTIONS_EVERY], most)
    directions = [by_weight.get(id(each)) for each in parameters]
    with torch.autocast("cpu", enabled=False):
        updated = [
            turned(each.detach().clone(), along)
            for each, along in zip(parameters, directions, strict=True)
        ]
    optimizer = torch.optim.Adam(
        [{"params": [each], _SIZE: float(each.square().mean().sqrt())} for each in updated],
        betas=_BETAS,
    )
    steps, count = passes * len(learned), len(learned)
    for step in range(steps):
        if step % count == 0:
            drawn = random_stream(seed, "layer training", step // count).random_raw(count)
            order = np.argsort(drawn, kind="stable").tolist()
        for group in optimizer.param_groups:
            group["lr"] = RATE * group[_SIZE] * _share(step, steps)
        batch = learned[order[step % count]]
        with torch.enable_grad():
            given = fit.calls[batch](fit.layer, streams[batch]).float()
            missing = (given - target[batch])[fit.texts[batch]]
            loss = (missing.square().sum(-1) * weights[batch]).mean() / before.learned
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.autocast("cpu", enabled=False):
            for each, gradient, along in zip(updated, found, directions, strict=True):
                each.grad = None if gradient is None else turned(gradient, along)
        del found
        earlier = [each.clone() for each in updated]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for parameter, each, old, along in zip(
            parameters, updated, earlier, directions, strict=True
        ):
            # The change alone is turned back, so that bf16 rounds the change and not the weights.
            parameter.add_(turned_back(each - old, along))
        del earlier
    with torch.autocast("cpu", enabled=False):  # in float32, as the weights are kept
        for parameter, each, along in zip(parameters, updated, directions, strict=True):
            parameter.copy_(turned_back(each, along))
    trained = fit.through(streams)
    after = _errors(fit, trained, target, weights)
    if after.unseen < before.unseen and after.learned < before.learned:
        return Trained(trained, before.whole, after.whole)
    for each, before_training in zip(parameters, kept, strict=True):
        each.copy_(before_training)
    return None


def check_text(calibration: Calibration) -> None:
    """Raise UserError if a text is too short to leave one batch of eight out."""
    longest = max(map(len, calibration.pieces))
    if calibration.tokens < UNSEEN * longest:
        raise UserError(
            f"{calibration.tokens:,} tokens of text are too few to train layers; give at least "
            f"{UNSEEN * longest:,}, or leave it out",
            key="refit_passes",
        )


_SIZE = "size"
"""In a group of parameters: the root mean square of their values."""


def _share(step: int, steps: int) -> float:
    """The learning rate of a step, from 0, as a part of the peak."""
    rising = math.ceil(_WARMUP * steps)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step + 1 - rising) / (steps - rising + 1))) / 2


def _trained_parameters(layer: nn.Module) -> list[Tensor]:
    """All but tables: T5's other layers are given the position biases of its first."""
    return [
        parameter.requires_grad_()
        for module in layer.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    ]


def _weights(fit: LayerFit, target: Sequence[Tensor]) -> list[Tensor]:
    """What the squared error of each token counts, by batch, [tokens of text].

    That is the mean of 1 / the square of the stream wanted there and of 1 / the mean of all these
    squares. In the first part, a stream that is nearly zero counts as one of a thousandth the size.
    """
    squares = [
        wanted[text].square().sum(-1) for text, wanted in zip(fit.texts, target, strict=True)
    ]
    mean = max(float(torch.cat(squares).double().mean()), _NO_STREAM)
    return [(1 / each.clamp_min(_SMALLEST * mean) + 1 / mean) / 2 for each in squares]


@dataclass(frozen=True)
class _Errors:
    """Errors of a layer.

    `learned`, `unseen`: the mean weighted squared error of the tokens that are learned, and of
    those of unseen batches; 0 if there are none. `whole`: the squared error of all learned tokens,
    relative to the square of what is wanted there.
    """

    learned: float
    unseen: float
    whole: float


def _errors(
    fit: LayerFit, behind: Sequence[Tensor], target: Sequence[Tensor], weights: Sequence[Tensor]
) -> _Errors:
    weighted: tuple[list[Tensor], list[Tensor]] = ([], [])
    squared = square = 0.0
    for batch, text in enumerate(fit.texts):
        wanted = target[batch][text]
        error = (behind[batch][text] - wanted).square().sum(-1)
        weighted[batch in fit.unseen].append(error * weights[batch])
        if batch not in fit.unseen:
            squared += float(error.double().sum())
            square += float(wanted.double().square().sum())
    learned, unseen = (float(torch.cat(each).double().mean()) if each else 0.0 for each in weighted)
    return _Errors(learned, unseen, squared / max(square, 1e-30))
