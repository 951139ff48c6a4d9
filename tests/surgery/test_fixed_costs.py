"""Sizes under a budget, where nothing is measured."""

import dataclasses
from collections.abc import Mapping

import pytest

from regrow.architectures import Layout
from regrow.architectures.llama import LLAMA
from regrow.surgery.budget import parameter_budget
from regrow.surgery.fixed_costs import plan_sizes
from tests.tiny import tiny_layout

SMOLLM2: Mapping[str, int] = {
    "layer": 30, "hidden": 576, "ffn": 1_536, "head": 9, "kv_head": 3, "vocab": 49_152,
}  # fmt: skip


def layout(**sizes: int) -> Layout:
    """A Llama with the sizes of SmolLM2-135M, but for those given."""
    tiny = tiny_layout(LLAMA, 1)
    return dataclasses.replace(tiny, sizes={**tiny.sizes, **SMOLLM2, **sizes})


def planned(model: Layout, share: float) -> dict[str, int]:
    return plan_sizes(model, parameter_budget(model, round(share * model.parameters())))


@pytest.mark.parametrize("share", [0.9, 0.75, 0.5])
def test_hidden_stays_while_cheaper_axes_are_left(share: float) -> None:
    """A cut of hidden cost most on each model that was measured, also if it is small."""
    assert planned(layout(), share).keys() <= {"layer", "ffn", "vocab"}


def test_a_larger_vocabulary_loses_a_larger_share() -> None:
    """What is left decides what a vocabulary costs, so a small one stays whole."""
    shares = [planned(layout(vocab=whole), 0.5)["vocab"] / whole for whole in (49_152, 131_072)]
    assert shares[1] < 0.75 * shares[0]
    assert "vocab" not in planned(layout(vocab=4_096), 0.75)
