"""Command classes that print an error as one line and name the option that caused it."""

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from regrow.cli.output import ERR
from regrow.cli.progress_bars import is_first_process
from regrow.common.errors import ReportedError, UserError

Sync = Annotated[
    bool,
    typer.Option(
        "--sync/--no-sync", help="Wait until results are on the disk, against a power loss."
    ),
]


class Command(TyperCommand):
    """A command that names its own options in an error, in place of keys and arguments.

    Attributes:
        keys: The options of keys that are not the name of a parameter of the command.
    """

    keys: ClassVar[Mapping[str, str]] = {}

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise self._name_option(error) from None

    def _name_option(self, error: UserError) -> UserError:
        options = {str(each.name): each.opts[0] for each in self.params if each.opts[0][0] == "-"}
        for name, option in options.items():
            error.message = error.message.replace(f"`{name}`", option)
        return name_option(error, {**options, **self.keys})


def command(keys: Mapping[str, str]) -> type[Command]:
    """A class of commands with these options by key."""
    return type("Command", (Command,), {"keys": keys})


def name_option(error: UserError, options: Mapping[str, str]) -> UserError:
    """The same error, with an option in place of its key.

    `options`: by key. The option of `layers` is also that of `layers.encoder`, as `--layers
    encoder`.
    """
    if error.key is None:
        return error
    for key in sorted(options, key=len, reverse=True):
        if error.key == key or error.key.startswith(f"{key}."):
            inner = error.key[len(key) + 1 :]
            return error.at(f"{options[key]} {inner}".rstrip())
    return error


class Commands(TyperGroup):
    """The whole command line. A mistake of the user becomes one line and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        standalone = extra.get("standalone_mode", True)
        extra["standalone_mode"] = False
        if not standalone:
            return super().main(*args, **extra)
        try:
            sys.exit(super().main(*args, **extra))
        except typer.Abort:
            _exit_with("stopped", 1)
        except Exception as error:
            # Parse errors of click. typer may bring its own copy of click, so the class is unknown.
            message: Any = getattr(error, "format_message", None)
            if message is None:
                raise
            given = extra.get("args") or (args[0] if args else None)
            command = self._command_in(sys.argv[1:] if given is None else given)
            _exit_unparsed(message(), error, command)

    def _command_in(self, words: Sequence[str]) -> list[str]:
        """The command and subcommand at the beginning of a command line."""
        group: Any = self
        found: list[str] = []
        for word in words:
            group = getattr(group, "commands", {}).get(word)
            if group is None:
                break
            found.append(word)
        return found

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ReportedError:
            raise typer.Exit(2) from None
        except UserError as error:
            _fail(str(error) if is_first_process() else f"process {os.environ['RANK']}: {error}")
        except KeyboardInterrupt:
            if not is_first_process():
                raise typer.Exit(130) from None
            _fail("stopped", code=130)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            # Failures of disk and network are no bugs; transformers raises OSError for them too.
            where = f"{error.filename}: " if error.filename else ""
            _fail(where + " ".join((error.strerror or str(error)).split()))


def _exit_unparsed(message: str, error: Any, command: list[str]) -> NoReturn:
    """Print a parse error with a hint to the help of the command, and exit."""
    if "\n" in message:  # the help text, if no command was given
        error.show()
        sys.exit(error.exit_code)
    text = message[:1].lower() + message[1:].rstrip(".")
    where = f"{' '.join(command)}: " if command else ""
    advice = " ".join(["see regrow", *command, "--help"])
    _exit_with(f"{where}{text}; {advice}", error.exit_code)


def _exit_with(message: str, code: int) -> NoReturn:
    """Print one line, in the first process, and exit; for use outside of a command."""
    if is_first_process():
        ERR.print(f"regrow: {message}", markup=False, soft_wrap=True)
    sys.exit(code)


def _fail(message: str, code: int = 2) -> NoReturn:
    """Print one line and end the command."""
    ERR.print(f"regrow: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(code)
