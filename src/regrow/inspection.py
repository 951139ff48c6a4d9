"""What a model is made of, and what of it can be cut."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regrow.architectures import Axis, Layout
from regrow.checkpoint.reader import open_checkpoint
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
    """What `regrow inspect` prints."""

    directory: Path
    model_type: str
    fingerprint: str
    parameters: int
    parts: Mapping[str, int]
    axes: tuple[AxisFacts, ...]
    fixed: Mapping[str, int]
    tied: bool
    dtypes: Mapping[str, int]
    """Bytes of weights by type."""
    ignored: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        return sum(self.dtypes.values())


def inspect_directory(directory: Path) -> Inspection:
    """Read headers and config of a local model directory.

    Raises UserError where it is no model that regrow knows.
    """
    checkpoint = open_checkpoint(directory)
    layout = bind_checkpoint(checkpoint)
    dtypes: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + info.nbytes
    return Inspection(
        directory,
        layout.blueprint.model_type,
        checkpoint.fingerprint,
        layout.parameters(),
        layout.parameters_by_part(),
        tuple(_facts(layout, axis) for axis in layout.blueprint.axes),
        {name: layout.sizes[name] for name in layout.blueprint.fixed},
        layout.tied,
        dtypes,
        layout.ignored,
    )


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
