"""Write, link, remove and read small files; a write happens completely or not at all."""

import json
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.common.errors import UserError, one_line
from regrow.common.publishing import partial_file, partial_place, sync

if TYPE_CHECKING:
    from torch import Tensor


def from_home(path: Path) -> Path:
    """The path with `~` or `~name` expanded; unchanged if there is no user of that name."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def cache_directory() -> Path:
    """The directory for what can be made again: `$XDG_CACHE_HOME/regrow`, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regrow"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`; a reader sees the old file or the new one, never a part.

    The data is on the disk before it has its name. The file's mode follows the umask.
    """
    with partial_file(path) as file:
        file.write(data)


def save_tensors(tensors: "Mapping[str, Tensor]", path: Path) -> None:
    """Write a new safetensors file, with a mode as the umask says; if that fails, leave no file.

    Raises UserError if it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        path.touch()
        mode = stat.S_IMODE(path.stat().st_mode)
        save_file(dict(tensors), path, metadata={"format": "pt"})
        path.chmod(mode)  # safetensors writes files with 0600
    except (SafetensorError, OSError) as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path}: cannot be written, the disk is full or does not take it: "
            f"{one_line(str(error))}"
        ) from error


def link_atomically(path: Path, target: Path) -> None:
    """Make `path` a symbolic link to the directory `target`, replacing what is there."""
    if path.is_symlink() and path.readlink() == target:
        return
    if not path.is_symlink():  # a user may have replaced the link by a copy of the directory
        remove(path)
    temporary = partial_place(path)
    remove(temporary)
    temporary.symlink_to(target, target_is_directory=True)
    temporary.replace(path)
    sync(path.parent)


def remove(*paths: Path) -> None:
    """Remove files and directories; missing ones are ignored.

    A directory is first renamed to its `partial_place`, so that no half-emptied directory is left
    under its name.
    """
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            hidden = path
            if not path.name.startswith("."):
                hidden = partial_place(path)
                shutil.rmtree(hidden, ignore_errors=True)
                path.rename(hidden)
            shutil.rmtree(hidden)
        else:
            path.unlink(missing_ok=True)


def json_bytes(value: Any, indent: int | None = 2) -> bytes:
    """JSON in UTF-8, with a newline at the end."""
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode()


def check_name(path: Path, key: str | None = None) -> None:
    """Raise UserError, with `key`, if a path is not UTF-8, so that it cannot be written down."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{str(path)!r}: the name is not UTF-8; rename it", key=key) from None


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises UserError if it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


_LARGEST_JSON = 256 << 20
_DEEPEST_JSON = 100
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""Matches also both halves of a pair, so a match alone is no error."""


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError if it cannot be read or is not JSON.

    A file of more than 256 MB, more than 100 lists and objects inside each other, and half a
    surrogate pair, which is not Unicode text, are refused too. A pipe, which could be waited for
    without end, is not read.
    """
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            raise UserError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            raw = file.read(_LARGEST_JSON + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) > _LARGEST_JSON:
        raise UserError(f"{path}: larger than {_LARGEST_JSON >> 20} MB, the most that is read")
    return parse_json(raw, str(path))


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if the file does not hold a JSON object."""
    return _object(read_json(path), str(path))


def parse_json_object(raw: bytes, where: str) -> dict[str, Any]:
    """The JSON object in UTF-8 bytes. Raises UserError, beginning with `where`, if it is none."""
    return _object(parse_json(raw, where), where)


def parse_json(raw: bytes, where: str) -> Any:
    """What UTF-8 bytes of JSON stand for. Raises UserError, beginning with `where`, if not JSON."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise UserError(f"{where}: not JSON: not UTF-8") from None
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {one_line(str(error))}") from None
    _check_depth(value, where)
    if _LONE_SURROGATE.search(raw):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{where}: half a surrogate pair (\\ud800 to \\udfff), which is not Unicode text; "
                "write the whole character"
            ) from None
    return value


def _check_depth(value: Any, where: str) -> None:
    level = [value]
    for _ in range(_DEEPEST_JSON + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise _too_deep(where)


def _too_deep(where: str) -> UserError:
    return UserError(
        f"{where}: not JSON that is read: more than {_DEEPEST_JSON} lists and objects inside each "
        "other"
    )


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a JSON object is expected")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a repeated key, since JSON readers differ in which of its values they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {twice[:100]!r} occurs twice")
    return found
