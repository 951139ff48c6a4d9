"""Layers in the order in which a greedy search drops them: each time the layer without which the
loss on the text is least (Song et al., 2024, "SLEB: Streamlining LLMs through Redundancy
Verification and Elimination of Transformer Blocks").

A decoder predicts the next token. An encoder-decoder fills in the spans of T5's span corruption.
Each stack is searched by itself, with the other stack whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Axis, Layout

if TYPE_CHECKING:
    from torch import Tensor, nn

    from regrow.scoring.batches import TextBatch
    from regrow.scoring.calibration import Calibration

_DOING = "scoring, layers by loss, batch"


def drop_order(
    model: Any, layout: Layout, axis: Axis, calibration: "Calibration", size: int
) -> NDArray[np.float64]:
    """The round in which each layer is dropped, from 0; the number of rounds for the layers that
    are left, [layers]. NaN or infinite losses make all of them NaN.

    `size`: how many layers are left; there are `layers - size` rounds.

    With n layers left, a round runs n layers to record what enters each of them, and then for each
    layer only those behind it: some n^2 / 2 layers, and the head n times. Matrices are multiplied
    in bfloat16 where the hardware does so.
    """
    import torch

    from regrow.common.precision import autocast
    from regrow.common.progress import tell_part
    from regrow.objectives.losses.head import check_head
    from regrow.scoring.batches import with_loss
    from regrow.scoring.observe import BATCH_TOKENS

    check_head(model)
    layers = [_Layer(model.get_submodule(name)) for name in layout.modules(axis.sites)]
    batches = [*with_loss(calibration, model.config, BATCH_TOKENS)]
    rounds = len(layers) - size
    order = np.full(len(layers), float(rounds))
    with torch.no_grad(), autocast("auto", next(model.parameters()).device):
        for number in range(rounds):
            by_batch: list[NDArray[np.float64]] = []
            for batch in batches:
                done = number * len(batches) + len(by_batch)
                tell_part(_DOING, done, rounds * len(batches))
                by_batch.append(_losses_without_each(model, layers, axis, batch))
            losses = np.sum(by_batch, axis=0)
            left = [index for index, layer in enumerate(layers) if not layer.dropped]
            if not np.isfinite(losses[left]).all():
                return np.full(len(layers), np.nan)
            worst = left[int(np.argmin(losses[left]))]
            layers[worst].dropped = True
            order[worst] = number
    tell_part(_DOING, rounds * len(batches), rounds * len(batches))
    return order


@dataclass(frozen=True)
class LayerLosses:
    """The loss of a model, and without each of its layers, in nats per predicted token.

    Attributes:
        axis: The layer axis.
        tokens: Predicted tokens that the losses are over.
        whole: Of the model itself.
        without: Without each layer, all others whole, in order.
    """

    axis: str
    tokens: int
    whole: float
    without: tuple[float, ...]


def losses_without_each(
    model: Any,
    layout: Layout,
    axis: Axis,
    calibration: "Calibration",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> LayerLosses:
    """The loss without each layer of an axis. Nothing is refitted or trained.

    `advance`: told after each layer of each batch how many are done, and how many there are.

    For n layers this takes the time of some n / 2 passes through the layers, and n through the
    head.
    """
    import torch

    from regrow.common.precision import autocast
    from regrow.corpus.packing import NOT_PREDICTED
    from regrow.objectives.losses.head import check_head
    from regrow.scoring.batches import with_loss
    from regrow.scoring.observe import BATCH_TOKENS, text_loss

    check_head(model)
    layers = [_Layer(model.get_submodule(name)) for name in layout.modules(axis.sites)]
    without, whole, tokens = np.zeros(len(layers)), 0.0, 0
    batches = [*with_loss(calibration, model.config, BATCH_TOKENS)]
    total = len(batches) * len(layers)
    with torch.no_grad(), autocast("auto", next(model.parameters()).device):
        for number, batch in enumerate(batches):
            assert batch.labels is not None
            whole += text_loss(model, batch).item()
            first = number * len(layers)

            def tell(done: int, first: int = first) -> None:
                advance(first + done, total)

            without += _losses_without_each(model, layers, axis, batch, tell)
            tokens += int((batch.labels != NOT_PREDICTED).sum())
    return LayerLosses(
        axis.name, tokens, whole / tokens, tuple(float(loss / tokens) for loss in without)
    )


def _losses_without_each(
    model: Any,
    layers: "Sequence[_Layer]",
    axis: Axis,
    batch: "TextBatch",
    tell: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float64]:
    """The loss of a batch without each layer that is left, summed over tokens in nats, [layers].

    NaN for layers that are dropped. `tell`: gets the number of layers that are done.
    """
    from regrow.models.layers import replaced_forwards
    from regrow.scoring.observe import encoder_output, read_batch, text_loss

    # The encoder stays as it is while layers of the decoder are tried.
    source = encoder_output(model, batch) if axis.stack == "decoder" else None
    with replaced_forwards({layer.module: layer.record for layer in layers}):
        read_batch(model, batch, source)
    losses = np.full(len(layers), np.nan)
    for index, tried in enumerate(layers):
        if tried.dropped:
            continue
        front = [layer.giving(tried.entered) for layer in layers[: index + 1]]
        behind = [layer.skip if layer.dropped else layer.forward for layer in layers[index + 1 :]]
        modules = (layer.module for layer in layers)
        with replaced_forwards(dict(zip(modules, [*front, *behind], strict=True))):
            losses[index] = text_loss(model, batch, source).item()
        tell(index + 1)
    return losses


class _Layer:
    """What can stand in the place of a layer's forward function."""

    def __init__(self, module: "nn.Module") -> None:
        self.module = module
        self.forward = module.forward
        self.dropped = False
        self.entered: Tensor
        """The hidden states in front of the layer, for the current batch."""
        self._rest: tuple[Any, ...] | None = None
        """What the layer gives beside hidden states (T5's position bias); None if nothing."""

    def record(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, and remember its input; a dropped layer gives its input."""
        from regrow.models.layers import entering

        self.entered = entering(args, kwargs)
        output = self.forward(*args, **kwargs)
        self._rest = output[1:] if isinstance(output, tuple) else None
        return self._with_rest(self.entered) if self.dropped else output

    def skip(self, *args: Any, **kwargs: Any) -> Any:
        """Give the input as the output."""
        from regrow.models.layers import entering

        return self._with_rest(entering(args, kwargs))

    def giving(self, states: "Tensor") -> Callable[..., Any]:
        """A function that gives these states, whatever enters."""
        return lambda *_, **__: self._with_rest(states)

    def _with_rest(self, states: "Tensor") -> Any:
        return states if self._rest is None else (states, *self._rest)
