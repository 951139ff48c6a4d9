"""Run the layers of a model one by one, as the model itself calls them."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.precision import Precision, autocast
from regrow.models.layers import entering, replaced_forwards
from regrow.scoring.batches import TextBatch
from regrow.scoring.observe import Pass, one_by_one, read_batch

_SIDE_BY_SIDE = 32
"""The most passes that go through an offloaded model together."""


@dataclass(frozen=True, eq=False)
class LayerCall:
    """How a model calls one of its layers on one batch: what it passes beside the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The hidden states behind the layer."""
        out = layer(hidden, *self.args, **self.kwargs)
        states: Tensor = out[0] if isinstance(out, tuple) else out
        return states


class LayerModel:
    """A model in float32, in memory or read one layer at a time.

    `precision`: of matrix products. `offloaded`: leave the weights in the files, which needs
    accelerate (scoring/offload.py).
    """

    def __init__(self, directory: ModelDirectory, precision: Precision, *, offloaded: bool) -> None:
        self.layout = directory.layout
        self._precision = precision
        self._offloaded = None
        if offloaded:
            from regrow.scoring.offload import load_offloaded

            self._offloaded = load_offloaded(directory.checkpoint, directory.layout)
        self.network: Any = self._offloaded.model if self._offloaded else directory.load()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Context manager: no gradients, and matrix products in the model's precision.

        It holds for one thread.
        """
        # Without a cache: a refit changes weights.
        products = autocast(self._precision, torch.device("cpu"), cache=False)
        with torch.no_grad(), products:
            yield

    def loaded(self, module: nn.Module) -> AbstractContextManager[None]:
        """Context manager: the weights of a layer are in memory."""
        return nullcontext() if self._offloaded is None else self._offloaded.loaded(module)

    def replaced(self, parameter: str, file: str) -> None:
        """Read a parameter from another safetensors file from now on, where it has the same name.

        Nothing to do for a model in memory.
        """
        if self._offloaded is not None:
            self._offloaded.index[parameter] = {"safetensors_file": file, "weight_name": parameter}

    def calls(
        self, layers: Sequence[str], batches: Sequence[TextBatch]
    ) -> tuple[list[list[LayerCall]], list[Tensor]]:
        """The calls of all layers of a stack, [batches][layers], and the states before the first.

        Only the first layer is computed. The others pass their hidden states on, and give back all
        else as the first layer did (T5's layers pass position biases on).
        """
        walks = [_Walk() for _ in batches]

        def read(walk: _Walk, batch: TextBatch) -> None:
            _walk.set(walk)
            with self.computing(), suppress(_Enough):  # in the thread of the pass
                read_batch(self.network, batch)

        first, *others = layers
        skipped = [self.network.get_submodule(name) for name in others]
        with ExitStack() as stack:
            for name in layers:
                module = self.network.get_submodule(name)
                note = partial(_note_call, name, name == layers[-1] and bool(others))
                hook = module.register_forward_pre_hook(note, with_kwargs=True)
                stack.callback(hook.remove)
            hook = self.network.get_submodule(first).register_forward_hook(_note_output)
            stack.callback(hook.remove)
            stack.enter_context(replaced_forwards(dict.fromkeys(skipped, _pass_on)))
            passes: list[Pass] = [partial(read, *each) for each in zip(walks, batches, strict=True)]
            self._run(passes, skipped)
        calls = [[walk.calls[name] for name in layers] for walk in walks]
        return calls, [walk.hidden for walk in walks]

    def head_inputs(self, batches: Sequence[TextBatch]) -> list[Tensor]:
        """What the head reads, by batch: [texts, tokens, hidden]."""
        found: dict[int, Tensor] = {}

        def read(number: int, batch: TextBatch) -> None:
            with self.computing():  # in the thread of the pass
                found[number] = read_batch(self.network, batch)

        passes: list[Pass] = [partial(read, *each) for each in enumerate(batches)]
        self._run(passes, ())
        return [found[number] for number in range(len(batches))]

    def _run(self, passes: Sequence[Pass], skipped: Collection[nn.Module]) -> None:
        """Run passes through the model. `skipped`: modules that no pass computes."""
        if self._offloaded is None:
            one_by_one(passes)
            return
        for first in range(0, len(passes), _SIDE_BY_SIDE):  # each needs a thread
            self._offloaded.run(passes[first : first + _SIDE_BY_SIDE], without=skipped)

    def run_noting(
        self, call: Callable[[], object], modules: Sequence[str], count: int
    ) -> list[tuple[str, Tensor, Tensor]]:
        """What the first `count` of these modules to be called read and wrote: (name, read, wrote).

        `call`: runs a layer. The rest of the layer, after the last of these modules, is not run.
        """
        found: list[tuple[str, Tensor, Tensor]] = []

        def note(name: str, _: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            found.append((name, args[0], out))
            if len(found) == count:
                raise _Enough

        with ExitStack() as stack:
            for name in modules:
                module = self.network.get_submodule(name)
                stack.callback(module.register_forward_hook(partial(note, name)).remove)
            with suppress(_Enough):
                call()
        return found


class _Enough(Exception):  # noqa: N818 - not an error
    """Ends a forward pass."""


@dataclass(eq=False)
class _Walk:
    """One pass through a stack: the calls by the name of the layer.

    `hidden`: the states before the first layer, [texts, tokens, hidden]. `output`: what the first
    layer gave.
    """

    calls: dict[str, LayerCall] = field(default_factory=dict)
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    output: Any = None


_walk: ContextVar[_Walk] = ContextVar("_walk")
"""The pass of this thread."""


def _note_call(
    name: str, ends: bool, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """`ends`: whether the pass ends here."""
    walk = _walk.get()
    if not walk.calls:
        walk.hidden = entering(args, kwargs)
    rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
    walk.calls[name] = LayerCall(args[1:], rest)
    if ends:
        raise _Enough


def _note_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
    _walk.get().output = output


def _pass_on(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
    output = _walk.get().output
    return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states
