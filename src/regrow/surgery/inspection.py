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
    """Smaller sizes that the architecture accepts if all other sizes stay; of query heads, also
    those with fewer key-value heads."""


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
    why_vocabulary_only: str | None
    """Why there is no blueprint of more; None if there is one."""
    derived: bool
    """The blueprint was derived from the class of the model, and proved on a small network."""

    @property
    def weight_bytes(self) -> int:
        return sum(self.dtypes.values())


def inspect_model(model: ModelDirectory) -> Inspection:
    """Inspect a model by its config and headers.

    Raises UserError if regrow cannot read the directory as a model.
    """
    layout = model.layout
    blueprint = layout.blueprint
    return Inspection(
        model.path,
        blueprint.model_type,
        None if model.is_config_only else model.checkpoint.fingerprint,
        layout.parameters(),
        parameters_counted_once(layout),
        layout.parameters_by_part(),
        tuple(_facts(layout, axis) for axis in blueprint.axes),
        {name: layout.sizes[name] for name in blueprint.fixed},
        layout.tied,
        model.bytes_by_type,
        layout.ignored,
        blueprint.vocabulary_only,
        blueprint.reason,
        blueprint.derived,
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
        return _accepted_heads(layout, axis.name)
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
    if fits == [*range(size - 1, fits[-1] - 1, -1)]:
        return f"{fits[-1]:,} or more"
    step = size - fits[0]
    if all(size - n == step * (i + 1) for i, n in enumerate(fits)):
        return f"multiples of {step}"
    return f"{len(fits)} sizes, {fits[0]:,} the next"


def _accepted_heads(layout: Layout, axis: str) -> str:
    """The numbers of query heads that are accepted: fewer in each group, or fewer groups."""
    blueprint = layout.blueprint
    heads = layout.axes_of_field(axis)
    kv_heads = [name for name in (blueprint.axis(each).groups for each in heads) if name]
    count, groups = layout.sizes[axis], layout.sizes[kv_heads[0]]
    size = count // groups
    all_fewer = [n * groups for n in range(size - 1, 0, -1)]
    all_groups = [n * size for n in range(groups - 1, 0, -1)]
    fewer = [n for n in all_fewer if layout.size_problem(dict.fromkeys(heads, n)) is None]
    whole = [
        n
        for n in all_groups
        if layout.size_problem(dict.fromkeys(heads, n) | dict.fromkeys(kv_heads, n // size)) is None
    ]
    if (fewer, whole) == (all_fewer, all_groups):
        return f"multiples of {groups}, or whole groups" if size > 1 else f"any, with {kv_heads[0]}"
    parts = [_listed(fewer)] if fewer else []
    parts += [f"with {kv_heads[0]}: {_listed(whole)}"] if whole else []
    return "; ".join(parts) or "not alone"


def _listed(sizes: list[int]) -> str:
    listed = ", ".join(map(str, sizes[:_LISTED]))
    return f"{listed} …" if len(sizes) > _LISTED else listed
