"""Calibration of a model that does not fit in memory: each layer is read once for all of the text.

The weights stay in the checkpoint's own files, by accelerate's hooks and its reader of offloaded
weights; nothing is copied. All batches walk through the model side by side: they wait before a
module until all stand there, its weights are read, the batches pass it one after another, and the
weights are let go. What each computes is what it computes in memory, with float32 weights.

What is held: the weights of one module in float32 (a layer; before the layers an embedding); of
each batch what passes from layer to layer (hidden states, masks, position biases, what the encoder
gave); and of one batch what it computes inside a layer. The head is never read.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

from torch import nn

from regrow.architectures import Layout
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.reader import Checkpoint
from regrow.common.errors import UserError
from regrow.models.loading import load_without_weights
from regrow.scoring.observe import Pass, Run, sites

BATCHES = 16
"""How many walk side by side, about: each is a thread, with the threads of its matrix products."""

_Units = Mapping[nn.Module, Any]
"""Modules whose weights are read together, with accelerate's hook of each."""


def check_offload(problem: str) -> None:
    """Raise UserError where accelerate is missing. `problem`: why it is needed."""
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(
            f"{problem}; reading it one layer at a time needs the accelerate package; "
            "run: pip install 'regrow[offload]'"
        )


def load_offloaded(checkpoint: Checkpoint, layout: Layout) -> tuple[Any, Run]:
    """A model without weights in memory, and how passes through it are run.

    Needs accelerate. Raises UserError where transformers cannot build the model, or builds it with
    other shapes.

    Not by from_pretrained with a device map: that reads every weight once before it runs.
    """
    model = load_without_weights(checkpoint.directory)
    check_on_meta(
        checkpoint.config,
        layout.blueprint,
        layout.shapes,
        where=f"{checkpoint.directory}: config.json",
    )
    return model, partial(_side_by_side, _units(model, layout, _index(checkpoint, layout)))


def _index(checkpoint: Checkpoint, layout: Layout) -> dict[str, dict[str, str]]:
    """Where the file holds each parameter, in the form that accelerate reads."""
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


def _units(model: nn.Module, layout: Layout, index: Mapping[str, Any]) -> _Units:
    """The layers, and whatever else has weights of its own."""
    from accelerate.hooks import AlignDevicesHook
    from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset

    layers = [
        name
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
        for name in sites(layout, axis)
    ]
    inside = {module for name in layers for module in model.get_submodule(name).modules()}
    others = [
        name
        for name, module in model.named_modules()
        if module not in inside and any(True for _ in module.parameters(recurse=False))
    ]
    weights = OffloadedWeightsLoader(index=index)
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


def _side_by_side(units: _Units, passes: Sequence[Pass]) -> None:
    """Run all passes, each unit's weights in memory while all of them pass it."""
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
    """Let each go on, one after another, to the unit where all stop next; None at the end."""
    stops = {walk.step() for walk in walks}
    if len(stops) > 1:
        raise ValueError("the batches take different ways through the model")
    return stops.pop()


class _Abandoned(BaseException):
    """Ends a pass that nobody waits for any more."""


class _Walk:
    """A pass through the model that stops before each unit.

    A thread of its own keeps its place; only one thread runs at any time.
    """

    def __init__(self, forward: Pass) -> None:
        self._going: SimpleQueue[bool] = SimpleQueue()
        self._stops: SimpleQueue[nn.Module | BaseException | None] = SimpleQueue()
        self._thread = Thread(target=self._run, args=(forward,), daemon=True)
        self._thread.start()

    def step(self) -> nn.Module | None:
        """Go on to the next unit, which is returned; None at the end. Raises what it raises."""
        self._going.put(True)
        stop = self._stops.get()
        if isinstance(stop, BaseException):
            raise stop
        return stop

    def stop_at(self, unit: nn.Module) -> None:
        """Called in the thread: wait before a unit."""
        self._stops.put(unit)
        self._wait()

    def abandon(self) -> None:
        """End the thread where it stands, if it has not ended."""
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
