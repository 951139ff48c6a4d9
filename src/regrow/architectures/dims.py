"""A notation for the axes along which the dimensions of a tensor lie.

Commas separate the dimensions of a tensor. A dimension is one or more blocks, joined by `+`, which
lie one after the other. A block is a product of factors, joined by `*`, outermost first. A factor
is the name of an axis, the name of a fixed size, or a number:

    vocab, hidden                       an embedding
    head*head_dim, hidden               a query projection: head by head
    head*3*head_dim, hidden             query, key and value inside each head
    ffn + ffn, hidden                   gate block, then up block
    2 + position, hidden                two rows before the position table

A scalar has no dimensions: its text is empty.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_FACTOR = re.compile(r"[a-z_]+(\.[a-z_]+)?|[0-9]+")


@dataclass(frozen=True)
class Block:
    """A product of factors, outermost first: names of axes or of fixed sizes, or numbers."""

    factors: tuple[str | int, ...]

    def size(self, sizes: Mapping[str, int]) -> int:
        total = 1
        for factor in self.factors:
            total *= factor if isinstance(factor, int) else sizes[factor]
        return total

    def indices(self, sizes: Mapping[str, int], keep: Mapping[str, Indices]) -> Indices:
        """Kept positions of the uncut block, in the order of `keep`, the kept indices by axis."""
        positions = np.zeros(1, dtype=np.int64)
        for factor in self.factors:
            size = factor if isinstance(factor, int) else sizes[factor]
            kept = keep.get(factor) if isinstance(factor, str) else None
            inner = np.arange(size, dtype=np.int64) if kept is None else kept
            positions = (positions[:, None] * size + inner[None, :]).reshape(-1)
        return positions

    def owners(self, sizes: Mapping[str, int], axis: str) -> Indices:
        """The index along an axis of each position; -1 in a block without the axis."""
        if axis not in self.factors:
            return np.full(self.size(sizes), -1, dtype=np.int64)
        inner = Block(self.factors[self.factors.index(axis) + 1 :]).size(sizes)
        return np.arange(self.size(sizes), dtype=np.int64) // inner % sizes[axis]


@dataclass(frozen=True)
class Dimension:
    """Blocks that lie one after the other along one dimension of a tensor."""

    blocks: tuple[Block, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(f for b in self.blocks for f in b.factors if isinstance(f, str))

    def size(self, sizes: Mapping[str, int]) -> int:
        return sum(block.size(sizes) for block in self.blocks)

    def indices(self, sizes: Mapping[str, int], keep: Mapping[str, Indices]) -> Indices | None:
        """Kept positions in the new order; None where the cut does not touch this dimension."""
        if not any(name in keep for name in self.names):
            return None
        parts = []
        offset = 0
        for block in self.blocks:
            parts.append(block.indices(sizes, keep) + offset)
            offset += block.size(sizes)
        return np.concatenate(parts)

    def owners(self, sizes: Mapping[str, int], axis: str) -> Indices:
        """The index along an axis of each position, [size]; -1 in blocks without the axis."""
        return np.concatenate([block.owners(sizes, axis) for block in self.blocks])


@dataclass(frozen=True)
class Dims:
    """All dimensions of a tensor, outermost first."""

    dimensions: tuple[Dimension, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset().union(*(d.names for d in self.dimensions))

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(d.size(sizes) for d in self.dimensions)

    def indices(
        self, sizes: Mapping[str, int], keep: Mapping[str, Indices]
    ) -> tuple[Indices | None, ...]:
        return tuple(d.indices(sizes, keep) for d in self.dimensions)

    def __str__(self) -> str:
        return ", ".join(
            " + ".join("*".join(map(str, b.factors)) for b in d.blocks) for d in self.dimensions
        )


@lru_cache(maxsize=4096)
def parse_dims(text: str) -> Dims:
    """Parse the notation of this module. Raises ValueError where the text is not in it."""

    def factor(word: str) -> str | int:
        word = word.strip()
        if not _FACTOR.fullmatch(word):
            raise ValueError(f"not a factor: {word!r} in {text!r}")
        return int(word) if word.isdigit() else word

    def blocks(dimension: str) -> Sequence[Block]:
        return [Block(tuple(map(factor, b.split("*")))) for b in dimension.split("+")]

    if not text:
        return Dims(())
    return Dims(tuple(Dimension(tuple(blocks(d))) for d in text.split(",")))
