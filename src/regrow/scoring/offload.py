"""Calibration of a model that does not fit in memory: each layer is read once for the whole text.

The weights stay in the files of the checkpoint and are read by accelerate; nothing is copied. All
batches go through the model together. Each batch stops before a module until all batches are
there. Then the weights of the module are read, the batches go through it one after another, and
the weights are released. Each batch computes the same as with the whole model in memory in float32.

Memory holds the float32 weights of one module (a layer, or an embedding). Of each batch it holds
what goes from layer to layer: hidden states, masks, position biases and the output of the encoder.
Of one batch it holds the activations inside a layer. The head is never read.
"""

import importlib.util
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch import Tensor, nn

from regrow.architectures import Layout
from regrow.architectures.assembled import Assembled, assembled
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.reader import Checkpoint
from regrow.common.errors import UserError
from regrow.models.loading import load_without_weights
from regrow.scoring.observe import Pass

BATCHES = 16
"""About how many batches go through the model together. Each needs a thread, and the threads of its
matrix products."""


def check_offload(problem: str) -> None:
    """Raise UserError where accelerate is missing. `problem`: why it is needed."""
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(
            f"{problem}; reading it one layer at a time needs the accelerate package; "
            "run: pip install 'regrow[offload]'"
        )


@dataclass(frozen=True, eq=False)
class Offloaded:
    """A model whose weights stay in its files.

    Attributes:
        model: Of transformers, without weights in memory.
        units: Modules whose weights are read at once, each with its hook of accelerate.
        index: The place of each parameter in the files, in accelerate's form. A change takes effect
            when the weights of the module are read next.
    """

    model: Any
    units: Mapping[nn.Module, Any]
    index: dict[str, dict[str, str]]

    def run(self, passes: Sequence[Pass], without: Collection[nn.Module] = ()) -> None:
        """Run all passes. The weights of a unit are in memory while all passes go through it.

        `without`: units that no pass computes, so that their weights are not read.
        """
        _side_by_side({u: hook for u, hook in self.units.items() if u not in without}, passes)

    @contextmanager
    def loaded(self, unit: nn.Module) -> Iterator[None]:
        """Context manager: the weights of one unit are in memory."""
        self.units[unit].pre_forward(unit)
        try:
            yield
        finally:
            self.units[unit].post_forward(unit, None)


def load_offloaded(checkpoint: Checkpoint, layout: Layout) -> Offloaded:
    """A model whose weights are read one unit at a time.

    Needs accelerate. Does not use from_pretrained with a device map, which reads every weight once
    before it runs.

    Raises UserError where transformers cannot build the model, or builds it with other shapes.
    """
    model = load_without_weights(checkpoint.directory)
    check_on_meta(
        checkpoint.config,
        layout.blueprint,
        layout.shapes,
        where=f"{checkpoint.directory}: config.json",
    )
    index = _index(checkpoint, layout)
    names = [tensor.parameter for tensor in layout.tensors.values()]
    weights = _Weights(index, assembled(layout.blueprint, names))
    return Offloaded(model, _units(model, layout, weights), index)


class _Weights(Mapping[str, Tensor]):
    """The parameters of a model, read from files.

    `index`: the place of each tensor in the files, in accelerate's form. `made`: the parameters
    that are assembled from several tensors, unless the index has them.
    """

    def __init__(self, index: Mapping[str, dict[str, str]], made: Sequence[Assembled]) -> None:
        from accelerate.utils import OffloadedWeightsLoader

        self._index = index
        self._stored: Mapping[str, Tensor] = OffloadedWeightsLoader(index=index)
        self._made = {each.parameter: each for each in made}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._index:
            return self._stored[name]
        made = self._made[name]
        whole: Tensor | None = None
        for expert, parts in enumerate(made.parts):
            matrix = torch.cat([self._stored[part] for part in parts])
            if not made.stacked:
                return matrix
            if whole is None:
                whole = matrix.new_empty(len(made.parts), *matrix.shape)
            whole[expert] = matrix
        assert whole is not None
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter({**self._index, **self._made})

    def __len__(self) -> int:
        return len({**self._index, **self._made})


def _index(checkpoint: Checkpoint, layout: Layout) -> dict[str, dict[str, str]]:
    """The place of each parameter in the files, in accelerate's form."""
    index = {
        tensor.parameter: {
            "safetensors_file": str(checkpoint.tensors[name].file),
            "weight_name": name,
        }
        for name, tensor in layout.tensors.items()
    }
    head = layout.blueprint.head
    names = (head.embedding, *head.aliases)
    stored = next(name for name in (*names, head.weight) if name in index)
    return {**dict.fromkeys(names, index[stored]), **index}


def _units(model: nn.Module, layout: Layout, weights: _Weights) -> dict[nn.Module, Any]:
    """The layers, and all other modules that have weights of their own."""
    from accelerate.hooks import AlignDevicesHook
    from accelerate.utils import PrefixedDataset

    layers = [
        name
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
        for name in layout.modules(axis.sites)
    ]
    inside = {module for name in layers for module in model.get_submodule(name).modules()}
    others = [
        name
        for name, module in model.named_modules()
        if module not in inside and any(True for _ in module.parameters(recurse=False))
    ]
    units = {}
    for name in (*layers, *others):
        unit = model.get_submodule(name)
        units[unit] = AlignDevicesHook(
            execution_device="cpu",
            offload=True,
            weights_map=PrefixedDataset(weights, f"{name}."),
            place_submodules=True,
        )
        units[unit].init_hook(unit)
    return units


def _side_by_side(units: Mapping[nn.Module, Any], passes: Sequence[Pass]) -> None:
    handles = [unit.register_forward_pre_hook(_stop) for unit in units]
    walks: list[_Walk] = []
    try:
        walks.extend(map(_Walk, passes))
        unit = _advance(walks)
        while unit is not None:
            units[unit].pre_forward(unit)
            following = _advance(walks)
            units[unit].post_forward(unit, None)
            unit = following
    finally:
        for walk in walks:
            walk.abandon()
        for handle in handles:
            handle.remove()


def _advance(walks: Sequence["_Walk"]) -> nn.Module | None:
    """Run each pass to the next unit, one after another; the unit, or None at the end."""
    stops = {walk.step() for walk in walks}
    if len(stops) > 1:
        raise ValueError("the batches take different ways through the model")
    return stops.pop()


class _Abandoned(BaseException):
    """Ends a pass after another pass has failed."""


class _Walk:
    """A pass through the model that stops before each unit.

    It runs in a thread of its own, so that it can stop anywhere. Only one thread runs at a time.
    """

    def __init__(self, forward: Pass) -> None:
        self._going: SimpleQueue[bool] = SimpleQueue()
        self._stops: SimpleQueue[nn.Module | BaseException | None] = SimpleQueue()
        self._thread = Thread(target=self._run, args=(forward,), daemon=True)
        self._thread.start()

    def step(self) -> nn.Module | None:
        """Run to the next unit; the unit, or None at the end. Raises what the pass raises."""
        self._going.put(True)
        stop = self._stops.get()
        if isinstance(stop, BaseException):
            raise stop
        return stop

    def stop_at(self, unit: nn.Module) -> None:
        """Called in the thread of the pass: wait before a unit."""
        self._stops.put(unit)
        self._wait()

    def abandon(self) -> None:
        """End the thread, if it has not ended."""
        self._going.put(False)
        self._thread.join()

    def _wait(self) -> None:
        if not self._going.get():
            raise _Abandoned

    def _run(self, forward: Pass) -> None:
        _walk.set(self)
        end: BaseException | None = None
        try:
            self._wait()
            forward()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            end = error
        self._stops.put(end)


_walk: ContextVar[_Walk] = ContextVar("_walk")
"""The walk of this thread."""


def _stop(unit: nn.Module, _: Any) -> None:
    _walk.get().stop_at(unit)
