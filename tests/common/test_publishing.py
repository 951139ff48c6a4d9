"""What is written beside its target: owned, swept, synced before it has its name."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.common.files import link_atomically, remove, write_atomically
from regrow.common.publishing import (
    BusyError,
    durable,
    make_directory,
    partial_file,
    partial_place,
    publish,
    publish_finished,
    remove_all_strays,
    remove_strays,
    take_lock,
    unfinished_place,
    workplace,
)

_HOLD = """
import sys, time
from pathlib import Path
from regrow.common.publishing import workplace
with workplace(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def held(target: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the workplace of a target; it is killed at the end."""
    command = [sys.executable, "-c", _HOLD, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("stray", ["empty", "filled", "file", "link"])
@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_a_dead_owner_left_goes(tmp_path: Path, what: str, stray: str) -> None:
    target, mine = tmp_path / "out", tmp_path / "mine"
    mine.write_text("mine")
    place = partial_place(target)
    if stray == "link":
        place.symlink_to(mine)
    elif stray == "file":
        place.write_text("half")
    else:
        place.mkdir()
        if stray == "filled":
            (place / "model").mkdir()
            (place / "model/a").write_text("half")
    others = [tmp_path / ".outer.regrow-partial", tmp_path / ".out.notes"]
    for other in others:
        other.mkdir()
    if what == "file":
        write_atomically(target, b"new")
        assert target.read_bytes() == b"new"
        target.unlink()
    else:
        with workplace(target) as own:
            assert own == place
            assert [path.name for path in own.iterdir()] == ["lock"]
    assert {*tmp_path.iterdir()} == {mine, *others}
    assert mine.read_text() == "mine"


def test_a_living_owner_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with held(target) as other:
        (partial_place(target) / "model").mkdir()
        said = rf"out: another process \({other.pid}\) is writing it; wait for it"
        with pytest.raises(UserError, match=said), workplace(target):
            pass
        with pytest.raises(UserError, match=said):
            write_atomically(target, b"")
        with pytest.raises(UserError, match=said):
            remove_strays(target)
        remove_all_strays(tmp_path)
        assert (partial_place(target) / "model").is_dir()
    remove_all_strays(tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_who_writes_the_same_file_waits(tmp_path: Path) -> None:
    target, written = tmp_path / "a.json", threading.Event()

    def write() -> None:
        write_atomically(target, b"second")
        written.set()

    with partial_file(target) as file:
        other = threading.Thread(target=write)
        other.start()
        file.write(b"first")
        assert not written.wait(0.05)
    other.join()
    assert target.read_bytes() == b"second"
    assert [*tmp_path.iterdir()] == [target]


def test_who_waits_gets_the_place_after_its_owner(tmp_path: Path) -> None:
    target, found = tmp_path / "out", []

    def wait() -> None:
        with workplace(target, wait=True):
            found.append(target.is_dir())

    with workplace(target) as place:
        other = threading.Thread(target=wait)
        other.start()
        (place / "model").mkdir()
        publish(place / "model", target)
    other.join()
    assert found == [True]
    assert [*tmp_path.iterdir()] == [target]


def test_many_at_once_are_each_whole(tmp_path: Path) -> None:
    """Six threads write one file, and take and remove its place: nobody meets an error."""
    target, failures = tmp_path / "a", []

    def write(number: int) -> None:
        try:
            for _ in range(10):
                write_atomically(target, bytes([number]) * 5_000)
                remove_all_strays(tmp_path)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(target.read_bytes()) == 5_000
    assert len(set(target.read_bytes())) == 1
    assert [*tmp_path.iterdir()] == [target]


# Work that can be taken up


def test_work_with_a_checkpoint_stays_and_other_work_goes(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def work(*, has_checkpoint: bool) -> None:
        with workplace(target, checkpoint="state") as place:
            assert [path.name for path in place.iterdir()] == ["lock"]
            if has_checkpoint:
                (place / "state").write_text("3")
            raise RuntimeError

    for has_checkpoint in (False, True):
        with pytest.raises(RuntimeError):
            work(has_checkpoint=has_checkpoint)
    remove_all_strays(tmp_path)
    remove_strays(target)
    with workplace(target, checkpoint="state") as place:
        assert (place / "state").read_text() == "3"
    assert [*tmp_path.iterdir()] == []


def test_work_whose_result_has_its_name_is_a_stray(tmp_path: Path) -> None:
    target, place = tmp_path / "out", unfinished_place(tmp_path / "out")

    def work() -> None:
        with workplace(target, checkpoint="state"):
            (place / "state").touch()
            (place / "result").write_text("result")
            publish_finished(place / "result", target)
            raise RuntimeError  # as if killed before the place is removed

    with pytest.raises(RuntimeError):
        work()
    assert place.is_dir()
    remove_strays(target)
    assert [*tmp_path.iterdir()] == [target]
    place.mkdir()
    (place / "state").touch()  # of other work, though the target is there
    remove_strays(target)
    assert (place / "state").exists()


# Locks


def test_a_result_that_does_not_get_its_name_is_kept(tmp_path: Path) -> None:
    """Somebody made the target meanwhile."""
    target = tmp_path / "out"

    def work() -> None:
        with workplace(target, checkpoint="state") as place:
            (place / "state").touch()
            (place / "result").mkdir()
            target.mkdir()
            (target / "other").touch()
            publish_finished(place / "result", target)

    with pytest.raises(OSError, match="not empty"):
        work()
    remove_strays(target)
    assert (unfinished_place(target) / "result").is_dir()


def test_a_lock_names_its_owner_and_is_free_after_it(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / "lock")
    with pytest.raises(BusyError, match=f"^{os.getpid()}$"):
        take_lock(tmp_path / "lock")
    os.close(lock)
    os.close(take_lock(tmp_path / "lock"))


def test_a_file_system_without_locks_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(UserError, match=r"no locks \(Operation not supported\)"):
        write_atomically(tmp_path / "a", b"")
    with (
        pytest.raises(UserError, match=r"no locks \(Operation not supported\)"),
        workplace(tmp_path / "a"),
    ):
        pass


@pytest.mark.parametrize("target", ["", ".", "..", "/"])
def test_a_target_without_a_name_is_one_line(target: str) -> None:
    with pytest.raises(UserError, match="has no name of its own"):
        partial_place(Path(target))


# Onto the disk


def test_all_is_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new/out"
    synced: list[tuple[str, bool]] = []

    def watched(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, out.exists()))

    monkeypatch.setattr(os, "fsync", watched)
    assert make_directory(out.parent) == [out.parent]
    assert synced.pop() == (tmp_path.name, False)
    with workplace(out) as place:
        (place / "model/inner").mkdir(parents=True)
        (place / "model/inner/a").touch()
        publish(place / "model", out)
    assert sorted(synced) == [
        ("a", False), ("inner", False), ("model", False), ("new", True),
    ]  # fmt: skip
    assert synced[-2:] == [("model", False), ("new", True)]
    synced.clear()
    write_atomically(tmp_path / "a.json", b"")
    link_atomically(tmp_path / "link", Path("new"))
    assert synced == [(".a.json.regrow-partial", True), *2 * [(tmp_path.name, True)]]
    synced.clear()
    with durable(False):
        write_atomically(tmp_path / "a.json", b"")
        make_directory(tmp_path / "b/c")
        remove(out)
    assert synced == []
    write_atomically(tmp_path / "a.json", b"")
    assert synced


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        partial_place(tmp_path / "a").touch(0o666)
        partial_place(tmp_path / "a").chmod(0o666)  # left by a process with another umask
        write_atomically(tmp_path / "a", b"a")
        make_directory(tmp_path / "b/c")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "b/c").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_file_system_that_takes_no_directory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc, which answers that there is no such file; it is not tried again and again."""

    make = Path.mkdir

    def refuse(path: Path, *given: Any, **more: Any) -> None:
        if path == partial_place(tmp_path / "out"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        make(path, *given, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FileNotFoundError), workplace(tmp_path / "out"):
        pass
