"""Check where a command is to write, before it does any work.

Missing parents of a target are no error: they are made when its content is written
(`regrow.common.publishing`).
"""

import os
import tempfile
from pathlib import Path

from regrow.common.errors import UserError
from regrow.common.files import from_home

_PAGE = (b"<!doctype html", b"<html")


def check_new_file(path: Path, model: str | Path | None = None) -> None:
    """Raise UserError if a new file cannot be written at `path`.

    `model`: as the user names it; the file must not lie inside its directory.
    """
    if path.is_symlink() or path.exists():
        raise UserError(f"{path}: exists; choose another file")
    _check_place(path, model)


def check_page(path: Path, model: str | Path | None = None) -> None:
    """The same for a page, which may take the place of an older page."""
    if path.is_dir():
        raise UserError(f"{path}: is a directory; name a file")
    if path.exists():
        with path.open("rb") as file:
            if not file.read(16).lower().lstrip().startswith(_PAGE):
                raise UserError(f"{path}: exists and is no page; choose another file")
    _check_place(path, model)


def check_new_directory(path: Path, model: str | Path | None = None) -> None:
    """Raise UserError if a new directory cannot be written at `path`; it may be there and empty.

    `model`: as for `check_new_file`.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: exists and is not a directory; choose another output")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path}: already holds something; choose an empty or new directory")
    _check_place(path, model)


def existing_parent(path: Path) -> Path:
    """The nearest parent of a path that exists."""
    return next(parent for parent in path.absolute().parents if os.path.lexists(parent))


def _check_place(path: Path, model: str | Path | None) -> None:
    parent = existing_parent(path)
    if not parent.is_dir():
        raise UserError(f"{path}: {parent} is not a directory; choose another place")
    try:  # the permissions do not say it: a file system may refuse all the same
        os.rmdir(tempfile.mkdtemp(prefix=".regrow-", dir=parent))  # noqa: PTH106
    except OSError as error:
        raise UserError(
            f"{path}: {parent} cannot be written to: {error.strerror}; choose another place"
        ) from None
    inside = None if model is None else from_home(Path(model))
    if inside is not None and (inside / "config.json").is_file():
        target, outer = path.resolve(), inside.resolve()
        if target == outer or outer in target.parents:
            raise UserError(f"{path}: lies inside the model {model}; choose a place outside it")
