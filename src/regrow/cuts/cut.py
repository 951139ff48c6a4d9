"""A cut: the indices to keep, by axis. It is immutable; two cuts compose into one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from regrow.architectures import Layout
from regrow.common.errors import UserError, ending_in
from regrow.common.files import read_json, write_atomically
from regrow.cuts.ranges import Indices, format_ranges, parse_ranges
from regrow.cuts.rotatable import rotation_problem

FORMAT = 1
CUT_FILE = "regrow_cut.json"
_LARGEST_SIZE = 1 << 24
"""The largest axis size in a file.

The indices are read into memory before they are compared with a model.
"""


@dataclass(frozen=True, eq=False)
class AxisCut:
    """The kept indices of one axis.

    `size`: of the axis before the cut. `keep`: kept indices in their new order, [kept], or [kept
    layers, kept] if they differ from layer to layer. `along`: in the second case, the layer axis.
    `padded`: how many of the last kept rows of a vocabulary are padding to a round number, without
    a token. `rotated`: the kept indices of hidden are no channels, but principal directions of the
    residual stream (surgery/rotation.py); they are numbered from 0.
    """

    size: int
    keep: Indices
    along: str | None = None
    padded: int = 0
    rotated: bool = False

    def __post_init__(self) -> None:
        keep = np.array(self.keep, dtype=np.int64, order="C")
        if keep.ndim != (1 if self.along is None else 2):
            raise ValueError(f"keep has {keep.ndim} dimensions, along is {self.along}")
        if keep.shape[-1] == 0:
            raise ValueError("nothing is kept")
        if keep.size and (keep.min() < 0 or keep.max() >= self.size):
            raise ValueError(f"an index lies outside 0 to {self.size - 1}")
        if not 0 <= self.padded < keep.shape[-1] or (self.padded and self.along is not None):
            raise ValueError(f"padded is {self.padded}, of {keep.shape[-1]} that are kept")
        if self.rotated and not (keep.ndim == 1 and (keep == np.arange(len(keep))).all()):
            raise ValueError("rotated, but what is kept is not numbered from 0")
        rows = np.sort(keep.reshape(-1, keep.shape[-1]), axis=1)
        if (np.diff(rows, axis=1) == 0).any():
            raise ValueError("an index is kept twice")
        keep.setflags(write=False)
        object.__setattr__(self, "keep", keep)

    @property
    def kept(self) -> int:
        """How many indices are kept (in each layer)."""
        return int(self.keep.shape[-1])

    @property
    def tokens(self) -> Indices:
        """The kept rows of a vocabulary without the padding, [tokens]."""
        return self.keep[: self.kept - self.padded]

    @property
    def is_identity(self) -> bool:
        same = self.kept == self.size and not self.padded and not self.rotated
        return same and bool((self.keep == np.arange(self.size)).all())

    def row(self, layer: int) -> Indices:
        """The kept indices in one layer; `layer` is its number after the cut."""
        return self.keep if self.along is None else self.keep[layer]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, AxisCut)
            and (self.size, self.along, self.padded, self.rotated)
            == (other.size, other.along, other.padded, other.rotated)
            and np.array_equal(self.keep, other.keep)
        )

    def __hash__(self) -> int:
        return hash((self.size, self.along, self.padded, self.rotated, self.keep.tobytes()))


@dataclass(frozen=True)
class Cut:
    """The indices to keep, by axis; an axis that is absent stays whole.

    `model`: fingerprint of the checkpoint that the cut was made for.
    """

    model: str
    axes: Mapping[str, AxisCut]

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", MappingProxyType(dict(self.axes)))

    @property
    def sizes(self) -> dict[str, int]:
        """New sizes of the axes that are cut."""
        return {name: axis.kept for name, axis in self.axes.items()}

    @property
    def is_identity(self) -> bool:
        return all(axis.is_identity for axis in self.axes.values())

    @property
    def is_rotated(self) -> bool:
        """Whether hidden keeps principal directions, which are found on a text."""
        return any(axis.rotated for axis in self.axes.values())

    def layers(self, axis: str, count: int) -> Indices:
        """The kept layers of a layer axis; `count` is its number of layers before the cut."""
        return self.axes[axis].keep if axis in self.axes else np.arange(count, dtype=np.int64)

    def then(self, second: "Cut") -> "Cut":
        """One cut with the same result as this cut followed by `second`.

        If one of them is rotated, so is the result, which only says how many directions are left.
        """
        axes: dict[str, AxisCut] = {}
        for name in dict.fromkeys([*self.axes, *second.axes]):
            axes[name] = _compose(name, self, second)
        return Cut(self.model, axes)

    def words(self) -> str:
        """A description of the cut in one line, for users."""
        if self.is_identity:
            return "nothing is cut"
        by_stack: dict[str, list[str]] = {}
        for name, axis in sorted(self.axes.items(), key=lambda item: _reading_order(item[0])):
            if not axis.is_identity:
                stack, _, kind = name.rpartition(".")
                by_stack.setdefault(stack, []).append(_axis_words(kind, axis))
        return "; ".join(f"{stack} {', '.join(parts)}".strip() for stack, parts in by_stack.items())

    def to_json(self) -> dict[str, Any]:
        axes: dict[str, Any] = {}
        for name, axis in self.axes.items():
            rows = [format_ranges(row) for row in axis.keep.reshape(-1, axis.kept)]
            axes[name] = {"size": axis.size, "keep": rows[0]}
            if axis.padded:
                axes[name]["padded"] = axis.padded
            if axis.rotated:
                axes[name]["rotated"] = True
            if axis.along is not None:
                axes[name] = {"size": axis.size, "along": axis.along, "keep": rows}
        return {"format": FORMAT, "model": self.model, "axes": axes}

    @classmethod
    def from_json(cls, data: Any, where: str) -> Self:
        """The cut that `to_json` wrote. Raises UserError, naming the file `where`, if invalid."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UserError(f"{where}: format: not a cut of format {FORMAT}")
        if not isinstance(data.get("model"), str) or not isinstance(data.get("axes"), dict):
            raise UserError(f"{where}: a cut has the keys format, model and axes")
        axes: dict[str, AxisCut] = {}
        for name, entry in data["axes"].items():
            try:
                axes[name] = _read_axis(entry)
            except ValueError as error:
                raise UserError(f"{where}: axes.{name}: {error}") from None
        return cls(data["model"], axes)

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps(self.to_json(), indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises UserError at any other file."""
        return cls.from_json(read_json(path), str(path))

    @classmethod
    def load_named(cls, path: Path) -> Self:
        """As `load`, of a file that the user named: the error says which would be right."""
        with ending_in(f"name a cut, such as the {CUT_FILE} of a pruned model"):
            return cls.load(path)


def check_cut(cut: Cut, layout: Layout, fingerprint: str) -> None:
    """Raise UserError unless the cut fits the checkpoint with this layout and fingerprint."""
    if cut.model != fingerprint:
        raise UserError(
            f"cut: it was made for model {cut.model[:19]}…, this one is {fingerprint[:19]}…"
        )
    blueprint = layout.blueprint
    for name, axis in cut.axes.items():
        if name not in blueprint.axis_names:
            raise UserError(
                f"cut: axis {name}: {blueprint.model_type} has {', '.join(blueprint.axis_names)}"
            )
        spec = blueprint.axis(name)
        if axis.size != layout.sizes[name]:
            raise UserError(
                f"cut: axis {name}: made for size {axis.size:,}, the model has "
                f"{layout.sizes[name]:,}"
            )
        if axis.rotated and spec.kind != "hidden":
            raise UserError(f"cut: axis {name}: only hidden can be rotated")
        if axis.rotated and (problem := rotation_problem(layout)):
            raise UserError(f"cut: axis {name}: {problem}")
        if axis.along is not None and axis.along != spec.along:
            raise UserError(
                f"cut: axis {name}: one choice serves all layers in {blueprint.model_type}"
            )
        if axis.along is not None:
            rows = len(cut.layers(axis.along, layout.sizes[axis.along]))
            if axis.keep.shape[0] != rows:
                raise UserError(
                    f"cut: axis {name}: {axis.keep.shape[0]} rows for {rows} kept layers"
                )
    layout.check_sizes(cut.sizes)
    for spec in blueprint.axes:
        if spec.groups and (spec.name in cut.axes or spec.groups in cut.axes):
            _check_groups(cut, layout, spec.name, spec.groups)


def _check_groups(cut: Cut, layout: Layout, head: str, kv_head: str) -> None:
    """Raise UserError unless each kept query head keeps its key-value head."""
    group = layout.sizes[head] // layout.sizes[kv_head]
    whole = {name: np.arange(layout.sizes[name], dtype=np.int64) for name in (head, kv_head)}
    rows = [
        cut.axes[n].keep.reshape(-1, cut.axes[n].kept) for n in (head, kv_head) if n in cut.axes
    ]
    for layer in range(max(len(r) for r in rows)):
        heads, kv_heads = (
            cut.axes[n].row(layer) if n in cut.axes else whole[n] for n in (head, kv_head)
        )
        new_group = len(heads) // len(kv_heads)
        if not np.array_equal(heads // group, np.repeat(kv_heads, new_group)):
            raise UserError(
                f"cut: axis {head}: a kept query head would lose its key-value head "
                f"(layer {layer} of the result); drop as many in each group, or whole groups"
            )


def _read_axis(entry: Any) -> AxisCut:
    """One axis of a cut file. Raises ValueError, with a message for users, if invalid."""
    if not isinstance(entry, dict):
        raise ValueError("an axis has the keys size and keep")
    size, along, keep = entry.get("size"), entry.get("along"), entry.get("keep")
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= _LARGEST_SIZE:
        raise ValueError(f"size is not a number between 1 and {_LARGEST_SIZE:,}")
    if along is None:
        if not isinstance(keep, str):
            raise ValueError("keep is not a list of ranges such as '0-11,16-29'")
        padded = entry.get("padded", 0)
        if not isinstance(padded, int) or isinstance(padded, bool):
            raise ValueError("padded is not a number")
        rotated = entry.get("rotated", False)
        if not isinstance(rotated, bool):
            raise ValueError("rotated is not true or false")
        return AxisCut(size, parse_ranges(keep, size), padded=padded, rotated=rotated)
    if entry.get("rotated", False):
        raise ValueError("rotated, but each layer has a choice of its own")
    if not isinstance(along, str):
        raise ValueError("along is not the name of a layer axis")
    if not isinstance(keep, list) or not keep or not all(isinstance(row, str) for row in keep):
        raise ValueError("keep does not have one list of ranges a kept layer, as along wants")
    rows = [parse_ranges(row, size) for row in keep]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("keep does not have the same number of indices in each layer")
    return AxisCut(size, np.stack(rows), along)


def _compose(name: str, first: Cut, second: Cut) -> AxisCut:
    a, b = first.axes.get(name), second.axes.get(name)
    along = (a.along if a else None) or (b.along if b else None)
    if a is not None and b is not None and a.kept != b.size:
        raise UserError(f"cut: axis {name}: the second cut is for size {b.size}, not {a.kept}")
    if (a is not None and a.rotated) or (b is not None and b.rotated):
        last = b or a
        assert last is not None  # each direction is a mixture of channels of the first model
        return AxisCut((a or last).size, np.arange(last.kept), rotated=True)
    if along is None or (b is None and along not in second.axes):
        if b is None:
            assert a is not None
            return a
        return b if a is None else AxisCut(a.size, a.keep[b.keep], padded=b.padded)
    # Row j of the result is row rows[j] of the first cut, indexed by row j of the second.
    if a is None:
        assert b is not None
        return b
    rows = second.axes[along].keep if along in second.axes else None
    if rows is None:
        assert b is not None
        rows = np.arange(b.keep.shape[0] if b.along else a.keep.shape[0])
    before = a.keep[rows] if a.along else np.tile(a.keep, (len(rows), 1))
    if b is None:
        return AxisCut(a.size, before, along)
    chosen = b.keep if b.along else np.tile(b.keep, (len(rows), 1))
    return AxisCut(a.size, np.take_along_axis(before, chosen, axis=1), along)


_WORDS = {
    "layer": "layers",
    "hidden": "hidden",
    "ffn": "ffn",
    "expert": "experts",
    "head": "heads",
    "kv_head": "key-value heads",
    "cross_head": "cross-attention heads",
    "cross_kv_head": "cross-attention key-value heads",
    "vocab": "vocabulary",
}


def _axis_words(kind: str, axis: AxisCut) -> str:
    if axis.rotated:
        return f"{_WORDS[kind]} {axis.size:,} -> {axis.kept:,} (principal directions)"
    if axis.kept == axis.size and not axis.padded:
        return f"{f'{axis.size} layers' if kind == 'layer' else _WORDS[kind]} in another order"
    if kind == "layer":
        dropped = np.setdiff1d(np.arange(axis.size), axis.keep)
        return f"{axis.size} -> {axis.kept} layers (without {format_ranges(dropped)})"
    padding = f" ({axis.padded} of them padding)" if axis.padded else ""
    return f"{_WORDS[kind]} {axis.size:,} -> {axis.kept:,}{padding}"


def _reading_order(name: str) -> tuple[str, int]:
    """A sort key: by stack, then by kind; a vocabulary of all stacks comes last."""
    stack, _, kind = name.rpartition(".")
    return ("~" if not stack and kind == "vocab" else stack, list(_WORDS).index(kind))
