"""What a model does with a text, as running means: no activation outlives its layer."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regrow.architectures import Axis, Layout
from regrow.scoring.calibration import Calibration

Statistic = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""(module, what it read, what it wrote, size of the axis) -> what is averaged.

The first two are [tokens, width], the result is [tokens, size], or [tokens, 1] for layers.
"""

Pass = Callable[[], None]
"""One batch through the model."""

Run = Callable[[Sequence[Pass]], None]
"""Runs all passes to their end, in one thread or in a thread each."""

BATCH_TOKENS = 2_048

_is_text: ContextVar[Tensor] = ContextVar("_is_text")
"""Where the batch of this thread has tokens, [pieces, tokens]."""


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


def one_by_one(passes: Sequence[Pass]) -> None:
    """For a model in memory."""
    for each in passes:
        each()


def observe(
    model: nn.Module,
    layout: Layout,
    statistics: Mapping[str, Statistic],
    calibration: Calibration,
    *,
    batch_tokens: int = BATCH_TOKENS,
    run: Run = one_by_one,
) -> dict[str, NDArray[np.float64]]:
    """Means over all calibration tokens at the sites of each axis, [sites, size] in float64.

    `model`: of transformers, in evaluation mode. `statistics`: by axis name. Sites stand in the
    order of the blueprint's patterns, layer by layer. An encoder-decoder reads the text in the
    encoder, and predicts the same text in the decoder. The head is not run.
    """
    means: dict[str, list[_Mean]] = {name: [] for name in statistics}
    device = next(model.parameters()).device
    if device.type == "meta":
        device = torch.device("cpu")  # where offloaded weights go when they are read

    def see(
        mean: _Mean, statistic: Statistic, size: int,
        module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any,
    ) -> None:  # fmt: skip
        read = args[0] if args else kwargs["hidden_states"]
        wrote = output[0] if isinstance(output, tuple) else output
        is_text = _is_text.get()
        mean.add(statistic(module, read[is_text], wrote[is_text], size))

    with contextlib.ExitStack() as stack:
        for name, statistic in statistics.items():
            for site in sites(layout, layout.blueprint.axis(name)):
                mean = _Mean()
                means[name].append(mean)
                hook = partial(see, mean, statistic, layout.sizes[name])
                handle = model.get_submodule(site).register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        run(
            [
                partial(_forward, model, torch.from_numpy(ids), torch.from_numpy(mask), device)
                for ids, mask in calibration.batches(batch_tokens)
            ]
        )
    return {name: np.stack([mean.value() for mean in found]) for name, found in means.items()}


@torch.no_grad()
def _forward(model: Any, ids: Tensor, mask: Tensor, device: torch.device) -> None:
    ids, mask = ids.to(device), mask.to(device)
    _is_text.set(mask)
    if not model.config.is_encoder_decoder:
        # Filled up on the right, which nothing before sees: causal attention needs no mask.
        model.base_model(input_ids=ids, use_cache=False)
        return
    # Stack by stack: not every class has a base model, one without the head.
    source = model.get_encoder()(input_ids=ids, attention_mask=mask.long())
    start = torch.full_like(ids[:, :1], _decoder_start(model.config))
    model.get_decoder()(
        input_ids=torch.cat([start, ids[:, :-1]], dim=1),
        encoder_hidden_states=source.last_hidden_state,
        encoder_attention_mask=mask.long(),
        use_cache=False,
    )


def _decoder_start(config: Any) -> int:
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = config.decoder.bos_token_id
    return int(start)


def sites(layout: Layout, axis: Axis) -> Iterator[str]:
    """Names of the modules where an axis can be seen at work."""
    layers = [a.name for a in layout.blueprint.axes if a.kind == "layer"]
    for pattern in axis.sites:
        along = next((name for name in layers if "{" + name + "}" in pattern), None)
        for index in range(layout.sizes[along]) if along else (0,):
            yield pattern.replace("{" + str(along) + "}", str(index))
