"""The one exception that a user can cause."""


class UserError(Exception):
    """What is wrong, where (file and key), and what would be right, in one line.

    The command line prints the message without a traceback and exits with code 2.

    Attributes:
        message: The line, without the key.
        key: The setting that is wrong, as a dotted path: `cut.vocab_size`, `vocab.pad_to`. None
            if no single setting is.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.key = key

    def __str__(self) -> str:
        return self.message if self.key is None else f"{self.key}: {self.message}"


class SaidError(UserError):
    """A user error that another process says, so that it is said once."""


def one_line(text: str) -> str:
    """Text without line ends and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
