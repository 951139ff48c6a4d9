"""Small files, whole or not at all."""

import json
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from regrow.common import files
from regrow.common.errors import UserError
from regrow.common.files import (
    parse_json_object,
    read_json,
    read_json_object,
    read_text,
    save_tensors,
    write_atomically,
)


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_failure_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    replace = Path.replace

    def renamed(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr("os.fsync", lambda _: steps.append("sync"))
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "a.json", b"x")
    assert steps == ["sync", "rename", "sync"]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_reads_json(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert read_json(path) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b" 2}', r"not JSON: .*line 2 column"),
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 200_000, "not JSON"),
        (b"9" * 5_000, "not JSON"),
        (b'{"a": [{"b": 1, "c": 2, "b": 1}]}', "key 'b' occurs twice"),
        (b"[" * 102 + b"]" * 102, "more than 100 lists and objects inside each other"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "more than 100 lists and objects"),
        (rb'{"a": "\ud83d\ude00 \ud83d"}', "half a surrogate pair"),
        (rb'{"a\uDFFF": 1}', "half a surrogate pair"),
    ],
    ids=["no colon", "empty", "not UTF-8", "deep", "long number", "key twice", *"1234"],
)
def test_refuses_what_is_no_json(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_json(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[]", "null", '"a"', "1"])
def test_refuses_what_is_no_object(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    expected = ": a JSON object is expected$"
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}{expected}"):
        read_json_object(path)
    with pytest.raises(UserError, match=f"^here{expected}"):
        parse_json_object(content.encode(), "here")
    path.write_text('{"a": 1}')
    assert read_json_object(path) == parse_json_object(b'{"a": 1}', "here") == {"a": 1}


def test_refuses_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"a\.json: is not a regular file"):
        read_json(tmp_path / "a.json")


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_writes_tensors(tmp_path: Path, umask: int) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    before = os.umask(umask)
    try:
        save_tensors(tensors, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    read = load_file(tmp_path / "a.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses a file without it


def test_tensors_that_find_no_room_are_told_and_leave_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot be written, the disk is full or") as error:
            save_tensors({"a": torch.zeros(10_000)}, tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value).startswith(f"{tmp_path / 'a.safetensors'}: ")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="cannot be written"):
        save_tensors({"a": torch.zeros(1)}, tmp_path / "none" / "a.safetensors")


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    """Python reads it, and cannot write it in UTF-8."""
    path = tmp_path / "a.json"
    path.write_bytes(rb'{"a": "\ud83d\ude42 \\ud800"}')
    assert read_json_object(path) == {"a": "\U0001f642 \\ud800"}
    for half in (rb'{"a": ["\ud800"]}', rb'{"\udfff": 1}', rb'"\ude42\ud83d"'):
        path.write_bytes(half)
        with pytest.raises(UserError, match=r"a\.json: half a surrogate pair"):
            read_json(path)


def test_text_must_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(UserError, match="no such file"):
        read_text(path)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8"):
        read_text(path)
    path.write_text("\u00e9\n", encoding="utf-8")
    assert read_text(path) == "\u00e9\n"


def test_whole_pairs_and_nesting_are_read() -> None:
    deep = b'{"a":' + b"[" * 99 + b"]" * 99 + b"}"
    assert parse_json_object(deep, "here")
    assert parse_json_object(rb'{"a": "\ud83d\ude00 \\ud83d"}', "here") == {"a": "😀 \\ud83d"}


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LARGEST_JSON", 10)
    (tmp_path / "a.json").write_text('{"a": 123}')
    assert read_json(tmp_path / "a.json") == {"a": 123}
    (tmp_path / "a.json").write_text('{"a": 1234}')
    with pytest.raises(UserError, match=r"a\.json: larger than"):
        read_json(tmp_path / "a.json")


def test_a_key_that_stands_twice_among_many_is_found_quickly() -> None:
    many = ", ".join(f'"{number}": 1' for number in [*range(100_000), 99_999])
    with pytest.raises(UserError, match="key '99999' occurs twice"):
        parse_json_object(f"{{{many}}}".encode(), "here")
