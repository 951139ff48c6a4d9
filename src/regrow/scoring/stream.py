"""What norms do to the residual stream of a model, and in which directions the stream varies."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regrow.architectures import LabelledTensor, Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.precision import autocast
from regrow.common.progress import tell_part
from regrow.scoring.batches import TextBatch, without_loss
from regrow.scoring.calibration import Calibration
from regrow.scoring.observe import (
    BATCH_TOKENS,
    Pass,
    Run,
    is_text_now,
    one_by_one,
    read_batch,
)
from regrow.scoring.offload import BATCHES
from regrow.scoring.score import memory_problem

_TOLERANCE = 1e-4
"""The largest squared error of what a norm is taken to do, relative to the square of its output."""
_COMPARED = 8
"""Tokens by which the output of a norm is recognised as the input of a matrix."""


@dataclass(frozen=True, eq=False)
class Stream:
    """How a model normalises and reads its residual stream, and where the stream varies.

    Attributes:
        moments: The mean over norms and tokens of the outer product of the stream with itself,
            where the stream is divided by its length, [channels, channels] in float64. If
            `centred`, the mean over channels is taken off first.
        centred: Whether the norms take off the mean over channels (LayerNorm; else RMSNorm).
        norm_of: The norm that each matrix reads, by the names of their modules.
    """

    moments: Tensor
    centred: bool
    norm_of: Mapping[str, str]


def read_by(layout: Layout) -> dict[str, LabelledTensor]:
    """The matrices that read the residual stream, the head among them, by module."""
    streams = set(layout.streams)
    head = layout.blueprint.head.weight
    found = {}
    for label in layout.distinct_tensors:
        if len(label.dims.dimensions) == 2:
            rows, columns = (dimension.names & streams for dimension in label.dims.dimensions)
            if columns and not rows and (label.layer is not None or label.parameter == head):
                found[label.parameter.removesuffix(".weight")] = label
    return found


def _epsilon(norm: nn.Module) -> float:
    """What a norm adds to the mean square."""
    value = getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0))
    assert isinstance(value, float)
    return value


def measure_stream(
    source: ModelDirectory,
    calibration: Calibration,
    say: Callable[[str], None] = lambda _: None,
) -> Stream:
    """Measure the residual stream of a model on a text.

    A model whose float32 weights do not fit in available memory is read one layer at a time, and
    `say` is told. Matrices of the model are multiplied in bfloat16 where the hardware does so.

    Raises UserError if a norm is neither RMSNorm nor LayerNorm, if a matrix reads the stream
    without a norm, if no matrix reads a norm, or if accelerate is missing for a large model.
    """
    layout = source.layout
    run: Run = one_by_one
    # An offloaded model needs a thread for each batch. In memory the batches are the same ones.
    batch_tokens = max(BATCH_TOKENS, -(-calibration.tokens // BATCHES))
    too_large = memory_problem(source)
    if too_large:
        from regrow.scoring.offload import check_offload, load_offloaded

        check_offload(too_large)
        say(f"{too_large}; reading it one layer at a time")
        offloaded = load_offloaded(source.checkpoint, layout)
        network, run = offloaded.model, offloaded.run
    else:
        network = source.load()
    say(f"looking for principal directions on {calibration.tokens:,} tokens")
    axes = [axis for axis in layout.blueprint.axes if axis.kind == "hidden"]
    watch = _Watch(layout.blueprint.model_type, sum(layout.sizes[axis.name] for axis in axes))
    batches = list(without_loss(calibration, source.config, batch_tokens))
    with ExitStack() as stack:
        for axis in axes:
            for name in layout.modules(axis.sites):
                hook = network.get_submodule(name).register_forward_hook(partial(watch.norm, name))
                stack.callback(hook.remove)
        readers = read_by(layout)
        for name in readers:
            hook = network.get_submodule(name).register_forward_pre_hook(
                partial(watch.reader, name)
            )
            stack.callback(hook.remove)

        def read(number: int, batch: TextBatch) -> None:
            tell_part("measuring the stream, batch", number, len(batches))
            _is_first.set(number == 0)
            with torch.no_grad(), autocast("auto", torch.device("cpu"), cache=False):
                states = read_batch(network, batch)
            if number == 0:  # the head is not run
                watch.reader(layout.blueprint.head.weight.removesuffix(".weight"), None, (states,))

        passes: list[Pass] = [partial(read, *each) for each in enumerate(batches)]
        run(passes)
        tell_part("measuring the stream, batch", len(batches), len(batches))
    return watch.stream(readers)


_is_first: ContextVar[bool] = ContextVar("_is_first")
"""Whether this thread runs the first batch, on which inputs and outputs are compared."""


@dataclass(eq=False)
class _Watch:
    """Sums over what norms read, and which norm each matrix reads.

    `kinds`: whether the norms take off the mean; both values, as long as both fit all norms.
    """

    model_type: str
    channels: int
    total: Tensor = field(init=False)
    seen: int = 0
    kinds: set[bool] = field(default_factory=lambda: {False, True})
    outputs: dict[str, Tensor] = field(default_factory=dict)
    norms_of: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.total = torch.zeros(self.channels, self.channels, dtype=torch.float64)

    @property
    def centred(self) -> bool:
        """Whether the norms can be LayerNorm.

        Where the mean is zero, as after a rotation, they can be RMSNorm too, which is then equal.
        """
        return True in self.kinds

    def norm(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Called when a norm has run."""
        with torch.autocast("cpu", enabled=False):
            read = args[0][is_text_now()].float()
            if _is_first.get():
                self.outputs[name] = output[:1, :_COMPARED].clone()
                self._check(name, module, read, output[is_text_now()].float())
            if self.centred:
                read = read - read.mean(-1, keepdim=True)
            read = read / read.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(read.dtype).tiny)
            self.total += read.T @ read
            self.seen += len(read)

    def reader(self, name: str, _: nn.Module | None, args: tuple[Any, ...]) -> None:
        """Called when a matrix is about to read."""
        if not _is_first.get():
            return
        read = args[0][:1, :_COMPARED]
        self.norms_of[name] = [
            norm
            for norm, output in self.outputs.items()
            if read.shape == output.shape and torch.equal(read, output)
        ]

    def _check(self, name: str, module: nn.Module, read: Tensor, output: Tensor) -> None:
        """Raise UserError unless the norm is RMSNorm or LayerNorm, as all other norms are."""
        weight, bias = module.weight, getattr(module, "bias", None)
        assert isinstance(weight, Tensor)
        for centred in tuple(self.kinds):
            expected = read - read.mean(-1, keepdim=True) if centred else read
            square = expected.square().mean(-1, keepdim=True)
            expected = expected * (square + _epsilon(module)).rsqrt() * weight
            expected = expected if bias is None else expected + bias
            error = (expected - output).double().square().sum()
            if not error <= _TOLERANCE * output.double().square().sum():
                self.kinds.remove(centred)
        if not self.kinds:
            raise self._refused(f"{name} is not the norm that was expected")

    def stream(self, readers: Mapping[str, LabelledTensor]) -> Stream:
        """What was seen."""
        for name in readers:
            if not self.norms_of.get(name):
                raise self._refused(f"{name} reads something else than a norm")
        read = {norm for norms in self.norms_of.values() for norm in norms}
        if unread := self.outputs.keys() - read:
            raise self._refused(f"no matrix reads {sorted(unread)[0]}")
        norm_of = {name: self.norms_of[name][0] for name in readers}
        return Stream(self.total / self.seen, self.centred, norm_of)

    def _refused(self, why: str) -> UserError:
        return UserError(
            f"{self.model_type}: {why}, so the residual stream cannot be rotated; keep channels "
            "(rotate: false)",
            key="rotate",
        )
