"""Check where a command is to write, before it does any work.

Missing parents of a target are no error: they are made when its content is written
(`regrow.common.publishing`).
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

from regrow.common.errors import UserError
from regrow.common.files import from_home
from regrow.common.publishing import partial_place, remove_strays

_PAGE = (b"<!doctype html", b"<html")


def check_new_file(path: Path, model: str | Path | None = None, *, dry_run: bool = False) -> None:
    """Raise UserError if a new file cannot be written at `path`, or another process writes it.

    What killed processes left beside it, and is of no use, is removed.

    Args:
        path: the file.
        model: as the user names it; the file must not lie inside its directory.
        dry_run: change nothing on the disk.
    """
    _sweep(path, dry_run)
    if path.is_symlink() or path.exists():
        raise UserError(f"{path}: exists; choose another file")
    check_place(path, model, dry_run)


def check_page(path: Path, model: str | Path | None = None) -> None:
    """The same for a page, which may take the place of an older page."""
    _sweep(path, dry_run=False)
    if path.is_dir():
        raise UserError(f"{path}: is a directory; name a file")
    if path.exists():
        with path.open("rb") as file:
            if not file.read(16).lower().lstrip().startswith(_PAGE):
                raise UserError(f"{path}: exists and is no page; choose another file")
    check_place(path, model, dry_run=False)


def check_new_directory(
    path: Path, model: str | Path | None = None, *, dry_run: bool = False
) -> None:
    """As `check_new_file`, for a new directory; it may be there and empty."""
    _sweep(path, dry_run)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: exists and is not a directory; choose another output")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path}: already holds something; choose an empty or new directory")
    check_place(path, model, dry_run)


def existing_parent(path: Path) -> Path:
    """The nearest parent of a path that exists."""
    return next(parent for parent in path.absolute().parents if os.path.lexists(parent))


def _sweep(path: Path, dry_run: bool) -> None:
    if not dry_run and path.parent.is_dir() and path.name not in ("", ".."):
        remove_strays(path)


def check_place(path: Path, model: str | Path | None = None, dry_run: bool = False) -> None:
    """Raise UserError if nothing can be written at `path`, or it lies inside the model."""
    parent = existing_parent(path)
    if not parent.is_dir():
        raise UserError(f"{path}: {parent} is not a directory; choose another place")
    problem = _why_unwritable(path, parent, dry_run)
    if problem:
        raise UserError(f"{path}: {parent} cannot be written to: {problem}; choose another place")
    inside = None if model is None else from_home(Path(model))
    if inside is not None and (inside / "config.json").is_file():
        target, outer = path.resolve(), inside.resolve()
        if target == outer or outer in target.parents:
            raise UserError(f"{path}: lies inside the model {model}; choose a place outside it")


def _why_unwritable(path: Path, parent: Path, dry_run: bool) -> str:
    """Why nothing can be made in the directory `parent` on the way to `path`; empty if it can."""
    if dry_run:
        return "" if os.access(parent, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
    # Permissions do not say it: a file system may refuse all the same. The place is one that a
    # later command sweeps, if this process is killed here.
    probe = partial_place(parent / path.absolute().relative_to(parent).parts[0])
    try:
        with suppress(FileExistsError):
            probe.mkdir()
            if path.is_dir() and not any(path.iterdir()):
                _check_replaceable(path, probe)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with suppress(OSError):  # it is that of another process, which uses it now
            probe.rmdir()
    return ""


def _check_replaceable(path: Path, probe: Path) -> None:
    """Raise UserError if an empty directory is a mount point, which a result cannot replace.

    Nothing but a rename tells this of each kind of mount. The directory is moved into `probe` and
    back, so it keeps what it is. The directory that this process is in cannot be replaced either.
    """
    if path.samefile(Path.cwd()):
        raise UserError(f"{path}: is the directory that you are in; name a directory in it")
    moved = probe / "moved"
    try:
        path.rename(moved)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise UserError(
                f"{path}: is a mount point, which cannot be replaced; name a directory in it"
            ) from None
        return
    try:
        moved.rename(path)
    except OSError:  # another process has removed it, or has written its result here
        path.mkdir(exist_ok=True)
