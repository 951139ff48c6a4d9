"""The one exception that a user can cause."""


class UserError(Exception):
    """What is wrong, where (file and key), and what would be right, in one line.

    The command line prints the message without a traceback and exits with code 2.
    """


class SaidError(UserError):
    """A user error that another process says, so that it is said once."""
