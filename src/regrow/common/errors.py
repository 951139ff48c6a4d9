"""The one exception that a user can cause."""


class UserError(Exception):
    """What is wrong, where (file and key), and what would be right, in one line.

    The command line prints the line without a traceback and exits with code 2. Libraries name a
    setting by its key; the command line alone knows which of its options sets that key.

    Attributes:
        message: The line, without key and value.
        key: The setting that is wrong, as a dotted path: `cut.vocab_size`, `vocab.pad_to`. None if
            no single setting is.
        value: What the setting was given, where the message does not say it.
    """

    def __init__(self, message: str, *, key: str | None = None, value: object = None) -> None:
        super().__init__(message)
        self.message, self.key, self.value = message, key, value

    def __str__(self) -> str:
        where = [str(part) for part in (self.key, self.value) if part is not None]
        return f"{' '.join(where)}: {self.message}" if where else self.message

    def within(self, place: str) -> "UserError":
        """The same error with the place in front of it: `stages: depth: layers 3: ...`."""
        return UserError(f"{place}: {self}")


class SaidError(UserError):
    """A user error that another process says, so that it is said once."""


def one_line(text: str) -> str:
    """Text without line ends and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
