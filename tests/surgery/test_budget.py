"""Budgets count exactly what a cut leaves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from regrow.architectures import Blueprint, Layout
from regrow.architectures.bart import BART
from regrow.architectures.llama import LLAMA
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.surgery.budget import byte_budget, parameter_budget
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prepare_cut
from tests.cuts.random_cuts import TINY, accepted_sizes
from tests.tiny import tiny_layout, write_tiny

LAYOUTS = [tiny_layout(blueprint, number) for blueprint, number in TINY]


@settings(max_examples=20, deadline=None)
@given(st.data(), st.sampled_from(LAYOUTS))
def test_parameters_are_those_of_the_layout(data: st.DataObject, layout: Layout) -> None:
    drawn = [data.draw(accepted_sizes(layout)) for _ in range(3)]
    budget = parameter_budget(layout, 1)
    counted = [layout.parameters(sizes) for sizes in drawn]
    assert [budget.amount(sizes) for sizes in drawn] == counted
    arrays = {name: np.array([sizes[name] for sizes in drawn]) for name in drawn[0]}
    before = {name: each.copy() for name, each in arrays.items()}
    assert budget.amount(arrays).tolist() == counted
    assert all((arrays[name] == before[name]).all() for name in arrays)


@pytest.mark.parametrize(
    ("blueprint", "options", "sizes"),
    [
        (LLAMA, {"ffn": 8, "layers": 2}, {"ffn": 8, "layer": 2}),
        (T5, {"heads": 2}, {"encoder.head": 2, "decoder.head": 2, "decoder.cross_head": 2}),
        (BART, {"layers": {"encoder": 2}}, {"encoder.layer": 2}),
    ],
    ids=["llama", "t5", "bart"],
)
def test_bytes_are_those_that_a_cut_writes(
    tmp_path: Path, blueprint: Blueprint, options: dict[str, int], sizes: dict[str, int]
) -> None:
    directory = write_tiny(blueprint, tmp_path / "m")
    # As in many checkpoints, not all tensors have one dtype.
    state = load_file(directory / "model.safetensors")
    half = {n: t.to(torch.bfloat16) if "norm" in n.lower() else t for n, t in state.items()}
    save_file(half, directory / "model.safetensors", metadata={"format": "pt"})
    model = ModelDirectory(directory)
    budget = byte_budget(model, 1)
    planned = prepare_cut(model, CutSpec(**options, by="random"))
    assert budget.amount(sizes) == planned.carving.weight_bytes
    assert budget.amount({}) == model.weight_bytes


def test_a_config_alone_has_the_bytes_of_its_dtype(tmp_path: Path) -> None:
    directory = write_tiny(LLAMA, tmp_path / "m", dtype=torch.bfloat16)
    stored = byte_budget(ModelDirectory(directory), 1).amount({"ffn": 8})
    (directory / "model.safetensors").unlink()
    assert byte_budget(ModelDirectory(directory), 1).amount({"ffn": 8}) == stored


def test_a_model_that_is_small_enough_needs_no_plan() -> None:
    layout = tiny_layout(LLAMA)
    whole = layout.parameters()
    parameter_budget(layout, whole - 1).check()
    with pytest.raises(UserError, match=f"^params {whole:,}: the model has {whole:,} parameters"):
        parameter_budget(layout, whole).check()
