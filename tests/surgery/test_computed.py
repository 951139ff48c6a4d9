"""Computed tensors are written in blocks, also as corrections of carved ones."""

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import regrow.surgery.carve as carving
from regrow.architectures import Blueprint
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.llama import LLAMA
from regrow.checkpoint.header import TensorSpec
from regrow.checkpoint.reader import open_checkpoint, read_tensor
from regrow.common.errors import UserError
from regrow.cuts.cut import Cut
from regrow.surgery.carve import CarvePlan, carve
from regrow.surgery.computed import Computed, stream_computed
from tests.cuts.random_cuts import MODEL, TINY, random_cuts
from tests.surgery.carving import LARGE, axis_cut, carved, opened, planned, raw
from tests.tiny import write_tiny

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAME = "model.layers.0.mlp.down_proj.weight"


def of_array(values: NDArray[Any]) -> Computed:
    return Computed(values.shape, lambda first, last: values[first:last])


def blocks(computed: Computed, dtype: str, buffer_bytes: int) -> list[bytes]:
    def buffers() -> Iterator[bytearray]:
        while True:
            yield bytearray(b"\xff" * buffer_bytes)

    spec = TensorSpec("t", dtype, computed.shape)
    return [bytes(block) for block in stream_computed(computed, spec, buffers())]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
    st.sampled_from([*DTYPES]),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([8, 24, 64, 1 << 16]),
    st.integers(0, 2**32 - 1),
)
def test_blocks_are_the_values_rounded(
    shape: list[int], dtype: str, given: type[Any], buffer_bytes: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=shape).astype(given)
    want = (
        torch.from_numpy(values.astype(np.float16))  # torch goes through single
        if dtype == "F16"
        else torch.from_numpy(values).to(DTYPES[dtype])
    )
    found = blocks(of_array(values), dtype, buffer_bytes)
    assert b"".join(found) == raw(want)
    assert max(map(len, found)) <= max(buffer_bytes, want.nbytes // shape[0])


def test_rows_need_not_be_contiguous() -> None:
    values = np.arange(12, dtype=np.float64).reshape(3, 4)
    shown = np.broadcast_to(values[0], (5, 4))
    assert b"".join(blocks(of_array(shown), "BF16", 16)) == raw(
        torch.from_numpy(shown.copy()).to(torch.bfloat16)
    )
    assert b"".join(blocks(of_array(values.T), "F32", 16)) == raw(
        torch.from_numpy(values.T.copy()).float()
    )


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, 1e39])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_is_not_finite_is_refused(dtype: str, value: float) -> None:
    values = np.ones((4, 3))
    values[2, 1] = value
    if np.isnan(value):
        values.view(np.uint64)[2, 1] |= (1 << 52) - 1  # all bits: must not round to zero
    with pytest.raises(UserError, match="t: a computed weight is NaN, infinite or too large"):
        blocks(of_array(values), dtype, 8)


def test_rows_of_another_shape_are_refused() -> None:
    wrong = Computed((4, 3), lambda first, last: np.zeros((last - first, 2)))
    with pytest.raises(ValueError, match=r"t: rows 0 to 1 have shape \[2, 2\], not \[2, 3\]"):
        blocks(wrong, "F32", 24)


# Corrections


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    base = tmp_path_factory.mktemp("sources")

    def source(blueprint: Blueprint, number: int = 0, dtype: torch.dtype = torch.float32) -> Path:
        path = base / f"{blueprint.model_type}-{number}-{dtype!s}"
        return path if path.exists() else write_tiny(blueprint, path, number, dtype)

    return source


def with_corrections(
    source: Path, cut: Cut, corrections: dict[str, Computed], limit: int = LARGE
) -> CarvePlan:
    checkpoint, layout = opened(source)
    config = planned(source, cut).config
    plan = carving.plan_carve(checkpoint, layout, cut, config, {}, limit)
    return carving.with_corrections(plan, layout, corrections)


def of_directory(directory: Path, plan: CarvePlan) -> dict[str, Computed]:
    """Each parameter of a plan as a computed tensor, read from the directory of the result."""
    infos = open_checkpoint(directory).tensors

    def read(name: str) -> Computed:
        info = infos[name]
        return Computed(
            info.shape,
            lambda first, last: read_tensor(info, first, last - first).astype(np.float64),
        )

    return {output.parameter: read(output.name) for output in plan.outputs}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TINY), st.sampled_from([*DTYPES.values()]), st.data())
def test_corrections_by_the_carved_values_change_nothing(
    sources: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    family: tuple[Blueprint, int],
    dtype: torch.dtype,
    data: st.DataObject,
) -> None:
    source = sources(*family, dtype)
    cut = data.draw(random_cuts(opened(source)[1]))
    limit = data.draw(st.sampled_from([1, 3_000, LARGE]))
    base = tmp_path_factory.mktemp("corrected")
    plan = planned(source, cut, limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carving, "BUFFER_BYTES", data.draw(st.sampled_from([8, 64, 1 << 15])))
        carve(plan, base / "carved")
        corrections = of_directory(base / "carved", plan)
        tied = opened(source)[1].blueprint.head
        shared = {tied.embedding, tied.weight, *tied.aliases}
        chosen = {
            name: each
            for name, each in corrections.items()
            if name in shared or data.draw(st.booleans())
        }
        carve(with_corrections(source, cut, chosen, limit), base / "corrected")
    names = sorted(path.name for path in (base / "carved").iterdir())
    assert names == sorted(path.name for path in (base / "corrected").iterdir())
    for name in names:
        assert (base / "carved" / name).read_bytes() == (base / "corrected" / name).read_bytes()


def test_a_correction_takes_the_place_of_one_tensor(
    sources: Callable[..., Path], tmp_path: Path
) -> None:
    source = sources(LLAMA)
    cut = Cut(MODEL, {"ffn": axis_cut(opened(source)[1].sizes["ffn"], range(5))})
    before = load_file(carved(source, tmp_path / "plain", cut) / "model.safetensors")
    values = np.random.default_rng(0).normal(size=before[NAME].shape)
    carve(with_corrections(source, cut, {NAME: of_array(values)}), tmp_path / "out")
    after = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(after.pop(NAME), torch.from_numpy(values).float())
    del before[NAME]
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_name_is_that_in_the_result(sources: Callable[..., Path], tmp_path: Path) -> None:
    """If the first layer is dropped, layer 0 of the result was layer 1."""
    source = sources(LLAMA)
    layers = opened(source)[1].sizes["layer"]
    cut = Cut(MODEL, {"layer": axis_cut(layers, range(1, layers))})
    last = f"model.layers.{layers - 1}.mlp.down_proj.weight"
    shape = planned(source, cut).shapes[NAME]
    carve(with_corrections(source, cut, {NAME: of_array(np.zeros(shape))}), tmp_path / "out")
    assert not load_file(tmp_path / "out/model.safetensors")[NAME].any()
    with pytest.raises(ValueError, match=f"{last}: a correction of a tensor that the cut does not"):
        with_corrections(source, cut, {last: of_array(np.zeros(shape))})


def test_corrections_that_do_not_fit_are_refused(sources: Callable[..., Path]) -> None:
    source = sources(LLAMA)
    nothing = Cut(MODEL, {})
    with pytest.raises(ValueError, match=r"down_proj.weight: the correction has shape \[2, 2\]"):
        with_corrections(source, nothing, {NAME: of_array(np.zeros((2, 2)))})
    with pytest.raises(ValueError, match=r"none: a correction of a tensor"):
        with_corrections(source, nothing, {"none": of_array(np.zeros((2, 2)))})


def test_whole_numbers_cannot_be_corrected(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    state = load_file(source / "model.safetensors")
    save_file({**state, NAME: state[NAME].long()}, source / "model.safetensors")
    shape = tuple(state[NAME].shape)
    with pytest.raises(ValueError, match="a correction of a tensor of type I64"):
        with_corrections(source, Cut(MODEL, {}), {NAME: of_array(np.zeros(shape))})


def test_tied_tensors_are_corrected_together(tmp_path: Path) -> None:
    source = write_tiny(GEMMA2, tmp_path / "in")
    state = load_file(source / "model.safetensors")
    embedding = state["model.embed_tokens.weight"]
    save_file({**state, "lm_head.weight": embedding.clone()}, source / "model.safetensors")
    zeros = of_array(np.zeros(embedding.shape))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        with pytest.raises(ValueError, match=r"lm_head.weight, model.embed_tokens.weight: tied"):
            with_corrections(source, Cut(MODEL, {}), {name: zeros})
    both = {"model.embed_tokens.weight": zeros, "lm_head.weight": zeros}
    carve(with_corrections(source, Cut(MODEL, {}), both), tmp_path / "out")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_correction_that_fails_leaves_nothing(
    sources: Callable[..., Path], tmp_path: Path, error: type[BaseException]
) -> None:
    def rows(first: int, last: int) -> NDArray[np.float64]:
        raise error("no rows")

    source = sources(LLAMA)
    shape = planned(source, Cut(MODEL, {})).shapes[NAME]
    plan = with_corrections(source, Cut(MODEL, {}), {NAME: Computed(shape, rows)})
    with pytest.raises(error, match="no rows"):
        carve(plan, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 MB of corrections through buffers of 64 KB."""
    source = write_tiny(LLAMA, tmp_path / "in")
    plan = planned(source, Cut(MODEL, {}))
    (shard,) = plan.shards
    large = Computed((1 << 17, 64), lambda first, last: np.ones((last - first, 64)))
    outputs = tuple(
        replace(output, content=large) if output.name == NAME else output
        for output in shard.outputs
    )
    monkeypatch.setattr(carving, "BUFFER_BYTES", 1 << 16)
    tracemalloc.start()
    try:
        carve(replace(plan, shards=(replace(shard, outputs=outputs),)), tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert load_file(tmp_path / "out/model.safetensors")[NAME].shape == large.shape
