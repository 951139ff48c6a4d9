"""All formats of objects, and which of them a file has."""

from collections.abc import Mapping, Sequence
from typing import Any

from regrow.common.errors import UserError
from regrow.instructions.formats.chats import CHATS
from regrow.instructions.formats.clue import CLUE
from regrow.instructions.formats.format import Format
from regrow.instructions.formats.translations import TRANSLATIONS

FORMATS: Mapping[str, Format] = {each.name: each for each in (*CHATS, *CLUE, *TRANSLATIONS)}
"""The formats by name."""
ENTITY_KEYS = ({"tokenized_text", "ner"}, {"tagName", "input", "output"})
"""Keys of the two forms of named entities in JSON (`regrow.ner.json_files`)."""
_SHARE = 0.5
"""Of the first records that a format must take; others may be broken."""


def recognise(records: Sequence[Mapping[str, Any]], where: str) -> Format:
    """The format of a file by its first records; `where`: the file, for errors.

    Of two formats that take the records, the one whose keys contain those of the other is right.

    Raises UserError if none takes them, or two do that say different things.
    """
    taken = {each.name: sum(each.takes(record) for record in records) for each in FORMATS.values()}
    most = max(taken.values())
    if most == 0 or most < _SHARE * len(records):
        raise UserError(
            f"{where}: no known format; its keys are {_keys(records)}; give `columns` and `task`"
        )
    best = [FORMATS[name] for name, count in taken.items() if count == most]
    found = [each for each in best if not any(set(each.keys) < set(other.keys) for other in best)]
    if len(found) > 1:
        names = " or ".join(each.name for each in found)
        raise UserError(f"{where}: could be {names}; give `format`")
    return found[0]


def is_entities(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first records are sentences with named entities."""
    return bool(records) and any(
        all(keys <= record.keys() for record in records) for keys in ENTITY_KEYS
    )


def _keys(records: Sequence[Mapping[str, Any]]) -> str:
    names = [str(key)[:40] for key in dict.fromkeys(key for each in records for key in each)]
    shown = ", ".join(names[:12])
    return f"{shown}, ..." if len(names) > 12 else shown or "none"
