"""The kept elements of one stored tensor are read in blocks."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file

from regrow.checkpoint.header import TensorInfo, read_header
from regrow.common.errors import UserError
from regrow.cuts.kept import Scaling
from regrow.surgery.kept_bytes import Selection, stream
from tests.surgery.carving import raw

Keep = tuple[NDArray[np.int64] | None, ...]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("select") / "t.safetensors"


def _stored(file: Path, tensor: torch.Tensor) -> TensorInfo:
    """Store the tensor after another one, so that it does not begin where the data begins."""
    save_file({"a": torch.zeros(3, dtype=torch.float64), "t": tensor}, file)
    return next(info for info in read_header(file) if info.name == "t")


def _blocks(selection: Selection, buffer_bytes: int) -> list[bytes]:
    def buffers() -> Iterator[bytearray]:
        while True:
            yield bytearray(b"\xff" * buffer_bytes)

    descriptor = os.open(selection.info.file, os.O_RDONLY)
    try:
        return [bytes(block) for block in stream(selection, descriptor, buffers())]
    finally:
        os.close(descriptor)


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int16,
    torch.uint8, torch.bool,
]  # fmt: skip


@st.composite
def _selections(draw: st.DrawFn) -> tuple[torch.Tensor, Keep]:
    shape = draw(st.lists(st.integers(1, 7), max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = torch.from_numpy(np.array(rng.integers(-90, 90, size=shape)))
    keep = [
        rng.permutation(size)[: draw(st.integers(1, size))] if draw(st.booleans()) else None
        for size in shape
    ]
    return values.to(draw(st.sampled_from(DTYPES))), tuple(keep)


@settings(max_examples=200, deadline=None)
@given(_selections(), st.sampled_from([8, 16, 24, 64, 1 << 16]))
def test_blocks_are_what_indexing_gives(
    file: Path, drawn: tuple[torch.Tensor, Keep], buffer_bytes: int
) -> None:
    tensor, keep = drawn
    selection = Selection(_stored(file, tensor), keep)
    want = tensor
    for dimension, indices in enumerate(keep):
        if indices is not None:
            want = want.index_select(dimension, torch.from_numpy(indices))
    blocks = _blocks(selection, buffer_bytes)
    assert b"".join(blocks) == raw(want)
    assert selection.shape == tuple(want.shape)
    assert selection.nbytes == len(raw(want))
    row_bytes = tensor.nbytes // tensor.shape[0] if tensor.ndim else 0
    assert max(map(len, blocks)) <= max(buffer_bytes, row_bytes)


def _scattered(count: int, kept: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(kept).permutation(count)[:kept])


@pytest.mark.parametrize("inner", [None, np.array([4, 0, 1])])
@pytest.mark.parametrize("kept", [60, 4_000, 20_000])
def test_scattered_rows(file: Path, kept: int, inner: NDArray[np.int64] | None) -> None:
    """More pieces than one system call takes, and gaps too long to read."""
    tensor = torch.arange(30_000 * 5).reshape(-1, 5)
    keep = _scattered(len(tensor), kept)
    want = tensor[keep] if inner is None else tensor[keep][:, inner]
    selection = Selection(_stored(file, tensor), (keep, inner))
    assert b"".join(_blocks(selection, 1 << 18)) == raw(want)


@pytest.mark.parametrize("inner", [None, np.array([1])])
def test_short_reads_are_continued(
    file: Path, monkeypatch: pytest.MonkeyPatch, inner: NDArray[np.int64] | None
) -> None:
    tensor = torch.arange(200 * 2).reshape(-1, 2)
    keep = _scattered(200, 90)
    read = os.preadv

    def short(descriptor: int, pieces: list[Any], offset: int) -> int:
        return read(descriptor, [memoryview(pieces[0])[:7]], offset)

    selection = Selection(_stored(file, tensor), (keep, inner))
    monkeypatch.setattr(os, "preadv", short)
    want = tensor[keep] if inner is None else tensor[keep][:, inner]
    assert b"".join(_blocks(selection, 64)) == raw(want)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_whole_heads(file: Path, axes: list[tuple[int, int]], seed: int) -> None:
    """Groups of neighbouring indices are copied together, in any order."""
    rng = np.random.default_rng(seed)
    tensor = torch.from_numpy(rng.integers(0, 99, size=[3, *(n * size for n, size in axes)]))
    want, keep = tensor, []
    for axis, (heads, size) in enumerate(axes, start=1):
        kept = rng.permutation(heads)[: rng.integers(1, heads + 1)]
        keep.append((kept[:, None] * size + np.arange(size)).reshape(-1))
        want = want.index_select(axis, torch.from_numpy(keep[-1]))
    selection = Selection(_stored(file, tensor), (None, *keep))
    assert b"".join(_blocks(selection, 64)) == raw(want)


@pytest.mark.parametrize("index", [-1, 4])
def test_index_outside(file: Path, index: int) -> None:
    info = _stored(file, torch.zeros(4, 4))
    for keep in ((np.array([0, index]), None), (None, np.array([0, index]))):
        with pytest.raises(ValueError, match="t: an index lies outside 0 to 3"):
            Selection(info, keep)


def _bfloat16(bits: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(bits, dtype=np.uint16)).view(torch.bfloat16)


finite_bits = st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7F80 != 0x7F80)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(finite_bits, min_size=1, max_size=50),
    st.floats(0.1, 1.0) | st.sampled_from([2.0**-0.5, 0.5, 1 / 3, 1.0]),
    st.sampled_from([0.0, 1.0]),
)
def test_bfloat16_is_rounded_as_torch_rounds(
    file: Path, bits: list[int], factor: float, offset: float
) -> None:
    """All exponents, also subnormal; the error is never more than half a step (1/256)."""
    tensor = _bfloat16(bits)
    selection = Selection(_stored(file, tensor), (None,), Scaling(factor, offset))
    exact = (tensor.double() + offset) * factor - offset
    assert b"".join(_blocks(selection, 16)) == raw(exact.to(torch.bfloat16))
    found = exact.to(torch.bfloat16).double()
    assert ((found - exact).abs() <= exact.abs() * 2.0**-8 * 1.0001 + 2.0**-134).all()


def test_half_way_goes_to_even(file: Path) -> None:
    """(1 + 2^-7) * 1.5 = 1.51171875 and (1 + 3 * 2^-7) * 1.5 = 1.53515625 lie half-way."""
    tensor = _bfloat16([0x3F81, 0x3F83])
    (block,) = _blocks(Selection(_stored(file, tensor), (None,), Scaling(1.5, 0.0)), 64)
    assert torch.frombuffer(bytearray(block), dtype=torch.bfloat16).tolist() == [1.515625, 1.53125]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_other_types_are_rounded_once(file: Path, dtype: type[Any], offset: float) -> None:
    values = np.random.default_rng(0).normal(size=(40, 6)).astype(dtype)
    kept = np.array([3, 0, 5])
    selection = Selection(
        _stored(file, torch.from_numpy(values)), (None, kept), Scaling(0.3, offset)
    )
    picked = values[:, kept].astype(np.float64)
    want = ((picked + offset) * 0.3 - offset).astype(dtype)
    assert b"".join(_blocks(selection, 64)) == want.tobytes()


def test_whole_numbers_cannot_be_scaled(file: Path) -> None:
    info = _stored(file, torch.arange(4))
    with pytest.raises(UserError, match="t: values of type I64 cannot be scaled"):
        _blocks(Selection(info, (None,), Scaling(0.5, 0.0)), 64)


@pytest.mark.parametrize("keep_inner", [False, True])
@pytest.mark.parametrize(
    ("shape", "step"), [((5_000, 3), 2), ((60, 5_000), 3), ((40, 12_000), 7)], ids=str
)
def test_many_rows_and_wide_gaps(
    file: Path, shape: tuple[int, int], step: int, keep_inner: bool
) -> None:
    """More ranges than one system call takes, and gaps of many sizes between rows."""
    rng = np.random.default_rng(0)
    tensor = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    info = _stored(file, tensor)
    inner = rng.permutation(shape[1])[: shape[1] // 2] if keep_inner else None
    every = np.arange(0, shape[0], step)
    for rows in (every, every[::-1].copy(), rng.permutation(shape[0])[: shape[0] // 2]):
        want = tensor[torch.from_numpy(rows)]
        want = want if inner is None else want[:, torch.from_numpy(inner)]
        for buffer_bytes in (1 << 12, 1 << 20):
            assert b"".join(_blocks(Selection(info, (rows, inner)), buffer_bytes)) == raw(want)


def test_reads_that_end_early_are_continued(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 9)))
    info = _stored(file, tensor)
    preadv = os.preadv

    def short(descriptor: int, buffers: Any, offset: int) -> int:
        few: list[memoryview] = []
        for buffer in buffers:
            few.append(memoryview(buffer)[: 101 - sum(map(len, few))])
        return preadv(descriptor, few, offset)

    monkeypatch.setattr(os, "preadv", short)
    rows, inner = np.array([0, 1, 4, 9, 30, 2]), np.array([8, 0])
    for keep in ((None, None), (rows, None), (rows, inner)):
        want = tensor if keep[0] is None else tensor[torch.from_numpy(keep[0])]
        want = want if keep[1] is None else want[:, torch.from_numpy(keep[1])]
        assert b"".join(_blocks(Selection(info, keep), 1 << 12)) == raw(want)


BITS: dict[torch.dtype, tuple[type[Any], int]] = {
    torch.float64: (np.int64, 0x7FF0_0000_0000_0000),
    torch.float32: (np.int32, 0x7F80_0000),
    torch.float16: (np.int16, 0x7C00),
    torch.bfloat16: (np.int16, 0x7F80),
}


@pytest.mark.parametrize("dtype", BITS, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("place", [0, 70_000, 99_999])
def test_one_bad_value_among_many_is_found(file: Path, dtype: torch.dtype, place: int) -> None:
    """Infinity, and NaN with only its lowest or all of its bits set, of either sign."""
    whole, infinity = BITS[dtype]
    values = torch.ones(100_000, dtype=dtype)
    values[(place + 1) % 100_000] = torch.finfo(dtype).max
    values[(place + 2) % 100_000] = torch.finfo(dtype).min
    values[place] = torch.finfo(dtype).smallest_normal
    info = _stored(file, values)
    assert len(b"".join(_blocks(Selection(info, (None,)), 1 << 20))) == info.nbytes
    bits = values.view(torch.from_numpy(np.zeros(1, whole)).dtype)
    for magnitude in (infinity, infinity + 1, int(np.iinfo(whole).max)):
        for sign in (0, int(np.iinfo(whole).min)):
            bits[place] = magnitude + sign
            with pytest.raises(UserError, match=r"t\.safetensors: t: a weight is NaN or infinite"):
                _blocks(Selection(_stored(file, values), (None,)), 1 << 20)
    kept = np.array([place - 1, (place + 1) % 100_000])
    assert _blocks(Selection(_stored(file, values), (kept % 100_000,)), 64)


def test_whole_numbers_of_any_bits_pass(file: Path) -> None:
    tensor = torch.tensor([-1, 0x7FF0_0000_0000_0000])
    assert b"".join(_blocks(Selection(_stored(file, tensor), (None,)), 64)) == raw(tensor)
