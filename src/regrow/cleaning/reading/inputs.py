"""The files and data sets that the sources of a configuration name."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from regrow.cleaning.config import CorpusSource
from regrow.common.errors import UserError
from regrow.common.files import check_name

_SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "text", ".html": "html",
    ".htm": "html", ".xhtml": "html", ".warc": "warc", ".wet": "warc",
}  # fmt: skip
_COMPRESSED = (".gz", ".zst")
_NAMES = ".jsonl, .parquet, .txt, .html, .warc (also .gz or .zst)"
_PATTERN = re.compile(r"[*?\[]")
_PACKAGES = {
    "parquet": ("pyarrow", "pyarrow", "data"),
    ".zst": ("zstandard", "zstandard", "data"),
    "warc": ("fastwarc", "fastwarc", "clean"),
    "html": ("resiliparse", "resiliparse", "clean"),
    "dataset": ("datasets", "datasets", "clean"),
}
"""What needs a package: its module, its name, and the extra that brings it."""


@dataclass(frozen=True)
class Input:
    """A file or a data set to read.

    Attributes:
        source: The number of its source.
        path: The file; for a data set, its directory, or its name on the hub.
        label: Names it in the ids of its documents.
        format: How it is read: ``jsonl``, ``parquet``, ``text``, ``html``, ``warc``, ``dataset``.
        compression: ``.gz``, ``.zst`` or ``""``.
    """

    source: int
    path: Path
    label: str
    format: str
    compression: str = ""

    @property
    def nbytes(self) -> int:
        """The bytes of the file; 0 for a data set of the hub."""
        if self.format == "dataset":
            return sum(path.stat().st_size for path in self.path.rglob("*.arrow"))
        return self.path.stat().st_size


def inputs_of(sources: Sequence[CorpusSource]) -> list[Input]:
    """All files of the sources, in the order of the sources and of the paths.

    Raises UserError if a path leads to no file, a file is named twice, its format is unknown, or a
    package that reads it is missing.
    """
    found: list[Input] = []
    seen: dict[Path, str] = {}
    for number, source in enumerate(sources):
        where = f"sources.{number}"
        if source.dataset is not None:
            need_package("dataset", source.dataset, where)
            found.append(Input(number, Path(source.dataset), source.dataset, "dataset"))
            continue
        named = [pair for path in source.path or () for pair in _files(path, where, source)[0]]
        unique = len({label for _, label in named}) == len(named)
        for path, label in named:
            check_name(path, f"{where}.path")
            real = path.resolve()
            if real in seen:
                raise UserError(
                    f"{path}: named twice, in {seen[real]} and {source.name}", key=f"{where}.path"
                )
            seen[real] = source.name
            form, compression = _format(path, source, where)
            for what in (form, compression):
                need_package(what, str(path), where)
            found.append(Input(number, path, label if unique else str(path), form, compression))
    return found


def left_out(sources: Sequence[CorpusSource]) -> dict[str, int]:
    """How many files of the directories are not read, by their suffix."""
    found = Counter(
        split_name(file)[0] or "without suffix"
        for number, source in enumerate(sources)
        for path in source.path or ()
        for file in _files(path, f"sources.{number}", source)[1]
    )
    return dict(sorted(found.items()))


def stamps(inputs: Sequence[Input]) -> list[list[Any]]:
    """Path, bytes and time of change of each file: a later run compares them with its own."""
    return [
        [str(each.path.resolve()), each.nbytes, each.path.stat().st_mtime_ns]
        if each.path.exists()
        else [str(each.path)]
        for each in inputs
    ]


Named = list[tuple[Path, str]]
"""Files, each with its path below the directory that was named, which is its label."""


def _files(path: Path, where: str, source: CorpusSource) -> tuple[Named, list[Path]]:
    def accepts(file: Path) -> bool:
        return source.format is not None or _by_suffix(file)[0] != ""

    return files_of(path, f"{where}.path", accepts, _NAMES)


def files_of(
    path: Path, key: str, accepts: Callable[[Path], bool], names: str
) -> tuple[Named, list[Path]]:
    """The files that a path stands for, and the files of a directory that are not accepted.

    Hidden files are neither.

    Args:
        path: a file, a directory, or a pattern.
        key: where it stands in the configuration.
        accepts: whether a file of a directory is read; files that are named are.
        names: what is read, for messages.

    Raises:
        UserError: there is no file.
    """
    if path.is_dir():
        root, inside = path, sorted(path.rglob("*"))
    elif path.exists():
        return [(path, path.name)], []
    elif _PATTERN.search(str(path)):
        fixed = [*_fixed_parts(path)]
        root = Path(*fixed) if fixed else Path()
        inside = sorted(root.glob(str(path.relative_to(root))))
    else:
        raise UserError(f"{path}: no such file or directory", key=key)
    files = [
        file
        for file in inside
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)
    ]
    others = [file for file in files if path.is_dir() and not accepts(file)]
    left = [file for file in files if file not in set(others)] if others else files
    if not left:
        what = "holds no file that can be read" if path.is_dir() else "no file fits the pattern"
        raise UserError(f"{path}: {what} ({names})", key=key)
    return [(file, file.relative_to(root).as_posix()) for file in left], others


def _fixed_parts(path: Path) -> Iterator[str]:
    """The parts of a pattern before the first that is a pattern."""
    for part in path.parts:
        if _PATTERN.search(part):
            return
        yield part


def _by_suffix(path: Path) -> tuple[str, str]:
    """The format and the compression of a file by its name; the format may be empty."""
    suffix, compression = split_name(path)
    return _SUFFIXES.get(suffix, ""), compression


def split_name(path: Path) -> tuple[str, str]:
    """The suffix of a file without the one of compression, and that one or nothing."""
    name = path.name.lower()
    compression = next((suffix for suffix in _COMPRESSED if name.endswith(suffix)), "")
    return os.path.splitext(name.removesuffix(compression))[1], compression  # noqa: PTH122


def _format(path: Path, source: CorpusSource, where: str) -> tuple[str, str]:
    by_suffix, compression = _by_suffix(path)
    form = source.format or by_suffix
    if not form:
        raise UserError(
            f"{path}: its suffix does not say how to read it; set format", key=f"{where}.path"
        )
    if form == "parquet" and compression:
        raise UserError(
            f"{path}: Parquet is compressed inside; unpack the {compression} file",
            key=f"{where}.path",
        )
    return form, compression


def need_package(what: str, path: str, where: str) -> None:
    """Raise UserError if a package that reads something is missing."""
    if what not in _PACKAGES:
        return
    module, package, extra = _PACKAGES[what]
    try:
        import_module(module)
    except ImportError:
        raise UserError(
            f"{path}: {package} reads it and is not installed; pip install 'regrow[{extra}]'",
            key=where,
        ) from None
