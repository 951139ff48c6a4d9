"""Kill commands, or fill their disk, at every change of their files, and start them again.

The commands work on a tiny model. A point is each opening of a file for writing, write, sync,
rename, link, new directory and removal beside the target. At each point the process gets SIGKILL,
SIGTERM or SIGINT, or the disk is full from there on. Then the command is started again. It must
end with the same bytes as a command that nobody disturbed, leave nothing else beside its target
or in the system's directory for temporary files, and print no traceback. Safetensors files are cut
in half, since their library writes them at once.

In each of four rounds, every point meets one kind of fault; `--rounds 1` makes the first round
only. `--quick` draws some attacks at random (`--seed`). An attack takes one to two seconds.

`--moments N` interrupts each command with SIGINT at N of its calls of functions, drawn at random.

`--notes FILE` adds a line of JSON for each attack to a file. With the same file, a run that was cut
off goes on, and the results count all attacks of the file.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from common import Goal, Result, parser, say, show

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.attack.faults import KINDS, MOMENT  # noqa: E402
from tests.attack.kills import (  # noqa: E402
    COMMANDS,
    Arena,
    Attack,
    attacks_of_kind,
    attacks_of_round,
    moments,
    sample,
    train_together,
)
from tests.attack.zygote import Zygote  # noqa: E402

TWO = "two processes"
_TIMES = re.compile(r"tfevents\..*")
"""What differs in the name of a file from run to run."""
QUICK = {"run": 1, "train": 1}
"""Attacks on each command with `--quick`; on the other commands, two."""


@dataclass(frozen=True)
class Made:
    """An attack that was made.

    Attributes:
        command: Of `COMMANDS`, or `TWO`.
        points: How many points the command has.
        at: The number of the point, from 1.
        kind: Of fault; with two processes, the process that was killed.
        where: What is done at the point.
        found: What was wrong; empty if nothing was.
    """

    command: str
    points: int
    at: int
    kind: str
    where: str
    found: str


class Notes:
    """The attacks that were made, in memory and in a file, if one is given."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file is not None and file.exists() else []
        self.made = [Made(**json.loads(line)) for line in lines]

    def lacks(self, command: str, at: int, kind: str, where: str) -> bool:
        """Whether an attack has not been made yet. Exits if the points have changed since."""
        for made in self.made:
            if (made.command, made.at, made.kind) == (command, at, kind):
                if _TIMES.sub("", made.where) != _TIMES.sub("", where):
                    sys.exit(f"{self._file}: made with other code: {made}; name a new file")
                return False
        return True

    def add(self, made: Made) -> None:
        self.made.append(made)
        if made.found:
            say(made.found)
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps(asdict(made)) + "\n")

    def results(self) -> Iterator[Result]:
        """Of each command: its points, those attacked, all attacks, and those with findings."""
        for command in dict.fromkeys(made.command for made in self.made):
            made = [each for each in self.made if each.command == command]
            kinds = Counter(each.kind for each in made)
            say(f"{command}: {dict(kinds)}")
            yield Result(f"{command}: points", made[-1].points, "points")
            attacked = {
                (each.at, each.kind if command == TWO else "")
                for each in made
                if each.kind != MOMENT
            }
            yield Result(f"{command}: points attacked", len(attacked), "points")
            yield Result(f"{command}: attacks", len(made), "attacks")
            yield Result(
                f"{command}: attacks that left a trace", sum(bool(each.found) for each in made),
                "attacks", goal=Goal("value", "<=", 0),
            )  # fmt: skip


def attack(arena: Arena, attacks: list[Attack], notes: Notes) -> None:
    """Make attacks on a command, without those that were made before."""
    began = time.monotonic()
    command = attacks[0].command
    undisturbed = arena.undisturbed(command)
    number = 0
    for each in attacks:
        where = undisturbed.where(each)
        if notes.lacks(command, each.at, each.kind, where):
            found = arena.fault(each, undisturbed) or ""
            notes.add(Made(command, len(undisturbed.points), each.at, each.kind, where, found))
            number += 1
    say(f"{command}: {number} attacks, {time.monotonic() - began:.0f} s")


def attack_two(arena: Arena, home: Path, notes: Notes) -> None:
    """Kill either of two processes before each checkpoint is begun, and before it has its name."""
    whole = train_together(arena, home / "whole")
    assert whole.code == 0, whole.said
    chosen = [
        (rank, at, point)
        for rank, points in enumerate(whole.points)
        for at, point in enumerate(points, start=1)
        if point.startswith(("open", "write", "rename")) and not point.endswith("state.json")
    ]
    say(f"{TWO}: {len(chosen)} attacks")
    for rank, at, where in chosen:
        if notes.lacks(TWO, at, f"process {rank}", where):
            ended = train_together(arena, home / f"{rank}-{at}", rank, at)
            is_wrong = ended.code or ended.contents != whole.contents
            found = f"process {rank} killed at {where}: {ended.said[-2000:]}" if is_wrong else ""
            notes.add(Made(TWO, len(chosen), at, f"process {rank}", where, found))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0, help="of --quick and --moments")
    options.add_argument("--rounds", type=int, default=len(KINDS), help="of four; default: all")
    options.add_argument("--kind", choices=KINDS, help="this kind of fault at each point")
    options.add_argument("--moments", type=int, default=0, metavar="N", help="of each command")
    options.add_argument("--only", nargs="+", metavar="COMMAND", choices=[*COMMANDS])
    options.add_argument("--notes", type=Path, metavar="FILE", help="go on from it, and add to it")
    options.add_argument(
        "--two-processes", action="store_true", help="also kill either process under torchrun"
    )
    given = options.parse_args()
    notes = Notes(given.notes)
    with tempfile.TemporaryDirectory() as home, Zygote() as zygote:
        arena = Arena(Path(home), zygote)
        for number in range(1 if given.quick or given.kind else given.rounds):
            for command in given.only or COMMANDS:
                points = len(arena.undisturbed(command).points)
                attacks = attacks_of_round(command, points, number)
                if given.kind is not None:
                    attacks = attacks_of_kind(command, points, given.kind)
                if given.quick:
                    attacks = sample(command, points, QUICK.get(command, 2), given.seed)
                attack(arena, attacks, notes)
        for command in (given.only or COMMANDS) if given.moments else ():
            calls = arena.calls(command)
            attack(arena, moments(command, calls, given.moments, given.seed), notes)
        if given.two_processes:
            attack_two(arena, Path(home) / "two", notes)
    show([*notes.results()], as_json=given.json)


if __name__ == "__main__":
    main()
