"""Commands whose errors are one line in the words of the command line."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from regrow.cli.output import ERR
from regrow.cli.progress_bars import speaks
from regrow.common.errors import ReportedError, UserError


class Command(TyperCommand):
    """A command that names its own option where a library names the key that the option sets."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ReportedError:
            raise
        except UserError as error:
            raise self._as_option(error) from None

    def _as_option(self, error: UserError) -> UserError:
        name = (error.key or "").rpartition(".")[2]
        for parameter in self.params:
            if parameter.name == name and parameter.opts[0].startswith("--"):
                return UserError(error.message, key=parameter.opts[0], value=error.value)
        return error


class Commands(TyperGroup):
    """The whole command line: what a user can cause becomes one line and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        alone = extra.get("standalone_mode", True)
        extra["standalone_mode"] = False
        if not alone:
            return super().main(*args, **extra)
        try:
            sys.exit(super().main(*args, **extra))
        except typer.Abort:
            _refuse_now("stopped", 1)
        except Exception as error:
            # Of click, or of the click that typer brings along: what cannot be parsed.
            words: Any = getattr(error, "format_message", None)
            if words is None:
                raise
            given = extra.get("args") or (args[0] if args else None)
            _unparsed(words(), error, self._named(sys.argv[1:] if given is None else given))

    def _named(self, words: Sequence[str]) -> list[str]:
        """The commands that a line begins with."""
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
            _refuse(str(error) if speaks() else f"process {os.environ['RANK']}: {error}")
        except KeyboardInterrupt:
            if not speaks():
                raise typer.Exit(130) from None
            _refuse("stopped", code=130)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            # A disk or a network that fails is no bug either; transformers wraps in OSError too.
            where = f"{error.filename}: " if error.filename else ""
            _refuse(where + " ".join((error.strerror or str(error)).split()))


def _unparsed(message: str, error: Any, command: list[str]) -> NoReturn:
    if "\n" in message:  # the help, where nothing was asked for
        error.show()
        sys.exit(error.exit_code)
    text = message[:1].lower() + message[1:].rstrip(".")
    where = f"{' '.join(command)}: " if command else ""
    advice = " ".join(["see regrow", *command, "--help"])
    _refuse_now(f"{where}{text}; {advice}", error.exit_code)


def _refuse_now(message: str, code: int) -> NoReturn:
    if speaks():
        ERR.print(f"regrow: {message}", markup=False, soft_wrap=True)
    sys.exit(code)


def _refuse(message: str, code: int = 2) -> NoReturn:
    ERR.print(f"regrow: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(code)
