"""The cuts of an analysis are accepted, and remove ever more."""

import pytest

from regrow.architectures import BLUEPRINTS
from regrow.surgery.analysis.points import cut_lines
from regrow.surgery.search.axes import search_axes
from tests.tiny import tiny_layout

BY_TYPE = {blueprint.model_type: blueprint for blueprint in BLUEPRINTS}


@pytest.mark.parametrize("family", [*BY_TYPE])
def test_each_line_removes_ever_more_in_accepted_cuts(family: str) -> None:
    layout = tiny_layout(BY_TYPE[family])
    lines = cut_lines(layout, search_axes(layout), 4)
    assert lines[0].kind == "depth"
    for line in lines:
        parameters = [layout.parameters(cut) for cut in line.cuts]
        assert 0 < len(parameters) <= 4
        assert parameters == sorted(parameters, reverse=True)
        assert len(set(parameters)) == len(parameters)
        assert layout.parameters() * 0.4 <= parameters[-1] < layout.parameters()
        for cut in line.cuts:
            assert layout.size_problem(cut) is None
            assert all(size < layout.sizes[name] for name, size in cut.items())
            kinds = {layout.blueprint.axis(name).kind for name in cut}
            assert (kinds == {"layer"}) == (line.kind == "depth")
            assert "vocab" not in kinds


def test_the_stacks_of_an_encoder_decoder_have_lines_of_their_own() -> None:
    layout = tiny_layout(BY_TYPE["t5gemma"])
    names = [line.name for line in cut_lines(layout, search_axes(layout), 3)]
    assert names[:2] == ["encoder.layer", "decoder.layer"]
    assert {"widths", "encoder widths", "decoder widths"} <= set(names)
    shared = tiny_layout(BY_TYPE["t5"])
    names = [line.name for line in cut_lines(shared, search_axes(shared), 3)]
    assert names == ["encoder.layer", "decoder.layer", "widths"]


def test_all_widths_go_together() -> None:
    layout = tiny_layout(BY_TYPE["llama"], 1)
    lines = cut_lines(layout, search_axes(layout), 3)
    widths = next(each for each in lines if each.kind == "width")
    kept = {name: size / layout.sizes[name] for name, size in widths.cuts[-1].items()}
    assert {"hidden", "ffn"} <= kept.keys()
    assert max(kept.values()) - min(kept.values()) < 0.35
