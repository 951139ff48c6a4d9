"""The one exception that a user can cause."""


class UserError(Exception):
    """What is wrong, where (file and key), and what would be right, in one line.

    The command line prints the message without a traceback and exits with code 2.
    """


class SaidError(UserError):
    """A user error that another process says, so that it is said once."""


def one_line(text: str) -> str:
    """Text without line ends and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
