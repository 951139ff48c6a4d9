"""The text files that a user names, and the source that each belongs to."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from regrow.common.errors import UserError
from regrow.corpus.text_files import text_files, without_suffixes

MOST_SOURCES = 64
_SHARD = re.compile(r"[-_.]\d+([-_.]?of[-_.]?\d+)?$")


class NamedFile(NamedTuple):
    """A text file and the name of its source, such as a language."""

    source: str
    path: Path


def named_files(
    arguments: Sequence[str], key: str, reserved: Collection[str] = ()
) -> list[NamedFile]:
    """The files that arguments name, in order: a path each, or ``NAME=PATH``.

    A directory stands for all text files below it, in the order of their paths. A pattern (``*``,
    ``?``) stands for the files that match it. Without ``NAME``, the source is called like the
    directory, or like the file without its suffixes and shard number.

    Args:
        arguments: what the user gave.
        key: the key of an error.
        reserved: names that no source gets without `NAME`; it is then called like the whole file.

    Raises:
        UserError: a directory or a pattern gives no text file, or there are too many sources.
    """
    found: list[NamedFile] = []
    for argument in arguments:
        name, path = _split(argument)
        if path.is_dir():
            try:
                inside = text_files(path)
            except UserError as error:
                raise UserError(str(error), key=key) from None
            found += [NamedFile(name or path.resolve().name, each) for each in inside]
        elif not path.exists() and re.search(r"[*?]", str(path)):
            root = Path(path.anchor)
            fitting = sorted(root.glob(str(path.relative_to(root))))
            if not fitting:
                raise UserError(f"{path}: no file fits the pattern", key=key)
            found += [NamedFile(name or _source_name(each, reserved), each) for each in fitting]
        else:
            found.append(NamedFile(name or _source_name(path, reserved), path))
    sources = dict.fromkeys(file.source for file in found)
    if len(sources) > MOST_SOURCES:
        raise UserError(
            f"{len(sources)} sources, {MOST_SOURCES} at most can be told apart; name "
            "what belongs together: NAME=FILE or NAME=DIRECTORY",
            key=key,
        )
    return found


def _split(argument: str) -> tuple[str, Path]:
    name, equals, path = argument.partition("=")
    if equals and name and not Path(argument).exists():
        return name, Path(path)
    return "", Path(argument)


def _source_name(path: Path, reserved: Collection[str]) -> str:
    stem = _SHARD.sub("", without_suffixes(path)) or path.name
    name = path.resolve().parent.name if stem.isdigit() else stem
    return path.name if name in reserved else name
