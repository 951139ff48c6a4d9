"""The one exception for mistakes of the user."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

_LONGEST = 900
"""Characters of a message."""


class UserError(Exception):
    """A mistake of the user: one line that says what is wrong, where, and what would be right.

    The command line prints the line without a traceback and exits with code 2. Library code names
    a setting by its key. Only the command line knows which of its options sets that key.

    Attributes:
        message: The line, without key and value. An argument that would help is named in
            backquotes, such as `redo`.
        key: The setting that is wrong, as a dotted path: `cut.vocab_size`, `vocab.pad_to`. None if
            the error concerns no single setting.
        value: The value of that setting, if the message does not contain it.
    """

    def __init__(self, message: str, *, key: str | None = None, value: object = None) -> None:
        if len(message) > _LONGEST:  # it quotes a file that holds something huge
            message = f"{message[: _LONGEST // 2]} … {message[-_LONGEST // 4 :]}"
        super().__init__(message)
        self.message, self.key, self.value = message, key, value

    def __str__(self) -> str:
        where = [str(part) for part in (self.key, self.value) if part is not None]
        return f"{' '.join(where)}: {self.message}" if where else self.message

    def at(self, key: str | None) -> Self:
        """The same error with another key."""
        return type(self)(self.message, key=key, value=self.value)

    def within(self, place: str) -> Self:
        """The same error, with `place` in front of the key: `stages: depth: cut.layers 3: ...`.

        `place`: ends in what separates it from the key, `: ` or a dot.
        """
        return self.at(place.rstrip(".: ") if self.key is None else place + self.key)


class ReportedError(UserError):
    """A user error that another process prints, so this process must not print it again."""


@contextmanager
def ending_in(right: str, *, key: str | None = None) -> Iterator[None]:
    """Let each UserError inside end with what would be right.

    `key`: the setting that is wrong; None leaves that of the error.
    """
    try:
        yield
    except UserError as error:
        words = f"{error.message}; {right}"
        raise UserError(words, key=key or error.key, value=error.value) from None


def one_line(text: str) -> str:
    """The text on one line: line ends and control characters become spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
