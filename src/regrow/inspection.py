"""What a model is made of, and what of it can be cut."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from regrow.architectures import Axis, Layout
from regrow.checkpoint.config_only import bind_config, is_config_only, stored_type
from regrow.checkpoint.reader import Checkpoint, open_checkpoint
from regrow.pruning import bind_checkpoint


@dataclass(frozen=True)
class AxisFacts:
    """One axis: its size, where one choice of indices holds, and what an index is worth."""

    name: str
    size: int
    scope: str
    parameters: int
    """In tensors that lie along the axis."""
    parameters_per_index: int
    """What one index less takes away, in all layers together."""
    sizes: str
    """Which sizes the architecture accepts, all else kept."""


@dataclass(frozen=True)
class Inspection:
    """What `regrow inspect` prints. Of a config alone it is what a checkpoint would have."""

    directory: Path
    model_type: str
    fingerprint: str | None
    """None where there is only a config."""
    parameters: int
    parameters_counted_once: int
    """With one matrix for embedding and head, where the file stores two."""
    parts: Mapping[str, int]
    axes: tuple[AxisFacts, ...]
    fixed: Mapping[str, int]
    tied: bool
    dtypes: Mapping[str, int]
    """Bytes of weights by type."""
    ignored: tuple[str, ...]
    vocabulary_only: bool
    """No blueprint is written for its class."""

    @property
    def weight_bytes(self) -> int:
        return sum(self.dtypes.values())


def inspect_directory(directory: Path) -> Inspection:
    """Read headers and config of a local model directory.

    Raises UserError where it is no model that regrow knows.
    """
    layout, checkpoint = open_layout(directory)
    return Inspection(
        directory,
        layout.blueprint.model_type,
        checkpoint.fingerprint if checkpoint else None,
        layout.parameters(),
        parameters_counted_once(layout),
        layout.parameters_by_part(),
        tuple(_facts(layout, axis) for axis in layout.blueprint.axes),
        {name: layout.sizes[name] for name in layout.blueprint.fixed},
        layout.tied,
        _bytes_by_type(layout, checkpoint),
        layout.ignored,
        layout.blueprint.vocabulary_only,
    )


def open_layout(directory: Path) -> tuple[Layout, Checkpoint | None]:
    """The layout of a model directory, and its checkpoint unless there is only a config."""
    if is_config_only(directory):
        return bind_config(directory), None
    checkpoint = open_checkpoint(directory)
    return bind_checkpoint(checkpoint), checkpoint


def parameters_counted_once(layout: Layout) -> int:
    """Parameters with one matrix for embedding and head; all, where they differ in shape."""
    blueprint = layout.blueprint
    shapes = {
        tensor.dims.shape(layout.sizes)
        for tensor in layout.tensors.values()
        if tensor.parameter in (blueprint.head.weight, blueprint.head.embedding)
    }
    return replace(layout, tied=layout.tied or len(shapes) == 1).parameters()


def stored_bytes(layout: Layout, checkpoint: Checkpoint | None) -> int:
    """Bytes of all weights in the file."""
    return sum(_bytes_by_type(layout, checkpoint).values())


def _bytes_by_type(layout: Layout, checkpoint: Checkpoint | None) -> dict[str, int]:
    if checkpoint is None:
        name, width = stored_type(layout)
        return {name: sum(prod(t.shape) for t in layout.tensors.values()) * width}
    dtypes: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + info.nbytes
    return dtypes


def _facts(layout: Layout, axis: Axis) -> AxisFacts:
    size = layout.sizes[axis.name]
    # Parameters are linear in the size of an axis, so two sizes tell what one index is worth.
    per_index = layout.parameters() - layout.parameters({axis.name: size - 1})
    return AxisFacts(
        axis.name, size, _scope(axis), per_index * size, per_index, _accepted(layout, axis)
    )


def _scope(axis: Axis) -> str:
    if axis.along:
        return "layer"
    return axis.stack or "model"


def _accepted(layout: Layout, axis: Axis) -> str:
    """Sizes below the present one that are accepted with all other sizes as they are."""
    size = layout.sizes[axis.name]
    if axis.groups:
        return f"multiples of {layout.sizes[axis.groups]}, or whole groups"
    together = layout.axes_of_field(axis.name)
    fits = [
        n for n in range(size - 1, 0, -1)
        if layout.size_problem(dict.fromkeys(together, n)) is None
    ]  # fmt: skip
    if len(fits) == size - 1:
        return "any"
    if not fits:
        partner = next((a.name for a in layout.blueprint.axes if a.groups == axis.name), None)
        return f"with {partner}" if partner else "not alone"
    step = size - fits[0]
    if all(size - n == step * (i + 1) for i, n in enumerate(fits)):
        return f"multiples of {step}"
    return f"{len(fits)} sizes, {fits[0]:,} the next"
