"""How fast this machine trains a model, from a few passes through its first layers.

The real model may be too large to try. All its layers have the same shapes, so it is built twice,
with one layer and with three (in each stack), with random weights. The difference of the two times
is that of two layers. What remains of the first is the head. Two rates follow, in floating-point
operations a second: that of the layers and that of the head. The time of any training with such
layers follows from these rates and from its operations (`regrow.architectures.flops`).

The update by the optimiser is left out: it is some per cent of a step of a thousand tokens.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from regrow.architectures import Layout
from regrow.architectures.cut_config import cut_config
from regrow.architectures.flops import SampleShape, forward_flops
from regrow.common.errors import UserError
from regrow.common.memory import available_memory
from regrow.training.cost import mean_sample
from regrow.training.settings import RecoverySettings

if TYPE_CHECKING:
    import torch

    from regrow.objectives.losses.loss import Loss, TensorBatch

_DEPTHS = (1, 3)
_PASSES = 3
"""Timed passes at each depth, after one that is not; the median counts."""
_MOST_FLOPS = 2e12
"""Of all passes together: some seconds on a laptop."""
_LEAST_TOKENS, _MOST_TOKENS = 64, 4_096
"""Of a row that is tried. Attention over longer rows of a small model would take minutes."""
_BACKWARD = 3
"""A forward and a backward pass cost so many times the forward pass."""
_SIDE, _ROWS = 2_048, 256
"""The shape of the products that stand for a model that is too large to try."""


@dataclass(frozen=True)
class Speed:
    """Rates in floating-point operations a second.

    Attributes:
        layers: Of a forward and backward pass through the layers.
        head: Of the same through the head and the loss.
        tried: Whether layers of the model were run. Otherwise both are the rate of plain matrix
            products, so that a training takes at least the time that follows.
    """

    layers: float
    head: float
    tried: bool = True

    def seconds(
        self, layout: Layout, sample: SampleShape, tokens: int, teacher: Layout | None = None
    ) -> float:
        """The time of a training on `tokens` tokens of text, in samples of this shape."""
        found = self.seconds_of_layers(layout, sample, tokens)
        found += _BACKWARD * forward_flops(layout, sample).head / self.head * tokens / sample.text
        if teacher is not None:
            taught = forward_flops(teacher, sample)
            forward = (taught.total - taught.head) / self.layers + taught.head / self.head
            found += forward * tokens / sample.text
        return found

    def seconds_of_layers(self, layout: Layout, sample: SampleShape, tokens: int) -> float:
        """The time of the layers alone, without the head."""
        forward = forward_flops(layout, sample)
        return _BACKWARD * (forward.total - forward.head) / self.layers * tokens / sample.text


def measure_speed(
    original: Layout,
    sizes: Mapping[str, int],
    settings: RecoverySettings,
    *,
    on_cpu: bool = False,
) -> Speed:
    """Try how fast this machine trains a model, on a GPU if there is one. Takes some seconds.

    If the layers need more memory or time than that, or transformers does not build them, plain
    matrix products are timed in their place.

    `original`: the layout of the original. `sizes`: those of the model that is trained, by axis.
    `on_cpu`: also if there is a GPU.
    """
    import torch

    from regrow.training.distributed.processes import join_processes

    device = torch.device("cpu") if on_cpu else join_processes().training_device
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        try:
            found = _try_layers(original, {**original.sizes, **sizes}, settings, device)
        except (UserError, ValueError, RuntimeError, TypeError):  # a config that no class accepts
            found = None
        return found or _try_products(settings, device)


def _try_layers(
    original: Layout, sizes: Mapping[str, int], settings: RecoverySettings, device: "torch.device"
) -> Speed | None:
    """The rates of the model's own layers; None if they are too large to try."""
    axes = [axis.name for axis in original.blueprint.axes if axis.kind == "layer"]
    shallow = [{**sizes, **{name: min(depth, sizes[name]) for name in axes}} for depth in _DEPTHS]
    layouts = [original.resized(each) for each in shallow]
    if not axes or layouts[0].sizes == layouts[1].sizes:
        return None
    parameters = [layout.parameters() for layout in layouts]
    # Weights and gradients in float32, and as much again for what a pass holds.
    if 2 * 8 * parameters[1] > available_memory():
        return None
    per_token = 2 * _BACKWARD * sum(parameters) * (_PASSES + 1)
    tokens = min(settings.row_length, _MOST_TOKENS, int(_MOST_FLOPS / per_token))
    if tokens < min(_LEAST_TOKENS, settings.row_length):
        return None
    _, mean = mean_sample(settings, original)
    share = min(1.0, tokens / (mean.encoder + mean.decoder))
    sample = SampleShape(
        text=tokens,
        decoder=max(2, int(mean.decoder * share)),
        encoder=max(2, int(mean.encoder * share)) if mean.encoder else 0,
    )
    seconds = [
        _seconds_of_a_pass(_config(original, each, axes), sample, settings, device)
        for each in shallow
    ]
    forward = [forward_flops(layout, sample) for layout in layouts]
    layers = [_BACKWARD * (each.total - each.head) for each in forward]
    head = _BACKWARD * forward[0].head
    if seconds[1] <= seconds[0]:  # too noisy to tell layers and head apart
        rate = (layers[1] + head) / seconds[1]
        return Speed(rate, rate)
    of_layers = (layers[1] - layers[0]) / (seconds[1] - seconds[0])
    rest = seconds[0] - layers[0] / of_layers
    return Speed(of_layers, head / rest if rest > 0 else of_layers)


def _config(original: Layout, sizes: Mapping[str, int], axes: list[str]) -> Any:
    """The config of transformers at these sizes."""
    from regrow.models.networks import config_class

    values = cut_config(original, sizes, {name: range(sizes[name]) for name in axes})
    return config_class(str(values.pop("model_type"))).from_dict(values)


def _seconds_of_a_pass(
    config: Any, sample: SampleShape, settings: RecoverySettings, device: "torch.device"
) -> float:
    """The median time of a forward and backward pass over one sample, as in a training."""
    import torch

    from regrow.common.precision import autocast
    from regrow.models.loading import build_model
    from regrow.objectives.losses.causal import Causal
    from regrow.objectives.losses.seq2seq import Seq2Seq
    from regrow.training.efficiency.attention import (
        supports_document_attention,
        using_document_attention,
    )
    from regrow.training.efficiency.saved_tensors import save_fewer_tensors

    model = build_model(config, torch.float32).to(device).train()
    loss: Loss = Seq2Seq() if sample.encoder else Causal()
    batch = _batch(config, sample, device)
    seconds = []
    with using_document_attention(
        model, supports_document_attention(model, device, settings.precision)
    ):
        for _ in range(_PASSES + 1):
            began = time.perf_counter()
            with autocast(settings.precision, device), save_fewer_tensors(device.type == "cpu"):
                total, _each = loss(model, batch)
            total.backward()  # type: ignore[no-untyped-call]
            _finish(device)
            seconds.append(time.perf_counter() - began)
            model.zero_grad(set_to_none=True)
    return statistics.median(seconds[1:])


def _batch(config: Any, sample: SampleShape, device: "torch.device") -> "TensorBatch":
    """One sample of random tokens."""
    import torch

    vocabulary = getattr(config, "vocab_size", None) or config.get_text_config().vocab_size
    draw = partial(torch.randint, 0, int(vocabulary), device=device)
    if not sample.encoder:
        tokens = draw((1, sample.decoder + 1))
        positions = torch.arange(sample.decoder, device=device)[None]
        return {"input_ids": tokens[:, :-1], "position_ids": positions, "labels": tokens[:, 1:]}
    source, target = draw((1, sample.encoder)), draw((1, sample.decoder + 1))
    return {
        "input_ids": source, "attention_mask": torch.ones_like(source),
        "decoder_input_ids": target[:, :-1], "labels": target[:, 1:],
    }  # fmt: skip


def _try_products(settings: RecoverySettings, device: "torch.device") -> Speed:
    """The rate of the three matrix products of a training: one forward, two backward."""
    import torch

    from regrow.common.precision import weights_dtype

    dtype = weights_dtype(settings.precision, device)
    weight = torch.randn(_SIDE, _SIDE, device=device, dtype=dtype)
    states = torch.randn(_ROWS, _SIDE, device=device, dtype=dtype)
    seconds = []
    for _ in range(_PASSES + 1):
        began = time.perf_counter()
        outputs = states @ weight.T
        _ = outputs @ weight, outputs.T @ states
        _finish(device)
        seconds.append(time.perf_counter() - began)
    rate = _BACKWARD * 2 * _ROWS * _SIDE**2 / statistics.median(seconds[1:])
    return Speed(rate, rate, tried=False)


def _finish(device: "torch.device") -> None:
    """Wait for the work of a GPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
