"""The notation of dimensions: read, printed, and what is kept of fused ones."""

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.architectures.dims import Block, Dimension, Dims, Indices, parse_dims

NAMES = ("head", "head_dim", "ffn", "decoder.cross_head", "vocab")

factors = st.one_of(st.sampled_from(NAMES), st.integers(1, 5))
blocks = st.lists(factors, min_size=1, max_size=3).map(lambda f: Block(tuple(f)))
dimensions = st.lists(blocks, min_size=1, max_size=3).map(lambda b: Dimension(tuple(b)))
all_dims = st.lists(dimensions, min_size=1, max_size=3).map(lambda d: Dims(tuple(d)))


@st.composite
def sizes_and_keep(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, Indices]]:
    sizes = {name: draw(st.integers(1, 5)) for name in NAMES}
    keep = {
        name: np.array(draw(st.permutations(range(size)))[: draw(st.integers(1, size))])
        for name, size in sizes.items()
        if draw(st.booleans())
    }
    return sizes, keep


@settings(deadline=None)
@given(all_dims)
def test_prints_what_it_reads(dims: Dims) -> None:
    assert parse_dims(str(dims)) == dims
    assert parse_dims(str(dims).replace(" ", "")) == dims


@pytest.mark.parametrize(
    "text",
    ["hidden,", ", hidden", "head**head_dim", "ffn + ", "Hidden", "ffn-ffn", "a.b.c", "a .b",
     "head*(3)", "1.5", "-1", "head * head dim"],
)  # fmt: skip
def test_refuses_what_is_no_dimension(text: str) -> None:
    with pytest.raises(ValueError, match="not a factor"):
        parse_dims(text)


def _coordinates(block: Block, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
    """The coordinate along each factor of every position of an uncut block, in order."""
    ranges = [range(f if isinstance(f, int) else sizes[f]) for f in block.factors]
    return list(itertools.product(*ranges))


def _expected(
    dimension: Dimension, sizes: Mapping[str, int], keep: Mapping[str, Indices]
) -> list[int]:
    """By definition: look every kept combination of coordinates up in the uncut dimension."""
    uncut = [(i, c) for i, b in enumerate(dimension.blocks) for c in _coordinates(b, sizes)]
    where = {place: position for position, place in enumerate(uncut)}
    kept = []
    for i, block in enumerate(dimension.blocks):
        choices = [
            range(f) if isinstance(f, int) else keep.get(f, range(sizes[f])) for f in block.factors
        ]
        kept += [where[i, tuple(map(int, c))] for c in itertools.product(*choices)]
    return kept


@settings(deadline=None)
@given(all_dims, sizes_and_keep())
def test_indices_of_fused_dimensions(
    dims: Dims, drawn: tuple[dict[str, int], dict[str, Indices]]
) -> None:
    sizes, keep = drawn
    new_sizes = {**sizes, **{name: len(kept) for name, kept in keep.items()}}
    found = dims.indices(sizes, keep)
    for dimension, indices, old, new in zip(
        dims.dimensions, found, dims.shape(sizes), dims.shape(new_sizes), strict=True
    ):
        if indices is None:
            assert not dimension.names & keep.keys()
            assert old == new
            continue
        assert indices.tolist() == _expected(dimension, sizes, keep)
        assert len(indices) == new
        assert len(set(indices.tolist())) == new


def test_query_key_value_of_each_head() -> None:
    """GPT-NeoX lays out [head, (q, k, v), head_dim]; checked on an array of such coordinates."""
    rows = np.array([(h, part, d) for h in range(4) for part in range(3) for d in range(5)])
    keep = {"head": np.array([3, 1])}
    (kept,) = parse_dims("head*3*head_dim").indices({"head": 4, "head_dim": 5}, keep)
    assert kept is not None
    assert rows[kept][:, 0].tolist() == [3] * 15 + [1] * 15
    assert rows[kept][:, 1].tolist() == ([0] * 5 + [1] * 5 + [2] * 5) * 2


def test_blocks_of_one_matrix() -> None:
    """Phi-3 lays out all queries, then all keys, then all values."""
    dims = parse_dims("head*head_dim + kv_head*head_dim + kv_head*head_dim, hidden")
    sizes = {"head": 4, "kv_head": 2, "head_dim": 2, "hidden": 3}
    assert dims.shape(sizes) == (16, 3)
    keep = {"head": np.array([2, 3]), "kv_head": np.array([1])}
    rows, columns = dims.indices(sizes, keep)
    assert rows is not None
    assert rows.tolist() == [4, 5, 6, 7, 10, 11, 14, 15]
    assert columns is None


def test_owners_are_what_indices_keep() -> None:
    sizes = {"head": 4, "kv_head": 2, "head_dim": 3, "hidden": 5}
    for text in (
        "head*3*head_dim",
        "head_dim*head",
        "head*head_dim + kv_head*head_dim",
        "2 + head",
    ):
        (dimension,) = parse_dims(text).dimensions
        owners = dimension.owners(sizes, "head")
        assert len(owners) == dimension.size(sizes)
        for index in range(4):
            kept = dimension.indices(sizes, {"head": np.array([index])})
            assert kept is not None
            assert set(kept[owners[kept] >= 0]) == set(np.flatnonzero(owners == index))
    (dimension,) = parse_dims("kv_head*head_dim").dimensions
    assert (dimension.owners(sizes, "head") == -1).all()
