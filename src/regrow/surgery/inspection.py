"""The axes and parameters of a model, and which sizes it can be cut to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regrow.architectures import Axis, Layout
from regrow.checkpoint.bind import parameters_counted_once
from regrow.checkpoint.model_directory import ModelDirectory

_LISTED = 6
"""The most sizes that are listed one by one."""


@dataclass(frozen=True)
class AxisFacts:
    """One axis: its size, its scope, and its parameters."""

    name: str
    size: int
    scope: str
    """Where one choice of kept indices applies: `layer`, the name of a stack, or `model`."""
    parameters: int
    """Parameters in tensors that lie along the axis."""
    parameters_per_index: int
    """Parameters that dropping one index removes, in all layers together."""
    sizes: str
    """Smaller sizes that the architecture accepts if all other sizes stay."""


@dataclass(frozen=True)
class Inspection:
    """The output of `regrow inspect`.

    If there is only a config, it describes the checkpoint that this config would have.
    """

    directory: Path
    model_type: str
    fingerprint: str | None
    """None if there is only a config."""
    parameters: int
    parameters_counted_once: int
    """Parameters with embedding and head counted as one matrix, even if the file stores two."""
    parts: Mapping[str, int]
    axes: tuple[AxisFacts, ...]
    fixed: Mapping[str, int]
    tied: bool
    dtypes: Mapping[str, int]
    """Bytes of weights by type."""
    ignored: tuple[str, ...]
    vocabulary_only: bool
    """The architecture has no blueprint, so only its vocabulary can be cut."""

    @property
    def weight_bytes(self) -> int:
        return sum(self.dtypes.values())


def inspect_model(model: ModelDirectory) -> Inspection:
    """Inspect a model by its config and headers.

    Raises UserError if regrow cannot read the directory as a model.
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
    # Parameters are linear in the size of an axis, so two sizes give the parameters per index.
    per_index = layout.parameters() - layout.parameters({axis.name: size - 1})
    return AxisFacts(
        axis.name, size, _scope(axis), per_index * size, per_index, _accepted(layout, axis)
    )


def _scope(axis: Axis) -> str:
    if axis.along:
        return "layer"
    return axis.stack or "model"


def _accepted(layout: Layout, axis: Axis) -> str:
    """The smaller sizes that are accepted if all other sizes stay, in words."""
    size = layout.sizes[axis.name]
    if axis.groups:
        return _accepted_heads(layout, axis.name, axis.groups)
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


def _accepted_heads(layout: Layout, head: str, kv_head: str) -> str:
    """The numbers of query heads that are accepted: as many in each group, or whole groups."""
    heads, kv_heads = layout.sizes[head], layout.sizes[kv_head]
    fewer = [{head: n} for n in range(heads - kv_heads, 0, -kv_heads)]
    groups = [{head: n * heads // kv_heads, kv_head: n} for n in range(kv_heads - 1, 0, -1)]
    fits = [sizes for sizes in (*fewer, *groups) if layout.size_problem(sizes) is None]
    if len(fits) == len(fewer) + len(groups):
        return f"multiples of {kv_heads}, or whole groups"
    numbers = sorted({sizes[head] for sizes in fits}, reverse=True)
    if not numbers:
        return "not alone"
    listed = ", ".join(map(str, numbers[:_LISTED]))
    return f"{listed}{' …' if len(numbers) > _LISTED else ''}"
