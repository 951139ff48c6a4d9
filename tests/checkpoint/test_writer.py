"""A model directory is written complete and checked, or not at all."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from regrow.architectures.llama import LLAMA
from regrow.checkpoint.header import TensorSpec
from regrow.checkpoint.reader import open_checkpoint
from regrow.checkpoint.writer import (
    WeightFile,
    library_weights,
    partial_directory,
    publish,
    small_files,
)
from regrow.common.errors import UserError
from tests.tiny import write_tiny

CONFIG = {"model_type": "llama"}
A = TensorSpec("a", "F32", (2, 3))
B = TensorSpec("b", "BF16", (4,))
TENSORS = {"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
ONE = [WeightFile("model.safetensors", (A, B))]
TWO = [WeightFile("model-1.safetensors", (A,)), WeightFile("model-2.safetensors", (B,))]


def write(out: Path, weights: list[WeightFile], tensors: dict[str, torch.Tensor]) -> None:
    """Write each file with those of its tensors that `tensors` holds, and publish as `weights`."""
    with partial_directory(out) as partial:
        for file in weights:
            held = {spec.name: tensors[spec.name] for spec in file.tensors if spec.name in tensors}
            save_file(held, partial / file.name)
        files = small_files(CONFIG, {"notes/a.txt": b"a"}, weights)
        publish(partial, out, weights, files)


def test_small_files_come_with_an_index_only_where_it_is_needed(tmp_path: Path) -> None:
    write(tmp_path / "one", ONE, TENSORS)
    write(tmp_path / "two", TWO, TENSORS)
    assert [*small_files(CONFIG, {"x": b""}, TWO)][-2:] == [
        "model.safetensors.index.json",
        "config.json",
    ]
    assert not (tmp_path / "one/model.safetensors.index.json").exists()
    assert (tmp_path / "one/notes/a.txt").read_bytes() == b"a"
    index = json.loads((tmp_path / "two/model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 32},
        "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"},
    }
    for name in ("one", "two"):
        found = open_checkpoint(tmp_path / name)
        assert {info.spec for info in found.tensors.values()} == {A, B}
        assert found.config == CONFIG
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def test_one_shard_under_another_name_needs_an_index(tmp_path: Path) -> None:
    write(tmp_path / "out", [WeightFile("model-1.safetensors", (A, B))], TENSORS)
    assert open_checkpoint(tmp_path / "out").tensors.keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.ones(3, 2)}, r"model-1\.safetensors: a: F32 \[3, 2\] .*, not F32 \[2, 3\]"),
        ({"b": torch.ones(4)}, r"model-2\.safetensors: b: F32 \[4\] was written, not BF16 \[4\]"),
        ({"b": None}, r"model-2\.safetensors: b: nothing was written, not BF16 \[4\]"),
    ],
)
def test_what_was_not_meant_is_not_published(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    tensors = {n: t for n, t in {**TENSORS, **change}.items() if t is not None}
    with pytest.raises(UserError, match=message) as caught:
        write(tmp_path / "out", TWO, tensors)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut short", "gone", "more", "a file more"])
def test_damaged_files_are_not_published(tmp_path: Path, damage: str) -> None:
    def begin(out: Path) -> None:
        with partial_directory(out) as partial:
            path = partial / "model.safetensors"
            save_file(TENSORS, path)
            if damage == "cut short":
                os.truncate(path, path.stat().st_size - 1)
            elif damage == "gone":
                path.unlink()
            elif damage == "more":
                save_file({**TENSORS, "c": torch.ones(1)}, path)
            else:
                save_file({"c": torch.ones(1)}, partial / "other.safetensors")
            publish(partial, out, ONE, small_files(CONFIG, {}, ONE))

    with pytest.raises(UserError, match=r"\.safetensors: .*nothing is kept"):
        begin(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_config_names_no_file_of_weights() -> None:
    """By this key transformers would look for another file than the one that is written."""
    written = small_files({**CONFIG, "transformers_weights": "model.safetensors"}, {}, TWO)
    assert json.loads(written["config.json"]) == CONFIG


def test_configs_name_no_code_that_is_not_written() -> None:
    own = {"AutoConfig": "own.Own"}
    config = {"model_type": "llama", "auto_map": own, "text_config": {"auto_map": own, "a": 1}}
    unchanged = {
        "vocab.json": b'{"auto_map": 7}',  # a token
        "generation_config.json": b'{ "max_length" : 5 }',
    }
    files = {
        **unchanged,
        "tokenizer_config.json": b'{"auto_map": ["own.Own", null], "eos_token": "auto_map"}',
        "processor_config.json": b'{"image_processor": {"auto_map": {}, "b": 2}}',
    }
    written = small_files({**config, "custom_pipelines": {"x": {}}}, files, ONE)
    assert {name: written[name] for name in unchanged} == unchanged
    assert {name: json.loads(data) for name, data in written.items() if name not in unchanged} == {
        "config.json": {"model_type": "llama", "text_config": {"a": 1}},
        "tokenizer_config.json": {"eos_token": "auto_map"},
        "processor_config.json": {"image_processor": {"b": 2}},
    }


FILE = "model.safetensors"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([WeightFile(FILE, (A,)), WeightFile(FILE, (B,))], "two weight files .*model.safetensors"),
        ([WeightFile(f"a/{FILE}", (A, B))], "in a folder"),
        ([TWO[0], WeightFile("model-2.safetensors", (A, B))], "a would be written twice"),
    ],
)
def test_a_file_or_a_tensor_is_written_once(
    tmp_path: Path, weights: list[WeightFile], message: str
) -> None:
    def begin(out: Path) -> None:
        with partial_directory(out) as partial:
            for file in weights:  # of equal names the second replaces the first
                path = partial / file.name
                path.parent.mkdir(exist_ok=True)
                save_file({spec.name: TENSORS[spec.name] for spec in file.tensors}, path)
            publish(partial, out, weights, small_files(CONFIG, {}, weights))

    with pytest.raises(UserError, match=message):
        begin(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_in_a_folder_are_not_published(tmp_path: Path) -> None:
    def begin(out: Path) -> None:
        with partial_directory(out) as partial:
            save_file(TENSORS, partial / FILE)
            (partial / "more").mkdir()
            save_file({"c": torch.ones(1)}, partial / "more" / FILE)
            publish(partial, out, ONE, small_files(CONFIG, {}, ONE))

    with pytest.raises(UserError, match="nothing is kept"):
        begin(tmp_path / "out")


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_what_is_not_published(
    tmp_path: Path, error: type[BaseException] | None
) -> None:
    def begin() -> None:
        with partial_directory(tmp_path / "out") as partial:
            (partial / "config.json").write_text("{}")
            if error:
                raise error

    if error:
        with pytest.raises(error):
            begin()
    else:
        begin()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_holds_something_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        write(tmp_path / "out", ONE, TENSORS)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_one_process_at_a_time_writes_a_model(tmp_path: Path) -> None:
    with (
        partial_directory(tmp_path / "out"),
        pytest.raises(UserError, match="is writing it"),
        partial_directory(tmp_path / "out"),
    ):
        pass
    assert [*tmp_path.iterdir()] == []


@pytest.fixture
def _umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_modes_follow_the_umask(tmp_path: Path) -> None:
    write(tmp_path / "out", TWO, TENSORS)
    modes = {
        stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert modes == {0o640}
    assert {
        stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out", tmp_path / "out/notes")
    } == {0o750}


def test_all_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, out.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write(out, ONE, TENSORS)
    before = [name for name, published in synced if not published]
    assert {"model.safetensors", "config.json", "notes", "a.txt"} < set(before)
    assert before[-1] == "model"
    assert synced[-1] == (tmp_path.name, True)
    assert len(synced) == len(before) + 1


# What transformers was to write


@pytest.fixture
def model(tmp_path: Path) -> Any:
    source = write_tiny(LLAMA, tmp_path / "in", 1, tie_word_embeddings=True)
    return transformers.AutoModelForCausalLM.from_pretrained(source)


@pytest.mark.parametrize("size", ["50GB", "20KB"])
def test_what_the_library_saves(tmp_path: Path, model: Any, size: str) -> None:
    """Tied tensors are stored once."""
    out = tmp_path / "out"
    with partial_directory(out) as partial:
        model.save_pretrained(partial, max_shard_size=size)
        weights = library_weights(model, partial)
        config = json.loads((partial / "config.json").read_text())
        publish(partial, out, weights, small_files(config, {}, weights))
    assert (len(weights) > 1) is (size == "20KB")
    again = transformers.AutoModelForCausalLM.from_pretrained(out)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("fault", ["gone", "other type"])
def test_what_the_library_did_not_save_is_seen(tmp_path: Path, model: Any, fault: str) -> None:
    name = "model.norm.weight"

    def save() -> None:
        with partial_directory(tmp_path / "out") as partial:
            model.save_pretrained(partial)
            state = load_file(partial / "model.safetensors")
            if fault == "gone":
                del state[name]
            else:
                state[name] = state[name].half()
            save_file(state, partial / "model.safetensors")
            publish(partial, tmp_path / "out", library_weights(model, partial), {})

    with pytest.raises(UserError, match=rf"out/model\.safetensors: {name}: .*, not F32"):
        save()


def test_values_lost_where_the_library_renames_tensors_are_seen(tmp_path: Path) -> None:
    """Mixtral's tensors have other names in the file than in the class."""
    config = transformers.MixtralConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(tmp_path)
    (file,) = library_weights(model, tmp_path)
    assert not {spec.name for spec in file.tensors} <= model.state_dict().keys()
    state = load_file(tmp_path / FILE)
    del state["model.norm.weight"]
    save_file(state, tmp_path / FILE)
    with pytest.raises(UserError, match=r"wrote [\d,]+ values of a model that has [\d,]+"):
        library_weights(model, tmp_path)
