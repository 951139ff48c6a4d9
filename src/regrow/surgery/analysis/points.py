"""The cuts of an analysis: ever less depth, and ever less of all widths together."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from regrow.architectures import Layout
from regrow.surgery.search.axes import SearchAxis, combined, keeps_enough

Sizes = Mapping[str, int]
_MOST = 0.6
"""The largest share of the parameters that a line removes."""
_NEAREST = 3
"""Of each width axis, so many sizes are tried for one share of all."""
_SHARES = 48


@dataclass(frozen=True)
class CutLine:
    """Cuts along which ever more parameters go.

    Attributes:
        name: `layer`, `decoder.layer`, `widths`, `encoder widths`.
        kind: What is cut.
        cuts: Sizes by axis, from little to much.
    """

    name: str
    kind: str
    cuts: tuple[Sizes, ...]


def cut_lines(layout: Layout, axes: Sequence[SearchAxis], count: int) -> list[CutLine]:
    """The lines of a model: the layers of each stack, and all widths together.

    If the stacks of a model have widths of their own, each stack also has a line. `count`: cuts of
    a line, at most.
    """
    kinds = {axis.name: layout.blueprint.axis(axis.lead).kind for axis in axes}
    lines = [
        CutLine(axis.name, "depth", _spread(layout, axis.accepted, count))
        for axis in axes
        if kinds[axis.name] == "layer"
    ]
    widths = [axis for axis in axes if kinds[axis.name] not in ("layer", "vocab")]
    groups = {"widths": widths}
    for stack in dict.fromkeys(_stack(axis) for axis in widths):
        own = [axis for axis in widths if _stack(axis) == stack]
        if stack is not None and len(own) < len(widths):
            groups[f"{stack} widths"] = own
    for name, own in groups.items():
        if own:
            lines.append(CutLine(name, "width", _spread(layout, [*_together(layout, own)], count)))
    return [line for line in lines if line.cuts]


def _stack(axis: SearchAxis) -> str | None:
    """The stack that an axis belongs to; None if both stacks share it."""
    return axis.name.partition(" ")[0].rpartition(".")[0] or None


def _together(layout: Layout, axes: Sequence[SearchAxis]) -> Iterator[Sizes]:
    """Accepted sizes that keep about the same share of each width, from much to little."""
    seen = set()
    for number in range(1, _SHARES):
        share = 1 - number / _SHARES
        nearest = (
            sorted(axis.options, key=lambda option: abs(axis.share(option) - share))[:_NEAREST]
            for axis in axes
        )
        tried = sorted(
            (combined(layout, options) for options in itertools.product(*nearest)),
            key=lambda sizes: _distance(layout, sizes, share),
        )
        accepted = (
            sizes
            for sizes in tried
            if keeps_enough(layout, sizes) and layout.size_problem(sizes) is None
        )
        best = next(accepted, {})
        cut = {name: size for name, size in best.items() if size < layout.sizes[name]}
        key = tuple(sorted(cut.items()))
        if cut and key not in seen:
            seen.add(key)
            yield cut


def _distance(layout: Layout, sizes: Sizes, share: float) -> float:
    """How far sizes are from keeping this share of each width; key-value heads do not count."""
    groups = {axis.groups for axis in layout.blueprint.axes}
    return sum(
        abs(size / layout.sizes[name] - share) for name, size in sizes.items() if name not in groups
    )


def _spread(layout: Layout, cuts: Sequence[Sizes], count: int) -> tuple[Sizes, ...]:
    """At most `count` of some cuts, which remove evenly spread shares of the parameters."""
    whole = layout.parameters()
    shares = {number: 1 - layout.parameters(sizes) / whole for number, sizes in enumerate(cuts)}
    usable = {number: share for number, share in shares.items() if 0 < share <= _MOST}
    if not usable:
        return ()
    most = max(usable.values())
    chosen = {
        min(usable, key=lambda number: abs(usable[number] - most * place / count))
        for place in range(1, count + 1)
    }
    return tuple(cuts[number] for number in sorted(chosen, key=lambda number: usable[number]))
