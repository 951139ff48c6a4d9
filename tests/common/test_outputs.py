"""Where a command is to write is checked before it does any work."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.common.files import write_atomically
from regrow.common.outputs import check_new_directory, check_new_file, check_page
from regrow.common.publishing import partial_place, publish, workplace


@pytest.fixture
def places(tmp_path: Path) -> Path:
    for name in ("source", "empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "config.json").write_text("{}")
    (tmp_path / "full" / "x").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "page.html").write_text("<!DOCTYPE html>")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "alias").symlink_to(tmp_path / "source")
    return tmp_path


NOWHERE = [
    ("source/new", "lies inside the model"),
    ("alias/new", "lies inside the model"),
    ("source/a/b", "lies inside the model"),
    ("empty/../source/new", "lies inside the model"),
    ("file/new", "file is not a directory"),
    ("dangling/new", "dangling is not a directory"),
]
DIRECTORIES = [
    ("full", "already holds something"),
    ("file", "exists and is not a directory"),
    ("link", "exists and is not a directory"),
    ("dangling", "exists and is not a directory"),
    ("source", "already holds something"),
]
FILES = [(name, "exists; choose another file") for name in ("full", "file", "link", "dangling")]
PAGES = [("full", "is a directory"), ("file", "exists and is no page")]


@pytest.mark.parametrize(
    ("check", "out", "message"),
    [
        *((check_new_directory, *each) for each in [*NOWHERE, *DIRECTORIES]),
        *((check_new_file, *each) for each in [*NOWHERE, *FILES]),
        *((check_page, *each) for each in [*NOWHERE, *PAGES]),
    ],
)
def test_what_cannot_be_written_is_refused(
    places: Path, check: Callable[..., None], out: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(places / out, places / "source")


@pytest.mark.parametrize(
    ("check", "out"),
    [
        *((check_new_directory, out) for out in ("empty", "new", "source-small", "full/new/a")),
        *((check_new_file, out) for out in ("new", "source-small", "full/new/a")),
        *((check_page, out) for out in ("new", "page.html", "full/new/a")),
    ],
)
def test_other_places_are_accepted(places: Path, check: Callable[..., None], out: str) -> None:
    before = sorted(places.rglob("*"))
    check(places / out, places / "source")
    check(places / out, "owner/name")
    assert sorted(places.rglob("*")) == before


@pytest.mark.parametrize("check", [check_new_directory, check_new_file, check_page])
def test_a_place_that_takes_nothing_is_refused(check: Callable[..., None]) -> None:
    with pytest.raises(UserError, match=r"/proc cannot be written to: .*; choose another place"):
        check(Path("/proc/regrow/out"))


def test_an_empty_directory_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o750)
    before = (tmp_path / "out").stat()
    check_new_directory(tmp_path / "out")
    after = (tmp_path / "out").stat()
    assert (after.st_ino, after.st_mode, after.st_mtime) == (
        before.st_ino, before.st_mode, before.st_mtime,
    )  # fmt: skip
    assert [*tmp_path.iterdir()] == [tmp_path / "out"]


@pytest.mark.parametrize("out", [".", "../mine", "{}"])
def test_the_directory_that_one_is_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.chdir(mine)
    with pytest.raises(UserError, match="is the directory that you are in; name a directory in it"):
        check_new_directory(Path(out.format(mine)))
    assert [*tmp_path.iterdir()] == [mine]
    assert not [*mine.iterdir()]


def test_a_mount_point_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result could not get its name there, after all the work."""

    def rename(self: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(UserError, match=r"out: is a mount point, .*; name a directory in it"):
            check_new_directory(tmp_path / "out")
    assert [*tmp_path.iterdir()] == [tmp_path / "out"]


@pytest.mark.parametrize("how", ["-t tmpfs none", "--bind source"])
def test_both_kinds_of_mount_are_known(tmp_path: Path, how: str) -> None:
    """As root of a new namespace; skipped where that is not allowed."""
    for name in ("source", "out"):
        (tmp_path / name).mkdir()
    code = "from pathlib import Path; from regrow.common.outputs import check_new_directory as c; "
    code += "c(Path('out/new')); c(Path('out'))"
    space = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*space, f"mount {how} out"], cwd=tmp_path, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system allows no mounts in a namespace of a user")
    script = f'mount {how} out && exec {sys.executable} -c "{code}"'
    found = subprocess.run(
        [*space, script], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert found.stderr.splitlines()[-1].endswith(
        "out: is a mount point, which cannot be replaced; name a directory in it"
    )


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    times = tmp_path.stat().st_mtime_ns
    check_new_directory(tmp_path / "a/b", dry_run=True)
    check_new_file(tmp_path / "a", dry_run=True)
    assert tmp_path.stat().st_mtime_ns == times


@pytest.mark.parametrize("check", [check_new_directory, check_new_file, check_page])
def test_what_a_killed_process_left_is_removed(tmp_path: Path, check: Callable[..., None]) -> None:
    for target in ("out", "a"):
        partial_place(tmp_path / target).mkdir()
    check(tmp_path / "out")
    check(tmp_path / "a/b")
    assert [*tmp_path.iterdir()] == []


def test_the_place_of_another_process_is_left_alone(tmp_path: Path) -> None:
    with workplace(tmp_path / "out"):
        with pytest.raises(UserError, match="another process"):
            check_new_file(tmp_path / "out")
        check_new_file(tmp_path / "out/more")
        assert partial_place(tmp_path / "out").is_dir()


def test_missing_parents_are_made_and_removed_if_the_work_fails(tmp_path: Path) -> None:
    target = tmp_path / "a/b/c"
    with pytest.raises(ZeroDivisionError), workplace(target):
        raise ZeroDivisionError
    assert [*tmp_path.iterdir()] == []
    with workplace(target) as place:
        (place / "made").mkdir()
        publish(place / "made", target)
    assert target.is_dir()
    write_atomically(tmp_path / "x/y/z", b"text")
    assert (tmp_path / "x/y/z").read_bytes() == b"text"
