"""Carving gives the same tensors as torch's own indexing, and a whole directory or none."""

import errno
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import regrow.surgery.carve as carving
from regrow.architectures import Blueprint
from regrow.architectures.bart import MBART
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.gemma3 import GEMMA3
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.llama import LLAMA
from regrow.architectures.openba import OPENBA
from regrow.architectures.phi3 import PHI3
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.architectures.umt5 import UMT5
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.common.publishing import partial_place
from regrow.cuts.cut import Cut
from regrow.surgery.carve import carve
from tests.cuts.random_cuts import MODEL, TINY, TINY_IDS, cut_to, random_cuts
from tests.surgery.carving import (
    assert_same_bytes,
    axis_cut,
    carved,
    expected,
    opened,
    planned,
    raw,
    sharded,
    tensors,
)
from tests.tiny import tiny_layout, write_tiny

NOTHING = Cut(MODEL, {})
LLAMA_LAYOUT = tiny_layout(LLAMA)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Tiny checkpoints, written once."""
    base = tmp_path_factory.mktemp("sources")

    def source(blueprint: Blueprint, number: int = 0, dtype: torch.dtype = torch.float32) -> Path:
        name = f"{blueprint.model_type}-{number}-{str(dtype).removeprefix('torch.')}"
        if not (base / name).exists():
            write_tiny(blueprint, base / name, number, dtype)
        return base / name

    return source


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Use small buffers that still hold whole tiny tensors: clearing large ones takes time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carving, "BUFFER_BYTES", 1 << 15)
        yield


@pytest.fixture
def llama(sources: Callable[..., Path]) -> Path:
    return sources(LLAMA)


def _narrow() -> Cut:
    """A cut of Llama tiny 0 along every axis, with a choice per layer if the axis allows it."""
    rng = np.random.default_rng(3)
    sizes = {"vocab": 31, "hidden": 12, "ffn": 9, "head": 4, "kv_head": 2, "layer": 3}
    return cut_to(LLAMA_LAYOUT, sizes, rng)


# What comes out


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_identity_cut_reproduces_the_bytes(tmp_path: Path, dtype: torch.dtype) -> None:
    source = write_tiny(LLAMA, tmp_path / "in", dtype=torch.float32)
    state = load_file(source / "model.safetensors")
    state = {n: (t * 100).to(dtype) for n, t in state.items()}
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    one = carved(source, tmp_path / "one", NOTHING)
    assert_same_bytes(tensors(one), state)
    assert json.loads((one / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )
    # Explicitly, through the code that picks: every index of every axis.
    sizes = LLAMA_LAYOUT.sizes
    names = ("vocab", "hidden", "ffn", "layer")
    all_of_it = Cut(MODEL, {n: axis_cut(sizes[n], range(sizes[n])) for n in names})
    assert_same_bytes(tensors(carved(source, tmp_path / "two", all_of_it)), state)
    # The single file is what the library writes, up to the order in which it lays tensors out.
    with safe_open(one / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("shards_in", [1, 3])
@pytest.mark.parametrize("limit", [1, 5_000, 12_000])
def test_shards_in_and_out(tmp_path: Path, shards_in: int, limit: int) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    cut = _narrow()
    want = expected(source, cut)
    if shards_in > 1:
        sharded(source, shards_in)
    out = carved(source, tmp_path / "out", cut, limit)
    assert_same_bytes(tensors(out), want)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 1
    assert files == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)
    ]
    assert index["metadata"]["total_size"] == sum(len(raw(t)) for t in want.values())
    assert index["weight_map"].keys() == want.keys()
    for name in files:
        part = load_file(out / name)
        assert {n for n, file in index["weight_map"].items() if file == name} == part.keys()
        assert len(part) == 1 or sum(len(raw(t)) for t in part.values()) <= limit
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert_same_bytes(dict(model.state_dict()), want)


def _scale(blueprint: Blueprint, number: int, cut: Cut, sizes: dict[str, int]) -> dict[str, Any]:
    """The scaled tensors of each family, written out by hand: (factor, offset of the weight)."""
    ratio = {n: cut.axes[n].kept / sizes[n] for n in cut.axes if n.rpartition(".")[2] == "hidden"}
    if blueprint in (GEMMA2, GEMMA3) and "hidden" in ratio:
        embedding = (ratio["hidden"] ** -0.5, 0.0)
        final = {"model.norm.weight": (ratio["hidden"] ** 0.5, 1.0)}
        return {"model.embed_tokens.weight": embedding, **(final if number == 0 else {})}
    if blueprint in (T5, UMT5) and number == 1 and "hidden" in ratio:
        return {"decoder.final_layer_norm.weight": (ratio["hidden"] ** 0.5, 0.0)}
    if blueprint is OPENBA and number == 1 and "hidden" in ratio:
        factor = (ratio["hidden"] ** 0.5, 0.0)
        return {f"decoder.final_layernorm.{part}": factor for part in ("weight", "bias")}
    if blueprint is MBART and number == 0 and "hidden" in ratio:
        factor = (ratio["hidden"] ** 0.5, 0.0)
        final = {f"model.decoder.layer_norm.{part}": factor for part in ("weight", "bias")}
        return {"model.shared.weight": (ratio["hidden"] ** -0.5, 0.0), **final}
    scales: dict[str, Any] = {}
    if blueprint is T5GEMMA:
        for stack in ("encoder", "decoder"):
            r = ratio.get(f"{stack}.hidden", 1.0)
            scales[f"model.{stack}.embed_tokens.weight"] = (r**-0.5, 0.0)
        scales["model.decoder.norm.weight"] = (ratio.get("decoder.hidden", 1.0) ** 0.5, 1.0)
    return scales


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TINY), st.sampled_from(DTYPES[:4]), st.data())
def test_carving_is_indexing(
    sources: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    family: tuple[Blueprint, int],
    dtype: torch.dtype,
    data: st.DataObject,
) -> None:
    source = sources(*family, dtype)
    layout = opened(source)[1]
    cut = data.draw(random_cuts(layout))
    limit = data.draw(st.sampled_from([1, 3_000, 1 << 40]))
    out = tmp_path_factory.mktemp("out") / "model"
    found = tensors(carved(source, out, cut, limit))
    want = expected(source, cut)
    scales = _scale(*family, cut, dict(layout.sizes))
    for name, (factor, offset) in scales.items():
        if factor != 1.0:
            exact = (want[name].double() + offset) * factor - offset
            # NumPy rounds to half at once; torch goes through single.
            want[name] = (
                torch.from_numpy(exact.numpy().astype(np.float16))
                if dtype is torch.float16
                else exact.to(dtype)
            )
    assert_same_bytes(found, want)
    shutil.rmtree(out)


def test_rows_of_fused_matrices_by_hand(sources: Callable[..., Path], tmp_path: Path) -> None:
    """Compare with NumPy reshapes, as the architectures document them, without `Dims`."""
    old = tensors(sources(GPT_NEOX))
    cut = Cut(MODEL, {"head": axis_cut(4, [3, 0]), "hidden": axis_cut(32, range(8, 24))})
    new = tensors(carved(sources(GPT_NEOX), tmp_path / "neox", cut))
    name = "gpt_neox.layers.1.attention.query_key_value.weight"
    by_head = old[name].reshape(4, 3 * 8, 32)
    assert torch.equal(new[name], by_head[[3, 0]].reshape(2 * 3 * 8, 32)[:, 8:24])
    name = "gpt_neox.layers.1.attention.dense.weight"
    assert torch.equal(new[name], torch.cat([old[name][8:24, 24:32], old[name][8:24, 0:8]], dim=1))

    old = tensors(sources(PHI3))
    cut = Cut(
        MODEL,
        {"ffn": axis_cut(20, [4, 9]), "head": axis_cut(6, [4, 5]), "kv_head": axis_cut(3, [2])},
    )
    new = tensors(carved(sources(PHI3), tmp_path / "phi3", cut))
    name = "model.layers.0.mlp.gate_up_proj.weight"
    assert torch.equal(new[name], old[name][[4, 9, 20 + 4, 20 + 9]])
    name = "model.layers.0.self_attn.qkv_proj.weight"
    q, k, v = old[name][:36], old[name][36:54], old[name][54:]
    assert torch.equal(new[name], torch.cat([q[24:36], k[12:18], v[12:18]]))


def test_position_bias_moves_to_the_new_first_block(
    sources: Callable[..., Path], tmp_path: Path
) -> None:
    old = tensors(sources(T5))
    heads = {n: axis_cut(4, [2, 1]) for n in ("encoder.head", "decoder.head")}
    heads["decoder.cross_head"] = axis_cut(4, [[0, 1], [3, 0]], "decoder.layer")
    layers = {"encoder.layer": axis_cut(3, [1, 2]), "decoder.layer": axis_cut(4, [3, 1])}
    new = tensors(carved(sources(T5), tmp_path / "out", Cut(MODEL, {**heads, **layers})))
    bias = "{}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    for stack in ("encoder", "decoder"):
        assert torch.equal(new[bias.format(stack)], old[bias.format(stack)][:, [2, 1]])
    assert torch.equal(
        new["encoder.block.0.layer.1.DenseReluDense.wo.weight"],
        old["encoder.block.1.layer.1.DenseReluDense.wo.weight"],
    )
    cross = "decoder.block.{}.layer.1.EncDecAttention.q.weight"
    assert torch.equal(
        new[cross.format(1)], torch.cat([old[cross.format(1)][30:40], old[cross.format(1)][0:10]])
    )
    assert torch.equal(new[cross.format(0)], old[cross.format(3)][0:20])


def test_stored_copy_of_a_shared_embedding_follows(tmp_path: Path) -> None:
    source = write_tiny(GEMMA2, tmp_path / "in")
    state = load_file(source / "model.safetensors")
    embedding = state["model.embed_tokens.weight"]
    save_file({**state, "lm_head.weight": embedding.clone()}, source / "model.safetensors")
    cut = Cut(MODEL, {"hidden": axis_cut(24, range(6)), "vocab": axis_cut(61, [5, 7])})
    new = tensors(carved(source, tmp_path / "out", cut))
    assert torch.equal(new["lm_head.weight"], new["model.embed_tokens.weight"])
    assert torch.equal(new["lm_head.weight"], embedding[[5, 7], :6] * 2.0)  # (6 / 24)^-0.5


def test_tensors_that_the_class_ignores_are_dropped(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    state = load_file(source / "model.safetensors")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.full((5,), torch.nan)}
    save_file({**state, **extra}, source / "model.safetensors")
    assert_same_bytes(tensors(carved(source, tmp_path / "out", NOTHING)), state)


# Composition


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TINY), st.sampled_from([torch.bfloat16, torch.float64]), st.data())
def test_composing_is_cutting_twice(
    sources: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    family: tuple[Blueprint, int],
    dtype: torch.dtype,
    data: st.DataObject,
) -> None:
    source = sources(*family, dtype)
    layout = opened(source)[1]
    base = tmp_path_factory.mktemp("twice")
    first = data.draw(random_cuts(layout))
    middle = carved(source, base / "first", first)
    second = data.draw(random_cuts(opened(middle)[1]))
    both = first.then(second)
    assume(layout.size_problem(both.sizes) is None)
    twice = tensors(carved(middle, base / "second", second))
    once = tensors(carved(source, base / "both", both))
    config = [json.loads((base / n / "config.json").read_text()) for n in ("second", "both")]
    shutil.rmtree(base)
    for path, rule in family[0].lists.items():
        # Layers that were put in another order and back again have a list that says so.
        if rule.default is None:
            continue
        layers = both.layers(rule.axis, layout.sizes[rule.axis])
        default = [rule.default(layout.config, int(layer)) for layer in layers]
        for each in config:
            each.setdefault(path, default)
    assert config[0] == config[1]
    for name in once.keys() & _scale(*family, both, dict(layout.sizes)).keys():
        a, b = twice.pop(name).double(), once.pop(name).double()
        # A norm is stored as its difference from 1 and rounded there, so the step is that of 1.
        steps = {torch.bfloat16: 2.0**-7, torch.float64: 2.0**-50}
        assert torch.allclose(a, b, rtol=steps[dtype], atol=steps[dtype]), name
    assert_same_bytes(twice, once)


# Buffers


def _within(seconds: float, work: Callable[[], Any]) -> Any:
    """Run `work` in a thread, so that a deadlock fails the test in place of hanging."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "carve hangs"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


@pytest.mark.parametrize("size", [8, 64, 100 * 8, 4096])
@pytest.mark.parametrize(
    ("blueprint", "number", "dtype"),
    [(LLAMA, 0, torch.float32), (GEMMA2, 0, torch.bfloat16), (T5, 1, torch.float64)],
    ids=["llama", "gemma2", "t5"],
)
def test_small_buffers_give_the_same_bytes(
    sources: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    blueprint: Blueprint,
    number: int,
    dtype: torch.dtype,
    size: int,
) -> None:
    """Also if a row is larger than a buffer, and if a scaled tensor ends a buffer."""
    source = sources(blueprint, number, dtype)
    layout = opened(source)[1]
    heads = {"head": 2, "kv_head": 1} if blueprint is not T5 else {}
    sizes = {**layout.sizes, "vocab": 40, "hidden": 12, **heads}
    cut = cut_to(layout, sizes, np.random.default_rng(0))
    plan = planned(source, cut, 9_000)
    monkeypatch.setattr(carving, "BUFFER_BYTES", 8 << 20)
    carve(plan, tmp_path / "large")
    monkeypatch.setattr(carving, "BUFFER_BYTES", size)
    written: list[int] = []
    _within(60, lambda: carve(plan, tmp_path / "small", written.append))
    assert_same_bytes(tensors(tmp_path / "small"), tensors(tmp_path / "large"))
    for path in (tmp_path / "large").iterdir():
        assert path.read_bytes() == (tmp_path / "small" / path.name).read_bytes()
    assert sum(written) == plan.weight_bytes
    assert len(written) >= plan.weight_bytes // max(size, 61 * 24 * 8)


def test_plan_knows_what_will_be_written(llama: Path, tmp_path: Path) -> None:
    plan = planned(llama, _narrow(), 9_000, **{"notes.txt": b"hello"})
    written: list[int] = []
    carve(plan, tmp_path / "out", written.append)
    files = list((tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "notes.txt").read_bytes() == b"hello"
    assert len(plan.shards) > 1
    assert sum(path.stat().st_size for path in files) == plan.nbytes
    assert sum(written) == plan.weight_bytes
    assert {n: tuple(t.shape) for n, t in tensors(tmp_path / "out").items()} == plan.shapes


# Failures leave nothing


def _assert_nothing_left(directory: Path, *known: str) -> None:
    assert sorted(path.name for path in directory.iterdir()) == sorted(known)


def _damaged(directory: Path, name: str, row: int, column: int, value: float) -> None:
    state = load_file(directory / "model.safetensors")
    state[name][row, column] = value
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", DTYPES[:4], ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    source = write_tiny(LLAMA, tmp_path / "in", dtype=dtype)
    name = "model.layers.2.mlp.down_proj.weight"
    _damaged(source, name, 23, 19, value)
    for cut in (NOTHING, Cut(MODEL, {"ffn": axis_cut(20, [19, 0])})):
        work = partial(carved, source, tmp_path / "out", cut)
        with pytest.raises(UserError, match="NaN or infinite") as error:
            _within(60, work)
        assert str(source / "model.safetensors") in str(error.value)
        assert name in str(error.value)
        _assert_nothing_left(tmp_path, "in")
    # Only what is kept is read and looked at: dropped with its neuron, it does no harm.
    carved(source, tmp_path / "out", Cut(MODEL, {"ffn": axis_cut(20, range(19))}))
    assert all(t.isfinite().all() for t in tensors(tmp_path / "out").values())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.3e38])
def test_scaled_weights_are_checked_after_scaling(tmp_path: Path, value: float) -> None:
    """bfloat16 holds 3.3e38 but not twice that."""
    source = write_tiny(GEMMA2, tmp_path / "in", dtype=torch.bfloat16)
    _damaged(source, "model.embed_tokens.weight", 3, 2, value)
    cut = Cut(MODEL, {"hidden": axis_cut(24, range(6))})
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(UserError, match=r"model\.embed_tokens\.weight: .*NaN or infinite"),
    ):
        carved(source, tmp_path / "out", cut)
    _assert_nothing_left(tmp_path, "in")


def _fail_after(count: int, code: int) -> Callable[[int, Any, int], int]:
    write, calls = os.pwrite, iter(range(1 << 30))

    def failing(descriptor: int, block: Any, offset: int) -> int:
        if next(calls) >= count:
            raise OSError(code, os.strerror(code))
        return write(descriptor, block, offset)

    return failing


@pytest.mark.parametrize(
    ("after", "buffer"),
    [(0, 64), (1, 64), (2, 64), (40, 64), (0, 8 << 20), (1, 8 << 20), (7, 8 << 20)],
)
def test_full_disk(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, buffer: int
) -> None:
    plan = planned(llama, _narrow())
    monkeypatch.setattr(carving, "BUFFER_BYTES", buffer)
    monkeypatch.setattr(os, "pwrite", _fail_after(after, errno.ENOSPC))
    with pytest.raises(UserError, match=f"disk is full; {plan.nbytes:,} bytes are needed"):
        _within(60, lambda: carve(plan, tmp_path / "out"))
    _assert_nothing_left(tmp_path)


def test_short_writes_are_continued(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, block, at: write(fd, memoryview(block)[:37], at))
    assert_same_bytes(tensors(carved(llama, tmp_path / "out", NOTHING)), tensors(llama))


def test_shard_that_cannot_be_opened(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the file fails, before the first block."""
    plan = planned(llama, _narrow(), 9_000)
    real = Path.open

    def failing(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self.name.startswith("model-00002"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing)
    for size in (8, 8 << 20):
        monkeypatch.setattr(carving, "BUFFER_BYTES", size)
        with pytest.raises(UserError, match="cannot be written: Too many open files"):
            _within(60, lambda: carve(plan, tmp_path / "out"))
        _assert_nothing_left(tmp_path)


def test_shard_that_cannot_be_closed(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may report a full disk only when the file is closed."""
    plan = planned(llama, _narrow())
    real = Path.open

    @contextmanager
    def failing(self: Path, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with real(self, *args, **kwargs) as file:
            yield file
        if self.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(UserError, match="disk is full"):
        _within(60, lambda: carve(plan, tmp_path / "out"))
    _assert_nothing_left(tmp_path)


def test_name_too_long_for_the_temporary_directory(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / ("x" * 250)
    with pytest.raises(UserError, match="cannot be written: File name too long"):
        carved(llama, out, NOTHING)
    _assert_nothing_left(tmp_path)


def test_source_that_vanished(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    plan = planned(source, NOTHING)
    (source / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"in/model\.safetensors: no such file"):
        _within(60, lambda: carve(plan, tmp_path / "out"))
    _assert_nothing_left(tmp_path, "in")


def test_source_that_was_cut_short(tmp_path: Path) -> None:
    source = write_tiny(LLAMA, tmp_path / "in")
    plan = planned(source, NOTHING)
    os.truncate(source / "model.safetensors", plan.weight_bytes // 2)
    with pytest.raises(UserError, match=r"model\.safetensors: ends at byte"):
        _within(60, lambda: carve(plan, tmp_path / "out"))
    _assert_nothing_left(tmp_path, "in")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interruption(llama: Path, tmp_path: Path, error: type[BaseException]) -> None:
    def progress(_: int) -> None:
        raise error

    with pytest.raises(error):
        _within(60, lambda: carve(planned(llama, NOTHING), tmp_path / "out", progress))
    _assert_nothing_left(tmp_path)


def test_config_comes_last(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory gets its name only when it is complete, and the config is written last."""
    plan = planned(llama, NOTHING, 9_000, **{"a.txt": b"", "z.txt": b""})
    seen: list[set[str]] = []
    write = Path.write_bytes

    def watched(self: Path, data: bytes) -> int:
        if self.name == "config.json":
            seen.append({path.name for path in self.parent.iterdir()})
            assert not (tmp_path / "out").exists()
            assert self.parent.parent == partial_place(tmp_path / "out")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", watched)
    carve(plan, tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert seen == [files - {"config.json"}]
    assert {"a.txt", "z.txt", "model.safetensors.index.json"} < files
    _assert_nothing_left(tmp_path, "out")


def test_failure_at_the_config_leaves_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="disk is full"):
        carve(planned(llama, NOTHING), tmp_path / "out")
    _assert_nothing_left(tmp_path, "out")
    _assert_nothing_left(tmp_path / "out")


def test_output_that_was_filled_meanwhile_is_kept(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = planned(llama, NOTHING)

    def progress(_: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "mine.txt").write_text("mine")

    with pytest.raises(UserError, match="out: cannot be written: Directory not empty"):
        carve(plan, out, progress)
    _assert_nothing_left(tmp_path, "out")
    assert (out / "mine.txt").read_text() == "mine"


# Before work starts


def test_check_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=(64 << 20) + 1_000))
    check_free_space(tmp_path / "out", 1_000)
    with pytest.raises(UserError, match="67,109,865 bytes are needed there, 67,109,864 are free"):
        check_free_space(tmp_path / "out", 1_001)


def test_carve_asks_for_space_first(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(UserError, match="0 are free"):
        carve(planned(llama, NOTHING), tmp_path / "out")
    _assert_nothing_left(tmp_path)


def test_one_tensor_cannot_be_scaled_twice(sources: Callable[..., Path]) -> None:
    checkpoint, layout = opened(sources(GEMMA2))
    folds = (*GEMMA2.folds, GEMMA2.folds[0])
    wrong = replace(layout, blueprint=replace(GEMMA2, folds=folds))
    cut = Cut(MODEL, {"hidden": axis_cut(24, range(6))})
    with pytest.raises(ValueError, match=r"model\.embed_tokens\.weight has two folds"):
        carving.plan_carve(checkpoint, wrong, cut, {}, {}, 1)


@pytest.mark.parametrize(("blueprint", "number"), TINY, ids=TINY_IDS)
def test_result_loads_in_the_library(
    sources: Callable[..., Path], tmp_path: Path, blueprint: Blueprint, number: int
) -> None:
    source = sources(blueprint, number)
    layout = opened(source)[1]
    sizes = {}
    for axis in blueprint.axes:
        half = layout.sizes[axis.name] // 2
        sizes[axis.name] = max(1, half // axis.multiple) * axis.multiple
    for axis in blueprint.axes:
        if axis.groups:
            sizes[axis.name] = sizes[axis.groups] * (
                layout.sizes[axis.name] // layout.sizes[axis.groups]
            )
    cut = cut_to(layout, sizes, np.random.default_rng(1))
    out = carved(source, tmp_path / "out", cut)
    auto = "Seq2SeqLM" if blueprint.is_encoder_decoder else "CausalLM"
    model, report = getattr(transformers, f"AutoModelFor{auto}").from_pretrained(
        out, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert sum(p.numel() for p in model.parameters()) == layout.parameters(cut.sizes)
