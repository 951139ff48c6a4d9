"""The time of a token, as a sum over layers and parts."""

import numpy as np
import pytest

from regrow.architectures import Layout
from regrow.architectures.llama import LLAMA
from regrow.architectures.t5 import T5
from regrow.surgery.search.axes import search_axes
from regrow.surgery.search.speed import fit_speed
from tests.tiny import tiny_layout


def planted(layout: Layout, sizes: dict[str, int]) -> float:
    """A tenth of a second, and for each layer a constant and its parameters."""
    parts = layout.parameters_by_part(sizes)
    layers = {**layout.sizes, **sizes}["layer"]
    in_layers = parts["attention"] + parts["ffn"] + parts["norms"]
    return 0.1 + 0.02 * layers + 1e-5 * in_layers


def test_planted_times_are_predicted() -> None:
    layout = tiny_layout(LLAMA)
    cuts = [dict(axis.probes()[-1]) for axis in search_axes(layout)]
    times = [(sizes, planted(layout, sizes)) for sizes in [{}, *cuts]]
    model = fit_speed(layout, times)
    assert (model.seconds >= 0).all()
    assert model.at({}) == pytest.approx(times[0][1], rel=1e-3)
    both = {"layer": 3, "ffn": 10}
    assert model.at(both) == pytest.approx(planted(layout, both), rel=1e-3)
    arrays = {name: np.array([size, layout.sizes[name]]) for name, size in both.items()}
    assert model.at(arrays).tolist() == pytest.approx([model.at(both), model.at({})])


def test_noise_makes_no_part_negative() -> None:
    layout = tiny_layout(T5)
    rng = np.random.default_rng(0)
    cuts = [dict(axis.probes()[-1]) for axis in search_axes(layout)]
    for _ in range(20):
        times = [(sizes, float(rng.uniform(0.9, 1.1))) for sizes in [{}, *cuts]]
        model = fit_speed(layout, times)
        assert (model.seconds >= 0).all()
        assert model.at({}) == pytest.approx(1, abs=0.15)
