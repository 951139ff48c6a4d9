"""What a model computes on a text, as running means: no activation outlives its forward pass."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regrow.architectures import Axis, Layout
from regrow.common.precision import Precision, autocast
from regrow.common.progress import tell_part, told
from regrow.corpus.packing import NOT_PREDICTED
from regrow.objectives.losses.head import check_head, head_of
from regrow.scoring.batches import TextBatch, with_loss, without_loss
from regrow.scoring.calibration import Calibration


@dataclass(frozen=True, eq=False)
class Seen:
    """What one module did with the tokens of a batch.

    `read`, `wrote`: its input and its output, [tokens, width]. `size`: indices along the axis.
    `gradient`: of the loss, summed over predicted tokens in nats, with respect to `wrote` for
    hidden and layers, and to `read` for ffn and heads; None where the score asks for none.
    """

    module: nn.Module
    read: Tensor
    wrote: Tensor
    size: int
    gradient: Tensor | None = None


Statistic = Callable[[Seen], Tensor]
"""What is averaged over tokens: [tokens, size], or [tokens, 1] for layers."""

Pass = Callable[[], object]
"""One batch through the model."""

Run = Callable[[Sequence[Pass]], None]
"""Runs all passes to their end, in one thread or in a thread each."""

BATCH_TOKENS = 2_048
BATCH_TOKENS_WITH_GRADIENTS = 512
"""Smaller, since all activations of a batch stay in memory until its backward pass: about 0.8 GB
for SmolLM2-135M."""

_DOING = "scoring, batch"

_is_text: ContextVar[Tensor] = ContextVar("_is_text")
"""Where the batch of this thread has tokens, in the stack that runs; [texts, tokens]."""


class _Mean:
    """The mean over tokens of a statistic at one module."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.tokens = 0

    def add(self, values: Tensor) -> None:
        total = values.sum(0, dtype=torch.float64)
        self.total = total if self.total is None else self.total + total
        self.tokens += len(values)

    def value(self) -> NDArray[np.float64]:
        if self.total is None:
            raise ValueError("the module was never called")
        mean: NDArray[np.float64] = (self.total / self.tokens).cpu().numpy()
        return mean


@dataclass(frozen=True, eq=False)
class _Observer:
    """Adds to a mean what one module does in each pass."""

    mean: _Mean
    statistic: Statistic
    axis: Axis
    size: int
    gradients: bool

    def __call__(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        read = args[0] if args else kwargs["hidden_states"]
        wrote = out[0] if isinstance(out, tuple) else out
        is_text = _is_text.get()

        def add(gradient: Tensor | None = None) -> None:
            # Only the products of the model are narrow, not those of a statistic.
            with torch.autocast(read.device.type, enabled=False):
                seen = Seen(
                    module,
                    _wide(read.detach()[is_text]),
                    _wide(wrote.detach()[is_text]),
                    self.size,
                    None if gradient is None else _wide(gradient[is_text]),
                )
                self.mean.add(self.statistic(seen))

        if self.gradients:
            (wrote if self.axis.kind in ("hidden", "layer") else read).register_hook(add)
        else:
            add()


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def one_by_one(passes: Sequence[Pass]) -> None:
    """For a model in memory."""
    for each in passes:
        each()


def observe(  # noqa: PLR0913 - how the passes run, beside what they are for
    model: nn.Module,
    layout: Layout,
    statistics: Mapping[str, Statistic],
    calibration: Calibration,
    *,
    at: Mapping[str, Sequence[str]] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    run: Run = one_by_one,
    precision: Precision = "fp32",
) -> dict[str, NDArray[np.float64]]:
    """Means over all calibration tokens at the sites of each axis, [sites, size] in float64.

    `model`: of transformers, in evaluation mode. `statistics`: by axis name. Sites stand in the
    order of the blueprint's patterns, layer by layer. `at`: names of other modules, by axis name,
    that are the sites of an axis. `precision`: of matrix products. An encoder-decoder reads the
    text in the encoder, and predicts the same text in the decoder. The head is not run.
    """
    places = {**_sites(layout, statistics), **(at or {})}
    with _observed(model, layout, statistics, places, gradients=False) as means:
        batches = list(without_loss(calibration, model.config, batch_tokens))

        def read(number: int, batch: TextBatch) -> None:
            tell_part(_DOING, number, len(batches))
            # For each pass by itself, since it may run in a thread of its own.
            with torch.no_grad(), autocast(precision, _device(model), cache=False):
                read_batch(model, batch)

        run([partial(read, number, batch) for number, batch in enumerate(batches)])
        tell_part(_DOING, len(batches), len(batches))
    return _values(means)


def observe_gradients(
    model: nn.Module,
    layout: Layout,
    statistics: Mapping[str, Statistic],
    calibration: Calibration,
    *,
    batch_tokens: int = BATCH_TOKENS_WITH_GRADIENTS,
    precision: Precision = "fp32",
) -> dict[str, NDArray[np.float64]]:
    """As `observe`, with gradients of a loss.

    A decoder predicts the next token of each document. An encoder-decoder fills in the spans of
    T5's span corruption, also if it was trained with another objective.
    Each document has a loss of its own, so batches change nothing but rounding. No gradient of a
    weight is computed.

    Raises UserError where the head of the model is not known.
    """
    check_head(model)
    with (
        torch.enable_grad(),
        _gradients_of_activations(model, layout),
        _observed(model, layout, statistics, _sites(layout, statistics), gradients=True) as means,
    ):
        batches = list(with_loss(calibration, model.config, batch_tokens))
        for batch in told(batches, _DOING):
            with autocast(precision, _device(model)):
                loss = text_loss(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
    return _values(means)


def is_text_now() -> Tensor:
    """Where the batch of this thread has tokens, in the stack that runs; [texts, tokens]."""
    return _is_text.get()


def _values(means: Mapping[str, Sequence[_Mean]]) -> dict[str, NDArray[np.float64]]:
    return {name: np.stack([mean.value() for mean in found]) for name, found in means.items()}


@contextlib.contextmanager
def _observed(
    model: nn.Module,
    layout: Layout,
    statistics: Mapping[str, Statistic],
    places: Mapping[str, Sequence[str]],
    *,
    gradients: bool,
) -> Iterator[dict[str, list[_Mean]]]:
    """Means that are filled while the model runs, by axis and site."""
    means: dict[str, list[_Mean]] = {name: [] for name in statistics}
    with contextlib.ExitStack() as stack:
        for name, statistic in statistics.items():
            axis = layout.blueprint.axis(name)
            for site in places[name]:
                mean = _Mean()
                means[name].append(mean)
                hook = _Observer(mean, statistic, axis, layout.sizes[name], gradients)
                handle = model.get_submodule(site).register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        yield means


@contextlib.contextmanager
def _gradients_of_activations(model: nn.Module, layout: Layout) -> Iterator[None]:
    """Gradients begin at the output of the embeddings; weights have none, which saves memory."""

    def begin(_: nn.Module, __: Any, output: Tensor) -> None:
        output.requires_grad_()

    needed = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with contextlib.ExitStack() as stack:
        for parameter, was_needed in needed:
            stack.callback(parameter.requires_grad_, was_needed)
            parameter.requires_grad_(False)
        for name in layout.blueprint.embeddings:
            stack.callback(model.get_submodule(name).register_forward_hook(begin).remove)
        yield


def read_batch(model: Any, batch: TextBatch, source: Tensor | None = None) -> Tensor:
    """Run the model without its head; what the head would read, [texts, tokens, hidden].

    Padding stands on the right, where causal attention does not see it: a decoder needs no mask.

    `source`: the `encoder_output`, if it was computed before.
    """
    device = _device(model)
    is_text = batch.is_text.to(device)
    if batch.decoder_ids is None:
        _is_text.set(is_text)
        return _states(model.base_model(input_ids=batch.ids.to(device), use_cache=False))
    assert batch.decoder_is_text is not None
    # Stack by stack: not every class has a base model, one without the head.
    source = encoder_output(model, batch) if source is None else source
    _is_text.set(batch.decoder_is_text.to(device))
    target = batch.decoder_ids.to(device)
    # A target may begin with the padding token, which some classes (T5Gemma) mask without a mask.
    more = {} if batch.labels is None else {"attention_mask": torch.ones_like(target)}
    return _states(
        model.get_decoder()(
            input_ids=target,
            encoder_hidden_states=source,
            encoder_attention_mask=is_text.long(),
            use_cache=False,
            **more,
        )
    )


def encoder_output(model: Any, batch: TextBatch) -> Tensor:
    """The hidden states that the decoder of an encoder-decoder reads, [texts, tokens, hidden]."""
    device = _device(model)
    is_text = batch.is_text.to(device)
    _is_text.set(is_text)
    return _states(
        model.get_encoder()(input_ids=batch.ids.to(device), attention_mask=is_text.long())
    )


def _device(model: nn.Module) -> torch.device:
    device = next(model.parameters()).device
    # Offloaded weights go to the CPU when they are read.
    return torch.device("cpu") if device.type == "meta" else device


def _states(output: Any) -> Tensor:
    states: Tensor = output.last_hidden_state
    return states


def text_loss(model: nn.Module, batch: TextBatch, source: Tensor | None = None) -> Tensor:
    """Cross-entropy summed over the predicted tokens, in nats.

    `source`: the `encoder_output`, if it was computed before.
    """
    assert batch.labels is not None
    hidden = read_batch(model, batch, source)
    predicts = (batch.labels != NOT_PREDICTED).to(hidden.device)
    loss, _ = head_of(model).loss(hidden[predicts], batch.labels.to(hidden.device)[predicts])
    return loss


def _sites(layout: Layout, axes: Iterable[str]) -> dict[str, Sequence[str]]:
    """The sites of the blueprint, by axis."""
    return {name: layout.modules(layout.blueprint.axis(name).sites) for name in axes}
