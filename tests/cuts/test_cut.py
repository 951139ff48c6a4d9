"""A cut is immutable, composes with others, and is printed, saved and checked."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.architectures import Layout
from regrow.architectures.llama import LLAMA
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.common.errors import UserError
from regrow.cuts.cut import AxisCut, Cut, check_cut
from tests.cuts.random_cuts import MODEL, TINY, random_cuts
from tests.tiny import tiny_layout

LAYOUTS = [tiny_layout(blueprint, number) for blueprint, number in TINY]
LLAMA_TINY = tiny_layout(LLAMA)


def _cut(model: str = MODEL, /, **axes: AxisCut) -> Cut:
    return Cut(model, axes)


def _axis(size: int, keep: Any, along: str | None = None) -> AxisCut:
    return AxisCut(size, np.array(keep), along)


# Immutable


def test_cannot_be_changed() -> None:
    keep = np.array([2, 0])
    axes = {"ffn": AxisCut(4, keep)}
    cut = Cut(MODEL, axes)
    before = hash(cut.axes["ffn"])
    keep[0] = 3
    axes["hidden"] = AxisCut(4, np.array([1]))
    assert cut.axes["ffn"].keep.tolist() == [2, 0]
    assert hash(cut.axes["ffn"]) == before
    assert list(cut.axes) == ["ffn"]
    with pytest.raises(ValueError, match="read-only"):
        cut.axes["ffn"].keep[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        cut.axes["ffn"].size = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        cut.axes["hidden"] = axes["hidden"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("size", "keep", "along", "message"),
    [
        (4, [0, 4], None, "outside 0 to 3"),
        (4, [-1], None, "outside 0 to 3"),
        (4, [1, 1], None, "twice"),
        (4, [[0, 1], [2, 2]], "layer", "twice"),
        (4, [], None, "nothing is kept"),
        (4, [[0, 1]], None, "2 dimensions"),
        (4, [0, 1], "layer", "1 dimensions"),
    ],
)
def test_axis_refuses(size: int, keep: Any, along: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AxisCut(size, np.array(keep, dtype=np.int64), along)


def test_equality_is_by_value() -> None:
    assert _axis(4, [0, 2]) == _axis(4, [0, 2])
    assert hash(_axis(4, [0, 2])) == hash(_axis(4, [0, 2]))
    assert _axis(4, [0, 2]) != _axis(4, [2, 0])
    assert _axis(4, [0, 2]) != _axis(5, [0, 2])
    assert _axis(4, [[0, 2]], "a") != _axis(4, [[0, 2]], "b")
    assert _cut(ffn=_axis(4, [0])) == _cut(ffn=_axis(4, [0]))
    assert _cut(ffn=_axis(4, [0])) != _cut("other", ffn=_axis(4, [0]))


# Saved


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LAYOUTS).flatmap(random_cuts))
def test_json_round_trip(cut: Cut) -> None:
    assert Cut.from_json(json.loads(json.dumps(cut.to_json())), "x.json") == cut


def test_file_round_trip(tmp_path: Path) -> None:
    cut = _cut(ffn=_axis(9, [[4, 2], [0, 8]], "layer"), hidden=_axis(4, [3, 1]))
    cut.save(tmp_path / "cut.json")
    assert Cut.load(tmp_path / "cut.json") == cut
    assert [p.name for p in tmp_path.iterdir()] == ["cut.json"]
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        Cut.load(tmp_path / "none.json")
    (tmp_path / "text.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "scores.json").write_text('{"format": 1, "scores": {}}')
    for name in ("text.jsonl", "scores.json", "."):
        with pytest.raises(UserError, match=r"; name a cut, such as the regrow_cut\.json of a "):
            Cut.load_named(tmp_path / name)
        with pytest.raises(UserError) as own:
            Cut.load(tmp_path / name)
        assert "name a cut" not in str(own.value)


_GOOD = {"format": 1, "model": MODEL, "axes": {"ffn": {"size": 4, "keep": "0-2"}}}


def _entry(**entry: Any) -> dict[str, Any]:
    return {**_GOOD, "axes": {"ffn": entry}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "not a cut of format 1"),
        ({**_GOOD, "format": 2}, "not a cut of format 1"),
        ({**_GOOD, "model": 3}, "has the keys"),
        ({**_GOOD, "axes": []}, "has the keys"),
        ({**_GOOD, "axes": {"ffn": "0-3"}}, "axes.ffn: "),
        (_entry(keep="0-2"), "axes.ffn: size"),
        (_entry(size=4), "axes.ffn: keep"),
        (_entry(size="4", keep="0"), "axes.ffn: size"),
        (_entry(size=True, keep="0"), "axes.ffn: size"),
        (_entry(size=10**30, keep="0"), "axes.ffn: size"),
        (_entry(size=10**12, keep="0-99999999999"), "axes.ffn: size"),
        (_entry(size=4, keep=""), "axes.ffn: nothing is kept"),
        (_entry(size=4, keep="0-4"), "axes.ffn: '0-4' lies beyond 3"),
        (_entry(size=4, keep="1,1"), "axes.ffn: an index is kept twice"),
        (_entry(size=4, keep=[0, 1]), "axes.ffn: keep"),
        (_entry(size=4, along="layer", keep="01"), "axes.ffn: keep"),
        (_entry(size=4, along="layer", keep=[]), "axes.ffn: keep"),
        (_entry(size=4, along="layer", keep=["0", 1]), "axes.ffn: keep"),
        (_entry(size=4, along="layer", keep=["0", "0-1"]), "axes.ffn: keep"),
        (_entry(size=4, along=[], keep=["0", "1"]), "axes.ffn: along"),
        (_entry(size=4, along=5, keep=["0", "1"]), "axes.ffn: along"),
    ],
)
def test_from_json_refuses(data: Any, message: str) -> None:
    assert Cut.from_json(_GOOD, "x.json").axes["ffn"] == _axis(4, [0, 1, 2])
    with pytest.raises(UserError, match=message) as error:
        Cut.from_json(data, "x.json")
    assert str(error.value).startswith("x.json: ")


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["0-3", "0", "0-99999999999", "layer", "1,0"]),
)  # fmt: skip
_junk = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(deadline=None)
@given(_junk, _junk, _junk, _junk, st.sampled_from(["data", "model", "axes", "entry", "keys"]))
def test_from_json_never_raises_another_error(a: Any, b: Any, c: Any, d: Any, where: str) -> None:
    data: Any = {
        "data": a,
        "model": {"format": 1, "model": a, "axes": {}},
        "axes": {"format": 1, "model": "m", "axes": a},
        "entry": {"format": 1, "model": "m", "axes": {"ffn": a}},
        "keys": {
            "format": 1, "model": "m",
            "axes": {"ffn": {"size": b if d else 7, "along": c, "keep": a}},
        },
    }[where]  # fmt: skip
    try:
        cut = Cut.from_json(data, "x.json")
    except UserError as error:
        assert str(error).startswith("x.json: ")  # noqa: PT017
    else:
        assert Cut.from_json(cut.to_json(), "x.json") == cut
        assert isinstance(hash(tuple(cut.axes.values())), int)


# Composed


def _after(layout: Layout, cut: Cut) -> Layout:
    """A layout with the sizes of the cut model; enough to draw and check a second cut."""
    return dataclasses.replace(layout, sizes={**layout.sizes, **cut.sizes})


def _apply(layout: Layout, cut: Cut) -> dict[str, Any]:
    """The kept original indices of each axis, in each kept layer if it lies along layers."""
    kept: dict[str, Any] = {}
    for axis in layout.blueprint.axes:
        whole = np.arange(layout.sizes[axis.name])
        part = cut.axes.get(axis.name)
        if axis.along is None:
            kept[axis.name] = (whole if part is None else part.keep).tolist()
            continue
        layers = cut.layers(axis.along, layout.sizes[axis.along])
        kept[axis.name] = {
            position: (whole if part is None else part.row(position)).tolist()
            for position in range(len(layers))
        }
    return kept


@st.composite
def _chains(draw: st.DrawFn, length: int) -> tuple[Layout, list[Cut]]:
    layout = now = draw(st.sampled_from(LAYOUTS))
    cuts = []
    for _ in range(length):
        cuts.append(draw(random_cuts(now)))
        now = _after(now, cuts[-1])
    return layout, cuts


@settings(max_examples=80, deadline=None)
@given(_chains(2))
def test_composed_cut_keeps_what_two_cuts_keep(drawn: tuple[Layout, list[Cut]]) -> None:
    layout, (first, second) = drawn
    once, then = _apply(layout, first), _apply(_after(layout, first), second)
    expected: dict[str, Any] = {}
    for axis in layout.blueprint.axes:
        if axis.along is None:
            expected[axis.name] = [once[axis.name][i] for i in then[axis.name]]
        else:
            layers = then[axis.along]
            expected[axis.name] = {
                row: [once[axis.name][layers[row]][i] for i in kept]
                for row, kept in then[axis.name].items()
            }
    both = first.then(second)
    assert _apply(layout, both) == expected
    assert both.sizes == {**first.sizes, **second.sizes}
    # Fewer queries in each group, then fewer groups: two steps that no single cut may take.
    if (problem := layout.size_problem(both.sizes)) is None:
        check_cut(both, layout, MODEL)
    else:
        assert "key-value heads cannot be cut" in problem.message


@settings(max_examples=80, deadline=None)
@given(_chains(3))
def test_composition_is_associative(drawn: tuple[Layout, list[Cut]]) -> None:
    _, (a, b, c) = drawn
    assert a.then(b).then(c) == a.then(b.then(c))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(LAYOUTS).flatmap(lambda layout: st.tuples(st.just(layout), random_cuts(layout)))
)
def test_identity_is_neutral(drawn: tuple[Layout, Cut]) -> None:
    layout, cut = drawn
    nothing = Cut(MODEL, {})
    assert nothing.then(cut) == cut
    assert cut.then(nothing) == cut
    after = _after(layout, cut)
    whole = Cut(MODEL, {n: _axis(after.sizes[n], range(after.sizes[n])) for n in cut.axes})
    assert whole.is_identity
    assert cut.then(whole) == cut


def test_sizes_that_do_not_meet_are_refused() -> None:
    with pytest.raises(UserError, match="axis ffn: the second cut is for size 3, not 2"):
        _cut(ffn=_axis(4, [0, 1])).then(_cut(ffn=_axis(3, [0])))


# Read


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({}, "nothing is cut"),
        ({"hidden": _axis(3, [0, 1, 2])}, "nothing is cut"),
        (
            {"vocab": _axis(50_000, range(2_000)), "layer": _axis(6, [0, 1, 4]),
             "hidden": _axis(4096, range(2560)), "head": _axis(8, [0, 1, 2, 3])},
            "6 -> 3 layers (without 2-3,5), hidden 4,096 -> 2,560, heads 8 -> 4, "
            "vocabulary 50,000 -> 2,000",
        ),
        (
            {"decoder.ffn": _axis(5, [0]), "encoder.layer": _axis(3, [1, 2]),
             "decoder.cross_head": _axis(5, [0])},
            "decoder ffn 5 -> 1, cross-attention heads 5 -> 1; encoder 3 -> 2 layers (without 0)",
        ),
        ({"layer": _axis(3, [2, 1, 0])}, "3 layers in another order"),
        ({"hidden": _axis(3, [2, 1, 0])}, "hidden in another order"),
    ],
)  # fmt: skip
def test_words(axes: Mapping[str, AxisCut], words: str) -> None:
    assert Cut(MODEL, axes).words() == words


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(LAYOUTS).flatmap(random_cuts))
def test_words_are_one_line(cut: Cut) -> None:
    assert cut.words()
    assert "\n" not in cut.words()
    assert "()" not in cut.words()
    assert "without )" not in cut.words()


# Checked


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(LAYOUTS).flatmap(lambda layout: st.tuples(st.just(layout), random_cuts(layout)))
)
def test_valid_cuts_pass(drawn: tuple[Layout, Cut]) -> None:
    layout, cut = drawn
    check_cut(cut, layout, MODEL)


LLAMA_REFUSED: dict[str, tuple[dict[str, AxisCut], str]] = {
    "unknown axis": ({"width": _axis(4, [0])}, "axis width: llama has vocab, hidden"),
    "wrong size": ({"ffn": _axis(21, [0])}, "axis ffn: made for size 21, the model has 20"),
    "one choice for all": (
        {"hidden": _axis(24, [range(12)] * 4, "layer")},
        "axis hidden: one choice serves all layers in llama",
    ),
    "along another axis": (
        {"ffn": _axis(20, [[0]] * 4, "hidden")},
        "axis ffn: one choice serves all layers",
    ),
    "rows": ({"ffn": _axis(20, [[0]] * 3, "layer")}, "axis ffn: 3 rows for 4 kept layers"),
    "rows after layers": (
        {"ffn": _axis(20, [[0]] * 4, "layer"), "layer": _axis(4, [0, 1, 2])},
        "axis ffn: 4 rows for 3 kept layers",
    ),
    "hidden": ({"hidden": _axis(24, range(10))}, "6 or 12 would be right"),
    "key-value heads alone": ({"kv_head": _axis(3, [0])}, "whole groups of 2"),
    "a ratio in between": (
        {"head": _axis(6, [0, 1, 2, 3, 4]), "kv_head": _axis(3, [0, 1, 2])},
        "5 heads on 3 key-value heads",
    ),
    # Two from group 0, none from group 2: the counts are right and the groups are not.
    "head of a dropped group": (
        {"head": _axis(6, [0, 1, 2])}, "lose its key-value head",
    ),
    "groups in another order": (
        {"head": _axis(6, [2, 3, 0, 1]), "kv_head": _axis(3, [0, 1])}, "lose its key-value head",
    ),
    "other groups": (
        {"head": _axis(6, [0, 1, 2, 3]), "kv_head": _axis(3, [0, 2])}, "lose its key-value head",
    ),
    "in one layer only": (
        {"head": _axis(6, [[0, 2, 4], [1, 3, 5], [0, 1, 4], [0, 2, 5]], "layer")},
        r"lose its key-value head \(layer 2 of the result\)",
    ),
    "only key-value heads by layer": (
        {"head": _axis(6, [0, 1]), "kv_head": _axis(3, [[0], [0], [0], [1]], "layer")},
        r"lose its key-value head \(layer 3 of the result\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("axes", "message"), LLAMA_REFUSED.values(), ids=LLAMA_REFUSED.keys())
def test_check_refuses(axes: Mapping[str, AxisCut], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_cut(Cut(MODEL, axes), LLAMA_TINY, MODEL)
    assert "\n" not in str(error.value)


def test_check_refuses_another_model() -> None:
    with pytest.raises(UserError, match="made for model sha256:aaaa"):
        check_cut(Cut("sha256:" + "a" * 64, {}), LLAMA_TINY, MODEL)


def test_check_refuses_key_value_heads_in_another_order() -> None:
    with pytest.raises(UserError, match="lose its key-value head"):
        check_cut(_cut(kv_head=_axis(3, [2, 1, 0])), LLAMA_TINY, MODEL)


def test_stacks_that_share_a_field_are_cut_alike() -> None:
    cut = Cut(MODEL, {"encoder.ffn": _axis(20, range(10))})
    with pytest.raises(UserError, match=r"encoder.ffn 10, decoder.ffn 20: .* d_ff; cut them alike"):
        check_cut(cut, tiny_layout(T5), MODEL)


def test_stacks_with_fields_of_their_own_are_not() -> None:
    cut = Cut(MODEL, {"encoder.ffn": _axis(20, range(10))})
    check_cut(cut, tiny_layout(T5GEMMA), MODEL)


def test_position_bias_heads_are_one_choice() -> None:
    heads = {n: _axis(4, [0, 1]) for n in ("encoder.head", "decoder.cross_head")}
    by_layer = _axis(4, [[0, 1]] * 4, "decoder.layer")
    with pytest.raises(UserError, match=r"axis decoder\.head: one choice serves all layers in t5"):
        check_cut(Cut(MODEL, {**heads, "decoder.head": by_layer}), tiny_layout(T5), MODEL)
    cross = {**heads, "decoder.head": _axis(4, [0, 1]), "decoder.cross_head": by_layer}
    check_cut(Cut(MODEL, cross), tiny_layout(T5), MODEL)
