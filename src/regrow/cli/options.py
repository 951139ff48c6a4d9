"""Keys of settings as the options of the command line."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from regrow.common.errors import UserError

_VALUE_FIRST = re.compile(r"[^\s:]+: ")


def as_option(error: UserError, options: Mapping[str, str]) -> UserError:
    """The error with its key replaced by the option of the same meaning.

    A message that begins with the value continues the option: ``vocab.pad_to: 8: ...`` becomes
    ``--pad-to 8: ...``. An error without a key, or with a key that is not in `options`, is
    returned as it is.

    Args:
        error: what was raised.
        options: option by key, such as ``{"vocab.pad_to": "--pad-to"}``.
    """
    option = None if error.key is None else options.get(error.key)
    if option is None:
        return error
    if _VALUE_FIRST.match(error.message):
        return UserError(f"{option} {error.message}")
    return UserError(error.message, key=option)


@contextmanager
def keys_as_options(options: Mapping[str, str]) -> Iterator[None]:
    """Raise each UserError of the block as `as_option` gives it."""
    try:
        yield
    except UserError as error:
        raise as_option(error, options) from error.__cause__
