"""Which files hold text, by their suffixes, and the text files that a path names."""

from importlib import import_module
from pathlib import Path
from typing import Any

from regrow.common.errors import UserError
from regrow.common.files import check_name

_KINDS = (".txt", ".jsonl", ".parquet")
_COMPRESSED = (".gz", ".zst")
_NEEDS = {".parquet": "pyarrow", ".zst": "zstandard"}
SUFFIXES = ".txt, .jsonl (also .gz or .zst) or .parquet"
STORE_NAME = "tokens"
"""The name of the files of a token store in its directory, without suffixes."""


def text_files(path: Path) -> list[Path]:
    """The text file at `path`, or all text files below it if it is a directory.

    Files of a directory come in the order of their paths. Files and directories whose names begin
    with a dot are left out, and links to directories are not followed.

    Raises UserError if there is no such file, its suffix is another, its name is not UTF-8, a
    package is missing that reads it, or the directory holds no text or something else: a model, a
    token store.
    """
    check_name(path)
    if not path.is_dir():
        check_text_file(path)
        return [path]
    for name, what in (("config.json", "a model"), (f"{STORE_NAME}.idx", "a token store")):
        if (path / name).is_file():
            raise UserError(f"{path}: {what}, not text; name a {SUFFIXES} file, or a directory")
    found = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and is_text_file(file)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise UserError(f"{path}: the directory holds no {SUFFIXES} file")
    for file in found:
        check_name(file)
        check_text_file(file)
    return found


def check_text_file(path: Path) -> None:
    """Raise UserError if a file is missing, has another suffix, or needs a missing package."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a {SUFFIXES} file")
    for suffix in kind_of(path):
        package_for(suffix, path)


def is_text_file(path: Path) -> bool:
    """Whether the suffix of a file is one that can be read."""
    try:
        kind_of(path)
    except UserError:
        return False
    return True


def kind_of(path: Path) -> tuple[str, str]:
    """The suffix of the format, and that of the compression or ``""``.

    Raises UserError if it is another.
    """
    name = path.name.lower()
    compression = next((suffix for suffix in _COMPRESSED if name.endswith(suffix)), "")
    kind = next((s for s in _KINDS if name.removesuffix(compression).endswith(s)), "")
    if not kind or (compression and kind == ".parquet"):
        raise UserError(f"{path}: unknown kind of text; name a {SUFFIXES} file")
    return kind, compression


def without_suffixes(path: Path) -> str:
    """The name of a file without the suffixes of a text: `wiki.en` of wiki.en.jsonl.gz."""
    name = path.name
    for suffixes in (_COMPRESSED, _KINDS):
        found = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
        name = name[: len(name) - len(found)]
    return name


def package_for(suffix: str, path: Path) -> Any:
    """The package that reads files of this suffix, if an extra package is needed.

    Raises UserError, with the file that needs it, if it is not installed.
    """
    name = _NEEDS.get(suffix)
    try:
        return name and import_module(name)
    except ImportError:
        raise UserError(
            f"{path}: {name} reads {suffix} and is not installed; pip install 'regrow[data]'"
        ) from None
