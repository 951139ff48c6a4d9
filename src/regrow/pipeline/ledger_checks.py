"""Whether the entries of a ledger hold what a run and its report need.

A ledger can be damaged, or come from another person. The report reads most of it, so its records
are made once before any work. What only a run reads is listed here.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from regrow.common.errors import UserError, one_line
from regrow.pipeline.ledger import Entry

_FACTS = {"fingerprint": str, "files": str}
_OUTPUTS: Mapping[str, Mapping[str, type]] = {
    "original": _FACTS,
    "write": {"sha256": str},
    "references": {"losses": dict},
    "carve": {**_FACTS, "cut": dict, "refitted": list},
    "recover": {**_FACTS, "kept": str, "heldout": dict, "trained": dict},
    "measure": {"heldout": dict},
    "measure-cut": {"heldout": dict},
    "evaluate": {"tasks": list, "groups": list},
}
"""What a run reads from the outputs of a step, by its kind, or by its stage if it has none."""
_ENVIRONMENT = {"versions": dict, "machine": dict, "command": str}


def check_entries(entries: Iterable[Entry], path: Path) -> None:
    """Raise UserError if the entries of the ledger `path` lack what a run reads from them."""
    for entry in entries:
        wanted = _OUTPUTS.get(entry.kind or entry.stage, {})
        _check(f"{path}: {entry.step}: outputs", entry.outputs, wanted)
        _check(f"{path}: {entry.step}: environment", entry.environment, _ENVIRONMENT)


def _check(where: str, values: Mapping[str, object], wanted: Mapping[str, type]) -> None:
    for key, kind in wanted.items():
        if not isinstance(values.get(key), kind):
            raise UserError(f"{where}: {key} is missing or not what regrow writes; {_ADVICE}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context manager: what is wrong with the entries of the ledger `path` becomes a UserError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {one_line(str(error))[:120]}"
        raise UserError(f"{path}: an entry is not what regrow writes ({reason}); {_ADVICE}") from (
            error
        )


_ADVICE = "restore the file, or start again in another directory"
