"""The ledger: torn lines are repaired, damage is named, one process at a time."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.common.publishing import partial_place
from regrow.common.run_directory import LEDGER_FILE
from regrow.pipeline.ledger import (
    Entry,
    Ledger,
    differences,
    read_entries,
    step_after,
)

_HOLD = """
import sys, time
from pathlib import Path
from regrow.pipeline.ledger import Ledger
with Ledger(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def entry(step: str, **outputs: Any) -> Entry:
    return Entry(step, "k" + step, {"seed": 1}, outputs, {}, "2026-01-01T00:00:00+00:00", 1.5)


def filled(directory: Path, *steps: str) -> Path:
    with Ledger(directory) as ledger:
        for step in steps:
            ledger.record(entry(step, text="é\u2028\n"))
    return directory / LEDGER_FILE


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    path = filled(tmp_path / "a/b", "one", "two")
    with Ledger(tmp_path / "a/b") as ledger:
        assert list(ledger.entries) == ["one", "two"]
        assert ledger.entries["one"] == entry("one", text="é\u2028\n")
        ledger.record(entry("one", loss=2.0))
    assert read_entries(path)["one"].outputs == {"loss": 2.0}
    assert list(read_entries(path)) == ["one", "two"]


def test_a_step_is_done_with_the_same_key_only(tmp_path: Path) -> None:
    step = step_after(None, "one", {"seed": 1})
    with Ledger(tmp_path) as ledger:
        assert ledger.done(step) is None
        ledger.record(Entry("one", step.key, step.inputs, {}, {}, "", 0.0))
        assert ledger.done(step) is not None
        assert ledger.done(step_after(None, "one", {"seed": 2})) is None
        assert ledger.done(step_after(step, "one", {"seed": 1})) is None


def test_a_line_torn_at_any_byte_is_repaired(tmp_path: Path) -> None:
    path = filled(tmp_path, "one", "two")
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for length in range(len(data)):
        path.write_bytes(data[:length])
        whole = ["one"] if length >= first else []
        assert list(read_entries(path)) == whole
        assert path.read_bytes() == data[:length]  # reading alone repairs nothing
        with Ledger(tmp_path) as ledger:
            assert list(ledger.entries) == whole
            ledger.record(entry("three"))
        assert list(read_entries(path)) == [*whole, "three"]


def whole(**changed: Any) -> bytes:
    """A line that would be an entry without these changes."""
    return json.dumps({**asdict(entry("two")), **changed}).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'{"step": "one"}',
        b"\xff",
        b"\x00" * 9,
        b'{"a": 1, "b": 2}',
        b"[" * 99_999,
        whole(step=3),
        whole(step=[]),
        whole(outputs=None),
        whole(inputs=[1]),
        whole(started=5),
        whole(seconds="1"),
        whole(seconds=math.nan),
        whole(key={}),
        whole(outputs={"a": "\ud800"}),
    ],
)
def test_damage_elsewhere_is_named(tmp_path: Path, line: bytes) -> None:
    path = filled(tmp_path, "one", "two", "three")
    lines = path.read_bytes().splitlines()
    damaged = b"\n".join([lines[0], line, lines[2]]) + b"\n"
    path.write_bytes(damaged)
    for _ in range(2):  # the lock is free again after the first
        with pytest.raises(UserError, match=f"{LEDGER_FILE}:2: damaged"), Ledger(tmp_path):
            pass
    assert path.read_bytes() == damaged


def hold(directory: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_two_processes_cannot_hold_one(tmp_path: Path) -> None:
    with hold(tmp_path) as other:
        try:
            said = rf"another run \(process {other.pid}\) is using it"
            with pytest.raises(UserError, match=said), Ledger(tmp_path):
                pass
        finally:
            os.kill(other.pid, signal.SIGKILL)
    with Ledger(tmp_path) as ledger:  # the killed holder frees it
        ledger.record(entry("one"))


def test_a_second_ledger_in_one_process_cannot_hold_it_either(tmp_path: Path) -> None:
    with Ledger(tmp_path), pytest.raises(UserError, match="another run"), Ledger(tmp_path):
        pass
    with Ledger(tmp_path):
        pass


def test_a_failed_start_leaves_nothing(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        with Ledger(directory):
            raise UserError("no")

    with pytest.raises(UserError):
        fail(tmp_path / "runs/new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        fail(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    path = filled(tmp_path / "begun", "one")
    with pytest.raises(UserError):
        fail(path.parent)
    assert list(read_entries(path)) == ["one"]


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match=r"holds thesis\.txt and no ledger"), Ledger(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_killed_process_wrote_before_the_ledger_is_no_other_content(tmp_path: Path) -> None:
    partial_place(tmp_path / "original").mkdir()
    with Ledger(tmp_path):
        pass


def test_a_place_that_cannot_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(UserError, match="cannot hold a run"), Ledger(place):
            pass


def test_forgetting_rewrites_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path, "one", "two", "three")
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with Ledger(tmp_path) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", fail)
            with pytest.raises(OSError, match="No space"):
                ledger.forget(["two"])
        assert path.read_bytes() == before
        ledger.forget(["two", "unknown"])
        assert list(ledger.entries) == ["one", "three"]
    assert list(read_entries(path)) == ["one", "three"]
    assert {p.name for p in tmp_path.iterdir()} == {LEDGER_FILE, "lock"}


def test_a_step_is_on_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its line, and before the second the name of the file."""
    synced: list[Path] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        synced.append(path)
        if path.is_file():
            last = path.read_bytes().splitlines()[-1]
            assert json.loads(last) == asdict(entry(["one", "two"][synced.count(path) - 1]))

    with Ledger(tmp_path) as ledger:
        monkeypatch.setattr("os.fsync", fsync)
        ledger.record(entry("one"))
        assert synced == [tmp_path / LEDGER_FILE, tmp_path]
        ledger.record(entry("two"))
    assert synced[2:] == [tmp_path / LEDGER_FILE]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"cut": {"ffn": 960}}, {"cut": {"ffn": 896}}, ["cut.ffn: 960 -> 896"]),
        ({"by": None}, {"by": "random"}, ["by: nothing -> random"]),
        ({"a": 1}, {}, ["a: 1 -> nothing"]),
        ({"train": "0" * 64}, {"train": "f" * 64}, ["train: changed"]),
        ({"m": "sha256:" + "0" * 64}, {"m": "sha256:" + "1" * 64}, ["m: changed"]),
        ({"a": [1], "b": 2}, {"a": [1], "b": 2}, []),
        ({"a": {"b": 1}}, {"a": 3}, ['a: {"b": 1} -> 3']),
        ({"p": "x" * 99}, {"p": ""}, [f"p: {'x' * 36}… -> "]),
    ],
)
def test_differences_in_words(old: Any, new: Any, words: list[str]) -> None:
    assert differences(old, new) == words


_INPUTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(_INPUTS, _INPUTS)
def test_what_differs_is_told_and_changes_the_key(old: Any, new: Any) -> None:
    def key(inputs: Any) -> str:
        return step_after(None, "one", {"all": inputs}).key

    assert differences(old, old) == []
    if key(old) == key(new):
        assert differences(old, new) == []
