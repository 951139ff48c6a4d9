"""Read the arguments of Python functions: models, files, numbers, and options by name."""

import difflib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from regrow.common.errors import UserError
from regrow.common.progress import Progress

if TYPE_CHECKING:
    from pydantic import BaseModel

    from regrow.checkpoint.model_directory import ModelDirectory
    from regrow.corpus.turns import TextsInTurns

    Spec = TypeVar("Spec", bound=BaseModel)

Paths = Path | str | Sequence[Path | str]
"""One file, or several."""


def open_model(model: Path | str, progress: Progress) -> "ModelDirectory":
    """The model that a directory, a GGUF file or a hub id names."""
    from regrow.checkpoint.model_directory import ModelDirectory
    from regrow.checkpoint.resolve import resolve_model

    return ModelDirectory(resolve_model(str(model), None, progress.say))


def paths(given: Paths) -> list[Path]:
    """One path or several, as a list."""
    return [Path(path) for path in ([given] if isinstance(given, Path | str) else given)]


def names(given: str | Collection[str]) -> list[str]:
    """One name or several, as a list."""
    return [given] if isinstance(given, str) else [*given]


def options_of(
    function: str, kind: "type[Spec]", values: Mapping[str, Any], others: Collection[str] = ()
) -> "Spec":
    """The options of a function.

    `others`: the names of options that the function reads itself, to name them in an error.

    Raises:
        TypeError: there is no such option.
        UserError: a value is not valid.
    """
    from regrow.common.validation_errors import validated

    check_names(function, values, [*kind.model_fields, *others])
    return validated(kind, values)


def check_names(function: str, given: Collection[str], known: Collection[str]) -> None:
    """Raise TypeError, as Python does, if an option is not one of those that a function knows."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}; {hint}")


def number(key: str, value: object, least: int = 0) -> int:
    """An integer that is at least `least`, or text such as `16K`. Raises UserError otherwise."""
    from regrow.common.quantities import count

    return _parsed(key, value, count, least)


def flag(key: str, value: object) -> bool:
    """True or False. Raises UserError for anything else, as text would count as true."""
    if not isinstance(value, bool):
        raise UserError(f"true or false is wanted, not {value!r}", key=key)
    return value


def workers_or_cores(workers: int | str | None) -> int:
    """The number of processes; None takes one for each core."""
    return os.cpu_count() or 1 if workers is None else number("workers", workers, least=1)


def nbytes(key: str, value: object) -> int:
    """Bytes as a positive integer, or text such as `500MB`. Raises UserError otherwise."""
    from regrow.common import quantities

    return _parsed(key, value, quantities.nbytes, 1)


def _parsed(key: str, value: object, parse: Callable[[str, str], int], least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"a whole number is wanted, not {value!r}", key=key)
    found = parse(key, value) if isinstance(value, str) else value
    if found < least:
        raise UserError(f"at least {least} is wanted, not {found}", key=key)
    return found


def calibration_documents(
    path: Path | str | None, *, special_tokens: bool = False
) -> "TextsInTurns | None":
    """Opens a calibration text, whose files take turns; None without one.

    `special_tokens`: whether the names of special tokens in the text stand for the tokens.

    Raises UserError if it cannot be read, or if there is none to read with special tokens.
    """
    from regrow.corpus.reading import Reading
    from regrow.corpus.turns import files_in_turns

    if path is None:
        if special_tokens:
            raise UserError(
                "no text is read; give a calibration text, or leave it out", key="special_tokens"
            )
        return None
    try:
        return files_in_turns([Path(path)], Reading(special_tokens=special_tokens))
    except UserError as error:
        raise UserError(str(error), key="calibration") from None
