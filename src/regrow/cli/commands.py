"""Command classes that print an error as one line and name the option that caused it."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, ClassVar, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from regrow.cli.output import ERR
from regrow.cli.progress_bars import is_first_process, showing_parts
from regrow.common.errors import ReportedError, UserError
from regrow.common.quantities import count

_INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a command that SIGINT ended."""
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A directory, a GGUF file, or a hub id.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SpecialTokens = Annotated[
    bool,
    typer.Option("--special-tokens", help="Names of special tokens in the text are tokens."),
]
TEXT_FORMS = ".txt or .jsonl, also .gz or .zst; .parquet; or a directory"
"""The files that hold text."""

Sync = Annotated[
    bool,
    typer.Option(
        "--sync/--no-sync", help="Wait until results are on the disk, against a power loss."
    ),
]


Workers = Annotated[
    str | None, typer.Option(metavar="N", help="Processes. [default: one for each core]")
]


def number(option: str, text: str | None, least: int = 1) -> int | None:
    """The count that was given for an option, at least `least`; None if there is none."""
    return None if text is None else count(option, text, least)


class Command(TyperCommand):
    """A command that names its own options in an error, in place of keys and arguments.

    Attributes:
        keys: The options of keys that are not the name of a parameter of the command.
    """

    keys: ClassVar[Mapping[str, str]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        self._check_files(args)
        return super().parse_args(ctx, args)

    def _check_files(self, words: Sequence[str]) -> None:
        """Raise UserError if files follow an option that takes one file each time it is given.

        They would be taken for more files of the option that takes many (`FILE...`). The first
        words without an option are MODEL and the like, wherever they stand.
        """
        options = {name: each for each in self.params for name in each.opts if name[0] == "-"}
        if not any(str(each.metavar).endswith("FILE...") for each in options.values()):
            return
        places = sum(each.param_type_name == "argument" and each.nargs == 1 for each in self.params)
        last: Any = None
        is_value = False
        for word in words:
            if is_value:
                is_value = False
            elif word[:1] == "-" and word != "-":
                name, _, value = word.partition("=")
                last = options.get(name)
                is_value = last is not None and not last.is_flag and not value
            elif places:
                places -= 1
            elif last is not None and last.multiple and str(last.metavar).endswith("FILE"):
                option = last.opts[0]
                raise UserError(f"{option}: takes one file; repeat it: {option} {word}")

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
        given = extra.get("args") or (args[0] if args else None)
        words = sys.argv[1:] if given is None else given
        if any(_has_undecoded_bytes(word) for word in words):
            # Only Python can handle such names; the libraries that read models cannot.
            _exit_with(
                "an argument is not text in this locale; set LC_ALL=C.UTF-8, or give UTF-8", 2
            )
        try:
            sys.exit(super().main(*args, **extra))
        except typer.Abort:  # an interrupt before the command began
            _exit_with("stopped", _INTERRUPTED)
        except Exception as error:
            # Parse errors of click. typer may bring its own copy of click, so the class is unknown.
            message: Any = getattr(error, "format_message", None)
            if message is None:
                raise
            _exit_unparsed(message(), error, self._command_in(words))

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
        with _interrupts() as interrupted, showing_parts():
            try:
                return super().invoke(ctx)
            except (Exception, KeyboardInterrupt) as error:
                # A library may turn the interrupt into an error of its own.
                if interrupted() or isinstance(error, KeyboardInterrupt):
                    if not is_first_process():
                        raise typer.Exit(_INTERRUPTED) from None
                    _fail("stopped", code=_INTERRUPTED)
                if isinstance(error, ReportedError):
                    raise typer.Exit(2) from None
                if isinstance(error, UserError):
                    rank = "" if is_first_process() else f"process {os.environ['RANK']}: "
                    _fail(f"{rank}{error}")
                # Failures of disk and network are no bugs. transformers also raises OSError then.
                if isinstance(error, OSError) and error.errno != errno.EPIPE:
                    where = f"{error.filename}: " if error.filename else ""
                    _fail(where + " ".join((error.strerror or str(error)).split()))
                if _is_out_of_memory(error):
                    said = "".join(f": {line}" for line in str(error).splitlines()[:1])
                    _fail(
                        f"not enough memory{said}; a training needs less with a smaller "
                        "micro_batch, or with recompute: true"
                    )
                raise


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch found no memory, on a GPU or on the CPU. PyTorch is not imported for it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, MemoryError) or (
        "RuntimeError" in names
        and ("OutOfMemoryError" in names or "can't allocate memory" in str(error))
    )


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Context manager: the function says whether SIGINT has interrupted the command."""
    seen = False

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal seen
        seen = True
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not main or before not in (signal.SIG_DFL, signal.default_int_handler):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before)


def _has_undecoded_bytes(word: str) -> bool:
    """Whether an argument holds bytes that the encoding of the locale does not have."""
    return any("\udc80" <= character <= "\udcff" for character in word)


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
        ERR.say(f"regrow: {message}")
    sys.exit(code)


def _fail(message: str, code: int = 2) -> NoReturn:
    """Print one line and end the command."""
    ERR.say(f"regrow: {message}")
    raise typer.Exit(code)
