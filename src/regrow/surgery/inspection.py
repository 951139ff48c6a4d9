"""What a model is made of, and what of it can be cut."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regrow.architectures import Axis, Layout
from regrow.checkpoint.bind import parameters_counted_once
from regrow.checkpoint.model_directory import ModelDirectory


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


def inspect_model(model: ModelDirectory) -> Inspection:
    """Read headers and config of a model.

    Raises UserError where it is no model that regrow knows.
    """
    layout = model.layout
    return Inspection(
        model.path,
        layout.blueprint.model_type,
        None if model.is_config_only else model.checkpoint.fingerprint,
        layout.parameters(),
        parameters_counted_once(layout),
        layout.parameters_by_part(),
        tuple(_facts(layout, axis) for axis in layout.blueprint.axes),
        {name: layout.sizes[name] for name in layout.blueprint.fixed},
        layout.tied,
        model.bytes_by_type,
        layout.ignored,
        layout.blueprint.vocabulary_only,
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
