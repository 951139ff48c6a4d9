"""What a search cuts, for each architecture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.architectures import Layout
from regrow.architectures.bart import BART
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.llama import LLAMA
from regrow.architectures.phi3 import PHI3
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.surgery.search.axes import SearchAxis, combined, search_axes
from tests.cuts.random_cuts import TINY
from tests.tiny import tiny_layout

LAYOUTS = [tiny_layout(blueprint, number) for blueprint, number in TINY]


def by_name(layout: Layout, **least: int) -> dict[str, SearchAxis]:
    return {axis.name: axis for axis in search_axes(layout, least)}


@given(st.sampled_from(LAYOUTS))
def test_every_probe_is_accepted_and_smaller(layout: Layout) -> None:
    axes = search_axes(layout)
    assert axes
    for axis in axes:
        assert axis.options[0] == {name: layout.sizes[name] for name in axis.options[0]}
        assert axis.options[-1] == axis.accepted[-1] == axis.probes()[-1]
        shares = [axis.share(option) for option in axis.options]
        assert shares == sorted(shares, reverse=True)
        for probe in axis.probes():
            sizes = combined(layout, [probe])
            layout.check_sizes(sizes)
            assert layout.parameters(sizes) < layout.parameters()
            assert axis.share_of(layout, sizes) == axis.share(probe) < 1


def test_a_decoder_is_cut_along_each_axis() -> None:
    axes = by_name(tiny_layout(LLAMA))
    assert [*axes] == ["hidden", "ffn", "kv_head", "head", "layer"]
    # Hidden is a multiple of the heads; with fewer heads, other sizes are right.
    assert [probe["hidden"] for probe in axes["hidden"].probes()] == [18, 12]
    assert {"hidden": 16} in axes["hidden"].options
    assert [*axes["layer"].options] == [{"layer": 4}, {"layer": 3}, {"layer": 2}]


def test_whole_groups_and_heads_within_groups_are_two_choices() -> None:
    layout = tiny_layout(LLAMA)
    axes = by_name(layout)
    assert axes["kv_head"].options[1] == {"kv_head": 2}
    assert axes["head"].options[1] == {"head": 3}
    both = [axes["kv_head"].options[1], axes["head"].options[1]]
    assert combined(layout, both) == {"kv_head": 2, "head": 2}
    assert axes["head"].share_of(layout, {"kv_head": 2, "head": 2}) == 0.5
    assert axes["kv_head"].share_of(layout, {"kv_head": 2, "head": 2}) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("layout", "name", "smaller"),
    [
        (tiny_layout(GPT_NEOX), "hidden with head", {"hidden": 24, "head": 3}),
        (tiny_layout(PHI3, 1), "hidden with kv_head", {"hidden": 16, "kv_head": 1}),
        (tiny_layout(BART), "hidden with encoder.head and decoder.head",
         {"hidden": 18, "encoder.head": 6, "decoder.head": 3, "decoder.cross_head": 3}),
    ],
)  # fmt: skip
def test_what_is_refused_alone_is_cut_together(
    layout: Layout, name: str, smaller: dict[str, int]
) -> None:
    axes = by_name(layout)
    assert axes[name].accepted[0] == smaller
    assert not {"hidden", "head", "kv_head"} & axes.keys()


def test_stacks_are_cut_apart_where_the_config_can_say_so() -> None:
    assert {"encoder.ffn", "decoder.ffn", "encoder.hidden"} <= by_name(tiny_layout(T5GEMMA)).keys()
    axes = by_name(tiny_layout(T5))
    assert axes["ffn"].options[-1] == {"encoder.ffn": 6, "decoder.ffn": 6}
    assert {"encoder.layer", "decoder.layer"} <= axes.keys()


def test_some_axes_may_not_become_small() -> None:
    axes = by_name(tiny_layout(LLAMA), ffn=20, layer=3)
    assert [*axes] == ["hidden", "kv_head", "head", "layer"]
    assert axes["layer"].options[-1] == {"layer": 3}
