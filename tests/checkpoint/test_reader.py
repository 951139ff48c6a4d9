"""Checkpoints are opened from headers alone, and damaged ones are refused."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from regrow.architectures.llama import LLAMA
from regrow.checkpoint.reader import (
    SAMPLE_BYTES,
    fingerprint,
    open_checkpoint,
    read_bytes,
    read_tensor,
)
from regrow.common.errors import UserError
from tests.tiny import write_tiny

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "embed.weight": torch.randn(40, 64, generator=generator),  # larger than what is sampled
        "norm.weight": torch.randn(7, generator=generator).to(torch.bfloat16),
        "mask": torch.ones(1, 1, 3, 3, dtype=torch.uint8),
        "scale": torch.tensor(2.5, dtype=torch.float16),
        "empty": torch.zeros(3, 0),
    }


def write_index(directory: Path, weight_map: object) -> None:
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def single(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    save_file(weights(), directory / "model.safetensors")
    return directory


def sharded(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    tensors = weights()
    halves = (["mask", "norm.weight"], ["scale", "empty", "embed.weight"])
    for shard, names in zip(SHARDS, halves, strict=True):
        save_file({name: tensors[name] for name in names}, directory / shard)
    write_index(
        directory, {name: s for s, half in zip(SHARDS, halves, strict=True) for name in half}
    )
    return directory


def raw_file(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def raw_single(directory: Path, header: object, data: bytes = bytes(24)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (single(directory) / "model.safetensors").write_bytes(raw_file(text, data))
    return directory


def edit_index(directory: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    index = json.loads((sharded(directory) / INDEX).read_text())
    change(index["weight_map"])
    (directory / INDEX).write_text(json.dumps(index))
    return directory


def with_config(directory: Path, **config: object) -> Path:
    (single(directory) / "config.json").write_text(json.dumps(config))
    return directory


def with_text(directory: Path, name: str, text: str | None) -> Path:
    path = single(directory) / name
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_text(text)
    return directory


def blocked(directory: Path) -> Path:
    edit_index(directory, lambda m: m.update(scale="x.safetensors"))
    (directory / "x.safetensors").mkdir()
    return directory


def only_pickle(directory: Path, name: str) -> Path:
    (single(directory) / "model.safetensors").rename(directory / name)
    return directory


@pytest.mark.parametrize("build", [single, sharded])
def test_every_tensor_reads_as_it_was_saved(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    checkpoint = open_checkpoint(build(tmp_path / "m"))
    expected = weights()
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.tensors.keys() == expected.keys()
    for name, info in checkpoint.tensors.items():
        assert info.name == name
        values = read_tensor(info)
        assert values.flags.writeable
        assert values.shape == tuple(expected[name].shape)
        if info.dtype == "BF16":
            assert values.dtype == np.float32
        assert torch.equal(
            torch.from_numpy(values), expected[name].to(torch.from_numpy(values).dtype)
        )
    order = [(checkpoint.files.index(i.file), i.start) for i in checkpoint.tensors.values()]
    assert order == sorted(order)


@given(start=st.integers(0, 40), rows=st.integers(0, 40))
def test_rows_are_slices_and_nothing_else_is_read(
    start: int, rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.getbasetemp() / "rows"
    info = open_checkpoint(directory if directory.exists() else single(directory)).tensors[
        "embed.weight"
    ]
    if start + rows > 40:
        with pytest.raises(ValueError, match="rows"):
            read_bytes(info, start, rows)
        return
    expected = weights()["embed.weight"][start : start + rows].numpy()
    assert read_bytes(info, start, rows) == expected.tobytes()
    assert np.array_equal(read_tensor(info, start, rows), expected)


def test_fingerprint_ignores_sharding_and_order_and_sees_content(tmp_path: Path) -> None:
    base = open_checkpoint(single(tmp_path / "a"))
    assert base.fingerprint == open_checkpoint(sharded(tmp_path / "b")).fingerprint
    assert base.fingerprint == fingerprint(base)
    assert base.fingerprint.startswith("sha256:")
    assert len(base.fingerprint) == len("sha256:") + 64
    info = base.tensors["embed.weight"]
    seen = {base.fingerprint}
    for offset in (0, info.nbytes // 2, info.nbytes - 1):
        other = single(tmp_path / f"c{offset}") / "model.safetensors"
        raw = bytearray(other.read_bytes())
        raw[info.start + offset] ^= 1
        other.write_bytes(raw)
        seen.add(open_checkpoint(other.parent).fingerprint)
    assert len(seen) == 4
    renamed = weights()
    renamed["embed2.weight"] = renamed.pop("embed.weight")
    save_file(renamed, single(tmp_path / "d") / "model.safetensors")
    assert open_checkpoint(tmp_path / "d").fingerprint not in seen


def test_all_bytes_decide_the_hash_of_the_weights(tmp_path: Path) -> None:
    big = torch.zeros(4 * SAMPLE_BYTES)
    before = single(tmp_path / "a")
    save_file({**weights(), "big": big}, before / "model.safetensors")
    big[SAMPLE_BYTES // 4 + 1] = 1  # after the bytes that a fingerprint samples
    after = single(tmp_path / "b")
    save_file({**weights(), "big": big}, after / "model.safetensors")
    one, other = open_checkpoint(before), open_checkpoint(after)
    assert one.fingerprint == other.fingerprint
    assert one.weights_sha256 != other.weights_sha256 != other.fingerprint
    assert (
        open_checkpoint(single(tmp_path / "c")).weights_sha256
        == open_checkpoint(sharded(tmp_path / "d")).weights_sha256
    )


def test_the_single_file_wins_over_an_index(tmp_path: Path) -> None:
    directory = single(sharded(tmp_path / "m"))
    assert open_checkpoint(directory).files == (directory / "model.safetensors",)


def test_shards_may_be_links_to_blobs(tmp_path: Path) -> None:
    directory = sharded(tmp_path / "m")
    before = open_checkpoint(directory)
    (tmp_path / "blobs").mkdir()
    for shard in SHARDS:
        (directory / shard).rename(tmp_path / "blobs" / shard)
        (directory / shard).symlink_to(Path("..") / "blobs" / shard)
    after = open_checkpoint(directory)
    assert after == before
    assert after.fingerprint == before.fingerprint


def test_a_file_cut_short_after_opening_is_reported(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(single(tmp_path / "m"))
    raw = checkpoint.files[0].read_bytes()
    checkpoint.files[0].write_bytes(raw[:-1])
    last = list(checkpoint.tensors.values())[-1]
    with pytest.raises(UserError, match="before its tensors do"):
        read_bytes(last)


@pytest.mark.parametrize("name", [None, "model.safetensors"])
def test_a_config_may_name_the_weights_that_are_read(tmp_path: Path, name: str | None) -> None:
    assert open_checkpoint(with_config(tmp_path, transformers_weights=name)).tensors


def entry(**changes: object) -> dict[str, object]:
    return {"a": {**F32, **changes}}


Case = tuple[str, Callable[[Path], object], str]
MALFORMED: Sequence[Case] = [
    ("nowhere", lambda d: d, "does not exist"),
    ("a file", lambda d: d.write_text(""), "not a directory"),
    (
        "no config",
        lambda d: with_text(d, "config.json", None),
        "holds no config.json, so it is no model; give the directory of a model",
    ),
    ("config not JSON", lambda d: with_text(d, "config.json", "{"), "config.json: not JSON"),
    (
        "config a list",
        lambda d: with_text(d, "config.json", "[]"),
        "a JSON object is expected",
    ),
    ("config too deep", lambda d: with_text(d, "config.json", "[" * 99999), "not JSON"),
    ("adapter", lambda d: with_text(d, "adapter_config.json", "{}"), "merge it first: python -c"),
    ("no weights", lambda d: with_text(d, "model.safetensors", None), "no model.safetensors"),
    ("pickle", lambda d: only_pickle(d, "pytorch_model.bin"), "convert .*: python -c"),
    ("pickle shards", lambda d: only_pickle(d, "pytorch_model.bin.index.json"), "python -c"),
    ("pickle pth", lambda d: only_pickle(d, "consolidated.00.pth"), "python -c"),
    (
        "gptq",
        lambda d: with_config(d, quantization_config={"quant_method": "gptq"}),
        "quantization_config .method: gptq.*unquantised",
    ),
    (
        "awq",
        lambda d: with_config(d, quantization_config={"quant_method": "awq"}),
        "method: awq",
    ),
    (
        "bitsandbytes",
        lambda d: with_config(d, quantization_config={"load_in_4bit": True}),
        "method: unnamed",
    ),
    (
        "other weights",
        lambda d: with_config(d, transformers_weights="hf.safetensors"),
        "transformers_weights is 'hf.safetensors', but model.safetensors is read; remove the key",
    ),
    (
        "other weights than the index",
        lambda d: (sharded(d) / "config.json").write_text(
            json.dumps({"transformers_weights": SHARDS[0]})
        ),
        "but model.safetensors.index.json is read",
    ),
    ("weights of no name", lambda d: with_config(d, transformers_weights=[1]), r"is \[1\], but"),
    (
        "int8",
        lambda d: raw_single(d, entry(dtype="I8", shape=[4, 6])),
        "'a' is I8: quantised",
    ),
    ("fp8", lambda d: raw_single(d, entry(dtype="F8_E4M3", shape=[24])), "'a' is F8_E4M3"),
    ("fp4", lambda d: raw_single(d, entry(dtype="F4", shape=[48])), "packed dtype F4"),
    ("qweight", lambda d: raw_single(d, {"l.qweight": {**F32, "dtype": "I32"}}), "qweight"),
    ("empty file", lambda d: with_text(d, "model.safetensors", ""), "0 bytes are too few"),
    ("not safetensors", lambda d: with_text(d, "model.safetensors", "x" * 99), "header of"),
    (
        "git LFS pointer",
        lambda d: with_text(d, "model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        "not safetensors",
    ),
    ("header not JSON", lambda d: raw_single(d, b'{"a": '), "header: not JSON.*fetch"),
    ("header not UTF-8", lambda d: raw_single(d, b'{"\xff": 1}'), "header: not JSON.*fetch"),
    ("header a list", lambda d: raw_single(d, []), "a JSON object is expected"),
    (
        "key twice",
        lambda d: raw_single(d, f'{{"a": {json.dumps(F32)}, "a": {json.dumps(F32)}}}'.encode()),
        "'a' occurs twice",
    ),
    ("lone surrogate", lambda d: raw_single(d, {"\ud800": F32}), "half a surrogate pair"),
    ("metadata", lambda d: raw_single(d, {"__metadata__": {"a": 1}}, b""), "__metadata__"),
    ("no tensors", lambda d: raw_single(d, {}, b""), "holds no tensors"),
    ("entry no object", lambda d: raw_single(d, {"a": 3}), "exactly dtype, shape"),
    ("entry incomplete", lambda d: raw_single(d, {"a": {"dtype": "F32"}}), "exactly dtype"),
    ("unknown dtype", lambda d: raw_single(d, entry(dtype="F33")), "unknown dtype 'F33'"),
    ("dtype no string", lambda d: raw_single(d, entry(dtype=["F32"])), "unknown dtype"),
    ("negative size", lambda d: raw_single(d, entry(shape=[-2, -3])), "list of sizes"),
    ("fractional size", lambda d: raw_single(d, entry(shape=[2.0, 3])), "list of sizes"),
    ("boolean size", lambda d: raw_single(d, entry(shape=[True, 6])), "list of sizes"),
    ("huge size", lambda d: raw_single(d, entry(shape=[10**4000])), "list of sizes"),
    ("65 dimensions", lambda d: raw_single(d, entry(shape=[1] * 65)), "list of sizes"),
    ("offsets backwards", lambda d: raw_single(d, entry(data_offsets=[24, 0])), "begin, end"),
    ("three offsets", lambda d: raw_single(d, entry(data_offsets=[0, 24, 24])), "begin, end"),
    ("shape too large", lambda d: raw_single(d, entry(shape=[2, 4])), "do not fit dtype F32"),
    ("data short", lambda d: raw_single(d, entry(), bytes(23)), "truncated"),
    ("data long", lambda d: raw_single(d, entry(), bytes(25)), "no tensor owns"),
    (
        "hole at the start",
        lambda d: raw_single(d, entry(data_offsets=[4, 28]), bytes(28)),
        "leaves a hole",
    ),
    (
        "hole between",
        lambda d: raw_single(d, {"a": F32, "b": {**F32, "data_offsets": [28, 52]}}, bytes(52)),
        "'b' .*leaves a hole",
    ),
    (
        "overlap",
        lambda d: raw_single(d, {"a": F32, "b": {**F32, "data_offsets": [20, 44]}}, bytes(44)),
        "'b' .*overlaps",
    ),
    ("shared bytes", lambda d: raw_single(d, {"a": F32, "b": F32}), "overlaps"),
    ("index without map", lambda d: write_index(sharded(d), None), "weight_map must be"),
    ("index empty", lambda d: write_index(sharded(d), {}), "weight_map must be"),
    (
        "index not JSON",
        lambda d: (sharded(d) / INDEX).write_text("{"),
        "index.json: not JSON",
    ),
    ("shard missing", lambda d: (sharded(d) / SHARDS[1]).unlink(), f"{SHARDS[1]}: missing"),
    (
        "shard a directory",
        blocked,
        "not a regular file",
    ),
    (
        "absolute",
        lambda d: edit_index(d, lambda m: m.update(scale="/etc/a.safetensors")),
        "outside",
    ),
    ("parent", lambda d: edit_index(d, lambda m: m.update(scale="../a.safetensors")), "outside"),
    (
        "parent inside",
        lambda d: edit_index(d, lambda m: m.update(scale="x/../../a.safetensors")),
        "outside",
    ),
    (
        "folder",
        lambda d: edit_index(d, lambda m: m.update(scale="x/a.safetensors")),
        "in a folder; move the file beside the index",
    ),
    ("NUL", lambda d: edit_index(d, lambda m: m.update(scale="a\0.safetensors")), "outside"),
    (
        "name too long",
        lambda d: edit_index(d, lambda m: m.update(scale="a" * 999 + ".safetensors")),
        "cannot be read",
    ),
    ("number", lambda d: edit_index(d, lambda m: m.update(scale=3)), "must be a shard's file name"),
    ("pickle shard", lambda d: edit_index(d, lambda m: m.update(scale="a.bin")), "was expected"),
    ("left out", lambda d: edit_index(d, lambda m: m.pop("scale")), "leaves out 'scale'"),
    (
        "too much",
        lambda d: edit_index(d, lambda m: m.update(bias=SHARDS[0])),
        r"weight_map\['bias'\] is .*without that tensor$",
    ),
    (
        "wrong shard",
        lambda d: edit_index(d, lambda m: m.update(scale=SHARDS[0])),
        rf"without that tensor; it is in {SHARDS[1]}",
    ),
    (
        "in two shards",
        lambda d: save_file({"mask": weights()["mask"]}, sharded(d) / SHARDS[1]),
        f"'mask' is also in {SHARDS[0]}",
    ),
]


@pytest.mark.parametrize(
    ("build", "message"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
def test_malformed_checkpoints_give_one_line(
    tmp_path: Path, build: Callable[[Path], object], message: str
) -> None:
    build(tmp_path / "m")
    with pytest.raises(UserError, match=message) as caught:
        open_checkpoint(tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "m") in str(caught.value)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_truncation_is_always_an_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = single(tmp_path_factory.getbasetemp() / "truncated")
    file = directory / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(UserError):
        open_checkpoint(directory)


@settings(deadline=None, max_examples=250)
@given(data=st.data(), value=st.integers(0, 255))
def test_a_corrupt_header_byte_is_an_error_or_harmless(
    data: st.DataObject, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With an index, the only undetected change is of a dtype to another of the same width."""
    directory = sharded(tmp_path_factory.getbasetemp() / "corrupt")
    before = open_checkpoint(directory)
    file = directory / data.draw(st.sampled_from(SHARDS))
    raw = bytearray(file.read_bytes())
    raw[data.draw(st.integers(0, 7 + int.from_bytes(raw[:8], "little")))] = value
    file.write_bytes(raw)
    try:
        after = open_checkpoint(directory)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    layout = [(i.name, i.file, i.start, i.nbytes) for i in before.tensors.values()]
    assert [(i.name, i.file, i.start, i.nbytes) for i in after.tensors.values()] == layout
    for info in after.tensors.values():
        original = before.tensors[info.name]
        assert info.shape == original.shape or info.nbytes == 0
        same_width = {"F16": {"F16", "I16", "U16"}, "U8": {"U8", "I8"}}
        widths = {"F32": {"F32", "I32", "U32"}, "BF16": {"BF16"}, **same_width}
        assert info.dtype in widths[original.dtype] or info.nbytes == 0


def test_the_conversion_command_is_one_that_works(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path / "it's a model"
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    (directory / "model.safetensors").unlink()
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        open_checkpoint(directory)
    program, flag, code = shlex.split(str(caught.value).split("trust: ")[1])
    assert (program, flag) == ("python", "-c")
    # A model without a tokenizer: the weights are converted, the tokenizer's line is not run.
    code = "; ".join(part for part in code.split("; ") if "AutoTokenizer" not in part)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    converted = open_checkpoint(tmp_path / "it's a model-safetensors")
    assert converted.tensors.keys() == model.state_dict().keys()


def test_light() -> None:
    code = (
        "import sys, regrow.checkpoint.reader; print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_weight_files_of_one_name_in_two_folders_are_refused(tmp_path: Path) -> None:
    """Written to one folder, the second file would replace the first."""
    source = write_tiny(LLAMA, tmp_path / "in")
    state = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    names = sorted(state)
    for folder, part in (("a", names[::2]), ("b", names[1::2])):
        (source / folder).mkdir()
        save_file({name: state[name] for name in part}, source / folder / "w.safetensors")
        weight_map |= dict.fromkeys(part, f"{folder}/w.safetensors")
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    with pytest.raises(UserError, match=r"is '[ab]/w\.safetensors', in a folder; move the file"):
        open_checkpoint(source)
