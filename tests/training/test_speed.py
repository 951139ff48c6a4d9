"""The speed of a training, tried on a few layers."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from regrow.architectures import Blueprint
from regrow.architectures.flops import SampleShape, forward_flops, training_flops
from regrow.architectures.llama import LLAMA
from regrow.architectures.t5 import T5
from regrow.training import speed
from regrow.training.settings import RecoverySettings
from regrow.training.speed import Speed, measure_speed
from tests.cuts.random_cuts import TINY, TINY_IDS
from tests.tiny import tiny_layout

SETTINGS = RecoverySettings(tokens=1_000, row_length=32)
CPU = torch.device("cpu")


def test_seconds_follow_from_rates() -> None:
    layout, sample = tiny_layout(LLAMA), SampleShape(32, decoder=32)
    flops = training_flops(layout, sample, 3_200)
    assert Speed(1e6, 1e6).seconds(layout, sample, 3_200) == pytest.approx(flops / 1e6)
    head = 3 * forward_flops(layout, sample).head * 100
    assert Speed(1e6, 2e6).seconds(layout, sample, 3_200) == pytest.approx(
        (flops - head) / 1e6 + head / 2e6
    )
    taught = Speed(1e6, 1e6).seconds(layout, sample, 3_200, teacher=layout)
    assert taught == pytest.approx(flops * 4 / 3 / 1e6)


@pytest.mark.parametrize("blueprint", [LLAMA, T5], ids=["decoder", "encoder-decoder"])
def test_rates_of_layers_and_head_are_told_apart(
    blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times of passes are made of known rates, which are found again."""
    original = tiny_layout(blueprint)
    depths = []

    def passed(config: Any, sample: SampleShape, *_: object) -> float:
        depths.append(config.num_hidden_layers)
        axes = [axis.name for axis in original.blueprint.axes if axis.kind == "layer"]
        found = forward_flops(original.resized(dict.fromkeys(axes, depths[-1])), sample)
        return 3 * ((found.total - found.head) / 5e6 + found.head / 3e6)

    monkeypatch.setattr(speed, "_seconds_of_a_pass", passed)
    found = measure_speed(original, original.sizes, SETTINGS)
    assert found.layers == pytest.approx(5e6)
    assert found.head == pytest.approx(3e6)
    assert found.tried
    assert depths == [1, 3]


@pytest.mark.parametrize(("blueprint", "number"), TINY, ids=TINY_IDS)
def test_layers_of_every_family_can_be_tried(blueprint: Blueprint, number: int) -> None:
    layout = tiny_layout(blueprint, number)
    before = torch.random.get_rng_state()
    sizes: Mapping[str, int] = layout.sizes
    found = measure_speed(layout, sizes, SETTINGS)
    assert found.tried
    assert min(found.layers, found.head) > 0
    assert torch.equal(before, torch.random.get_rng_state())


def test_products_stand_for_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SIDE", 64)
    monkeypatch.setattr(speed, "available_memory", lambda: 1_000)
    layout = tiny_layout(LLAMA)
    found = measure_speed(layout, layout.sizes, SETTINGS)
    assert not found.tried
    assert found.layers == found.head > 0


def test_what_takes_too_long_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SIDE", 64)
    monkeypatch.setattr(speed, "_MOST_FLOPS", 1.0)
    layout = tiny_layout(LLAMA)
    assert not measure_speed(layout, layout.sizes, SETTINGS).tried


def test_of_a_very_long_row_a_part_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, lengths = tiny_layout(LLAMA), []

    def noted(_: object, sample: SampleShape, *__: object) -> float:
        lengths.append(sample.decoder)
        return 1.0 + len(lengths)

    monkeypatch.setattr(speed, "_seconds_of_a_pass", noted)
    long = SETTINGS.model_copy(update={"row_length": 100_000})
    assert measure_speed(layout, layout.sizes, long).tried
    assert lengths == [4_096, 4_096]
