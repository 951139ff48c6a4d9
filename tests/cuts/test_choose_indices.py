"""The indices with the highest scores are kept."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.architectures import Layout
from regrow.architectures.llama import LLAMA
from regrow.architectures.t5 import T5
from regrow.common.errors import UserError
from regrow.cuts.choose_indices import choose
from regrow.cuts.cut import Cut, check_cut
from tests.cuts.random_cuts import MODEL, TINY, accepted_sizes
from tests.tiny import tiny_layout

LAYOUTS = [tiny_layout(blueprint, number) for blueprint, number in TINY]
LLAMA_TINY = tiny_layout(LLAMA)  # 4 layers, 6 heads on 3 key-value heads, ffn 20


def _scores(
    layout: Layout, rng: np.random.Generator, levels: int, by_layer: bool
) -> dict[str, Any]:
    """Scores with only `levels` different values, so that ties are common."""
    scores = {}
    for axis in layout.blueprint.axes:
        shape: tuple[int, ...] = (layout.sizes[axis.name],)
        if by_layer and axis.along:
            shape = (layout.sizes[axis.along], *shape)
        scores[axis.name] = rng.integers(levels, size=shape) / 4.0
    return scores


@st.composite
def _drawn(draw: st.DrawFn) -> tuple[Layout, dict[str, int], dict[str, Any]]:
    layout = draw(st.sampled_from(LAYOUTS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = _scores(layout, rng, draw(st.sampled_from([1, 3, 1000])), draw(st.booleans()))
    return layout, draw(accepted_sizes(layout)), scores


def _best(scores: list[float], count: int) -> list[int]:
    """By definition: an index is kept if fewer than `count` others beat it."""
    return [
        i
        for i, score in enumerate(scores)
        if sum(s > score or (s == score and j < i) for j, s in enumerate(scores)) < count
    ]


def _expected(
    layout: Layout, sizes: Mapping[str, int], scores: Mapping[str, Any]
) -> dict[str, Any]:
    """The kept indices of each axis: one list, or one list for each kept layer."""
    axes = layout.blueprint.axes
    kept: dict[str, Any] = {
        a.name: _best(scores[a.name].tolist(), sizes[a.name]) for a in axes if a.kind == "layer"
    }
    for axis in axes:
        if axis.kind == "layer":
            continue
        layers = kept[axis.along] if axis.along else [0]
        table = scores[axis.name]
        rows = [(table if table.ndim == 1 else table[layer]).tolist() for layer in layers]
        if axis.groups is None:
            if not any(other.groups == axis.name for other in axes):
                kept[axis.name] = [_best(row, sizes[axis.name]) for row in rows]
            continue
        group = layout.sizes[axis.name] // layout.sizes[axis.groups]
        each = sizes[axis.name] // sizes[axis.groups]
        kept[axis.name], kept[axis.groups] = [], []
        for row in rows:
            groups = [row[i : i + group] for i in range(0, len(row), group)]
            best = _best([sum(g) / group for g in groups], sizes[axis.groups])
            kept[axis.groups].append(best)
            kept[axis.name].append([k * group + i for k in best for i in _best(groups[k], each)])
    return kept


@settings(max_examples=150, deadline=None)
@given(_drawn())
def test_keeps_what_scores_highest(drawn: tuple[Layout, dict[str, int], dict[str, Any]]) -> None:
    layout, sizes, scores = drawn
    cut = choose(layout, MODEL, sizes, scores)
    check_cut(cut, layout, MODEL)
    assert {**layout.sizes, **cut.sizes} == {**layout.sizes, **sizes}
    for name, kept in _expected(layout, sizes, scores).items():
        axis = layout.blueprint.axis(name)
        whole = np.arange(layout.sizes[name])
        found = cut.axes.get(name)
        if axis.kind == "layer":
            assert (whole if found is None else found.keep).tolist() == kept
            continue
        for position, row in enumerate(kept):
            assert (whole if found is None else found.row(position)).tolist() == row


@settings(max_examples=40, deadline=None)
@given(_drawn())
def test_only_the_order_of_scores_matters(
    drawn: tuple[Layout, dict[str, int], dict[str, Any]],
) -> None:
    layout, sizes, scores = drawn
    scaled = {name: values * 8.0 - 3.0 for name, values in scores.items()}
    assert choose(layout, MODEL, sizes, scores) == choose(layout, MODEL, sizes, scaled)


def test_ties_keep_the_lower_index() -> None:
    cut = choose(LLAMA_TINY, MODEL, {"ffn": 3}, {"ffn": np.array([0.0, 1.0] * 10)})
    assert cut.axes["ffn"].keep.tolist() == [1, 3, 5]


def test_an_axis_that_stays_needs_no_score() -> None:
    sizes = {"ffn": 20, "hidden": 24, "layer": 4}
    assert choose(LLAMA_TINY, MODEL, sizes, {}) == Cut(MODEL, {})


def test_each_group_loses_the_same_number() -> None:
    scores = {"head": np.array([9.0, 8.0, 1.0, 2.0, 0.0, 0.1])}
    cut = choose(LLAMA_TINY, MODEL, {"head": 3}, scores)
    assert cut.axes["head"].keep.tolist() == [0, 3, 5]
    assert "kv_head" not in cut.axes


def test_groups_go_whole_by_their_mean() -> None:
    scores = {"head": np.array([9.0, -9.0, 1.0, 1.0, 0.9, 0.9])}
    cut = choose(LLAMA_TINY, MODEL, {"head": 4, "kv_head": 2}, scores)
    assert cut.axes["kv_head"].keep.tolist() == [1, 2]
    assert cut.axes["head"].keep.tolist() == [2, 3, 4, 5]


def test_each_kept_layer_has_its_own_choice() -> None:
    ffn = np.zeros((4, 20))
    for layer in range(4):
        ffn[layer, layer] = 1.0
    scores = {"ffn": ffn, "layer": np.array([0.0, 2.0, 1.0, 3.0])}
    cut = choose(LLAMA_TINY, MODEL, {"ffn": 1, "layer": 2}, scores)
    assert cut.axes["layer"].keep.tolist() == [1, 3]
    assert cut.axes["ffn"].along == "layer"
    assert cut.axes["ffn"].keep.tolist() == [[1], [3]]


def test_given_layers_decide_the_rows() -> None:
    ffn = np.eye(4, 20)
    given = {"layer": np.array([0, 2])}
    cut = choose(LLAMA_TINY, MODEL, {"ffn": 1}, {"ffn": ffn}, given)
    assert cut.axes["layer"].keep.tolist() == [0, 2]
    assert cut.axes["ffn"].keep.tolist() == [[0], [2]]
    check_cut(cut, LLAMA_TINY, MODEL)


def test_position_bias_heads_are_one_choice() -> None:
    layout = tiny_layout(T5)
    names = ("encoder.head", "decoder.head", "decoder.cross_head")
    scores = {name: np.array([0.0, 3.0, 2.0, 1.0]) for name in names[:2]}
    scores[names[2]] = np.eye(4)
    cut = choose(layout, MODEL, dict.fromkeys(names, 1), scores)
    assert cut.axes["decoder.head"].keep.tolist() == [1]
    assert cut.axes["decoder.cross_head"].keep.tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_scores_that_are_not_finite(bad: float) -> None:
    scores = {"ffn": np.zeros((4, 20))}
    scores["ffn"][3, 7] = bad
    with pytest.raises(UserError, match="ffn: a score is NaN or infinite"):
        choose(LLAMA_TINY, MODEL, {"ffn": 3}, scores)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"ffn": 3}, "ffn: no score says"),
        ({"head": 3}, "head: no score says"),
        ({"ffn": 21}, "ffn: 21 is not between 1 and 20"),
        ({"ffn": 0}, "ffn: 0 is not between 1 and 20"),
        ({"hidden": 23}, "18 or 24 would be right"),
        ({"head": 5}, "whole groups of 2"),
        ({"kv_head": 2}, "6 heads on 2 key-value heads cannot be cut from 6 on 3"),
    ],
)
def test_refuses(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(LLAMA_TINY, MODEL, sizes, {})


def test_scores_of_another_shape_are_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match=r"ffn: scores have shape \(3, 20\)"):
        choose(LLAMA_TINY, MODEL, {"ffn": 3}, {"ffn": np.zeros((3, 20))})
