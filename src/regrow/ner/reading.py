"""Read annotated sentences from files that a user names."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from regrow.common.errors import UserError
from regrow.ner.bio_files import read_bio
from regrow.ner.json_files import read_json_entities
from regrow.ner.sentences import EntitySet

_GENERIC = ("train", "test", "dev", "valid", "validation", "data")
"""Names of files that say less than the name of their directory."""
_NAMED = 20
"""The most types that an error names."""


def read_sets(arguments: Sequence[str], *, without: Collection[str] = ()) -> list[EntitySet]:
    """The sets of some files.

    Args:
        arguments: A path each, or `NAME=PATH`. Without a name, a set is called like its file, or
            like its directory if the file is called `train`, `test` or the like.
        without: Types that are left out.

    Raises:
        UserError: a file cannot be read, has none of the forms, or has no type of entity; or two
            sets have the same name.
    """
    if not arguments:
        raise UserError("give at least one file")
    found: dict[str, EntitySet] = {}
    for argument in arguments:
        given, path = _split(argument)
        name = given or _name(path)
        if name in found:
            raise UserError(f"{argument}: another file is also called {name!r}; give NAME=FILE")
        found[name] = read_set(path, name).without(without)
        if not found[name].types:
            raise UserError(f"{path}: no entity of any type")
    return list(found.values())


def check_left_out(
    sets: Iterable[EntitySet], without: Iterable[str], always: Iterable[str] = ()
) -> None:
    """Raise UserError at a type to leave out that none of these sets had.

    `always`: types that a set may lack.
    """
    sets = list(sets)
    gone = {name.casefold() for name in always}
    gone.update(name.casefold() for each in sets for name in each.left_out)
    if unknown := [name for name in without if name.casefold() not in gone]:
        types = sorted({name for each in sets for name in (*each.types, *each.left_out)})
        more = f", and {len(types) - _NAMED:,} more" if len(types) > _NAMED else ""
        named = ", ".join(types[:_NAMED])
        raise UserError(
            f"no file has this type; there are {named}{more}", key="without", value=unknown[0]
        )


def read_set(path: Path, name: str | None = None) -> EntitySet:
    """The set of one file, of JSON or of tokens and tags; by default it is called like the file.

    Raises UserError if it cannot be read, or has none of the forms.
    """
    if path.is_dir():
        raise UserError(f"{path}: a directory; give the file")
    unpacked = path.name.removesuffix(".gz").removesuffix(".zst")
    read = read_json_entities if unpacked.endswith((".json", ".jsonl")) else read_bio
    return read(path, name or _name(path))


def _split(argument: str) -> tuple[str, Path]:
    name, equals, path = argument.partition("=")
    if equals and name and not Path(argument).exists():
        return name, Path(path)
    return "", Path(argument)


def _name(path: Path) -> str:
    stem = path.name.partition(".")[0]
    return path.resolve().parent.name if stem in _GENERIC else stem
