"""The one exception that a user can cause."""


class UserError(Exception):
    """What is wrong, where (file and key), and what would be right, in one line.

    The command line prints the message without a traceback and exits with code 2. Libraries name a
    setting by its key; the command line alone knows which of its options sets that key.

    Attributes:
        message: What is wrong and what would be right.
        key: A dotted key path such as `cut.vocab_size`; None where the message says where.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message if key is None else f"{key}: {message}")
        self.message, self.key = message, key

    def within(self, place: str) -> "UserError":
        """The same error with the place in front of it: `stages: depth: cut.layers: ...`."""
        return UserError(f"{place}: {self}")


class SaidError(UserError):
    """A user error that another process says, so that it is said once."""


def one_line(text: str) -> str:
    """Text without line ends and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
