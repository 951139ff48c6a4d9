"""Read thousands of spoiled files: each is read, or refused in one line.

A sound file of each kind that regrow reads is spoiled by a seeded mutation: flipped bits, pieces
that are cut off, doubled or left out, huge numbers and lengths, values of wrong types, deep
nesting, lone surrogates, bombs. A forked process reads it with a bound on memory and time. Another
exception than UserError, an error of several lines, too much memory or time, and a crash are
findings.

    python benchmarks/attack_inputs.py                  # 10,000 inputs
    python benchmarks/attack_inputs.py --only recipe --first 17 --inputs 1   # one again
"""

import faulthandler
import json
import os
import random
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before a fork
os.environ["HF_HUB_OFFLINE"] = "1"

from attack_files import Kind, make_kinds
from common import Goal, Result, parser, say, show

from regrow.common.errors import UserError

SEED = 1
INPUTS, QUICK = 10_000, 500
_MEMORY = 2 << 30
"""Bytes that reading a file may need beyond what the process has."""
_SECONDS = 60.0
"""Wall time of reading a file."""
_LONGEST = 1_000
"""Characters of an error."""


@dataclass(frozen=True)
class Outcome:
    """What reading a spoiled file gave: `read`, `refused`, or another word for a finding."""

    kind: str
    number: int
    word: str
    detail: str = ""

    @property
    def is_finding(self) -> bool:
        return self.word not in ("read", "refused")


class _TimeUpError(BaseException):
    """Reading took too long."""


def attack(kinds: dict[str, Kind], inputs: Sequence[tuple[str, int]]) -> Iterator[Outcome]:
    """Spoil and read; an input is the name of a kind, and the number of the mutation."""
    names = {name for name, _ in inputs}
    for name in names:
        _sound(kinds[name])
    done = 0
    while done < len(inputs):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(read_end)
                _work(kinds, inputs[done:], write_end)
            finally:
                os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            while done < len(inputs):
                ready, _, _ = select.select([pipe], [], [], 2 * _SECONDS)
                line = pipe.readline() if ready else b""
                if not line:
                    word = "crash" if ready else "hang"
                    yield Outcome(*inputs[done], word)
                    done += 1
                    break
                yield Outcome(*inputs[done], *json.loads(line))
                done += 1
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for name in names:
            _sound(kinds[name])


_contents: dict[Path, bytes] = {}


def _sound(kind: Kind) -> bytes:
    """Write the sound file again, and give its bytes."""
    path = kind.directory / kind.file
    data = _contents.setdefault(path, path.read_bytes())
    path.write_bytes(data)
    return data


def _work(kinds: dict[str, Kind], inputs: Sequence[tuple[str, int]], out: int) -> None:
    faulthandler.disable()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _time_up)
    for name, number in inputs:
        word, detail = _read(kinds[name], name, number)
        os.write(out, json.dumps([word, detail]).encode() + b"\n")


def _time_up(*_: object) -> None:
    raise _TimeUpError


def _read(kind: Kind, name: str, number: int) -> tuple[str, str]:
    """The outcome of one input, and for a finding where it was."""
    path = kind.directory / kind.file
    drawn = random.Random(f"{SEED} {name} {number}")
    sound = _sound(kind)
    path.write_bytes(drawn.choice(kind.mutations)(sound, drawn))
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        kind.read(kind.directory)
        return "read", ""
    except UserError as error:
        message = str(error)
        is_one_line = "\n" not in message and message.isprintable() and len(message) <= _LONGEST
        return ("refused", "") if is_one_line else ("no line", repr(message[:200]))
    except _TimeUpError as error:
        return "time", _place(error)
    except MemoryError as error:
        return "memory", _place(error)
    except BaseException as error:  # noqa: BLE001 - all others are findings
        return type(error).__name__, f"{_place(error)}: {str(error)[:100]!r}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _sound(kind)


def _place(error: BaseException) -> str:
    """The last line of regrow that the error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/regrow/" in frame.filename]
    if not ours:
        return ""
    return f"{ours[-1].filename.rpartition('/regrow/')[2]}:{ours[-1].lineno}"


def draw_inputs(names: Sequence[str], count: int, first: int = 0) -> list[tuple[str, int]]:
    """So many inputs, the kinds in turn; grouped by kind, so that few directories change."""
    found = [(names[at % len(names)], first + at // len(names)) for at in range(count)]
    return sorted(found)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", help="kinds of files, with commas between them")
    arguments.add_argument("--inputs", type=int, help="how many files")
    arguments.add_argument("--first", type=int, default=0, help="number of the first mutation")
    options = arguments.parse_args()
    count = options.inputs or (QUICK if options.quick else INPUTS)
    with tempfile.TemporaryDirectory() as root:
        kinds = make_kinds(Path(root))
        names = options.only.split(",") if options.only else [*kinds]
        for name in names:  # each sound file can be read
            kinds[name].read(kinds[name].directory)
            _sound(kinds[name])
        began = time.monotonic()
        outcomes = []
        for outcome in attack(kinds, draw_inputs(names, count, options.first)):
            outcomes.append(outcome)
            if outcome.is_finding:
                say(f"{outcome.kind} {outcome.number}: {outcome.word} {outcome.detail}")
        seconds = time.monotonic() - began
    words = Counter(outcome.word for outcome in outcomes)
    findings = sum(outcome.is_finding for outcome in outcomes)
    results = [
        Result("spoiled files", len(outcomes), "files"),
        Result("refused in one line", words["refused"], "files"),
        Result("read", words["read"], "files"),
        Result("findings", findings, "files", goal=Goal("value", "<=", 0)),
        Result("time", seconds, "s"),
    ]
    show(results, as_json=options.json)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
