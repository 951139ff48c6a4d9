"""Kill commands, or fill their disk, at every change of their files, and start them again.

The commands work on a tiny model. A point is each opening of a file for writing, write, sync,
rename, link, new directory and removal beside the target. At each point the process gets SIGKILL,
SIGTERM or SIGINT, or the disk is full from there on. Then the command is started again. It must
end with the same bytes as a command that nobody disturbed, leave nothing else beside its target,
and print no traceback. Safetensors files are cut in half, since their library writes them at once.

`--quick` draws some attacks at random (`--seed`); otherwise each kind of fault is made at each
point, which takes hours for all commands. `--share 4` makes one kind at each point, in turn.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common import Goal, Result, parser, say, show

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.attack.kills import (  # noqa: E402
    COMMANDS,
    Arena,
    Attack,
    every_attack,
    sample,
    train_together,
)
from tests.attack.zygote import Zygote  # noqa: E402

QUICK = {"run": 1, "train": 1}
"""Attacks on each command with `--quick`; on the other commands, two."""


def attack(arena: Arena, command: str, attacks: Sequence[Attack]) -> list[Result]:
    """Make attacks on a command."""
    began = time.monotonic()
    undisturbed = arena.undisturbed(command)
    total = len(undisturbed.points)
    say(f"{command}: {total} points, {len(attacks)} attacks")
    kinds: Counter[str] = Counter()
    wrong = 0
    for each in attacks:
        kinds[each.kind] += 1
        if found := arena.fault(each, undisturbed):
            wrong += 1
            say(found)
    say(f"{command}: {dict(kinds)}, {time.monotonic() - began:.0f} s")
    return [
        Result(f"{command}: points", total, "points"),
        Result(f"{command}: attacks", len(attacks), "attacks"),
        Result(
            f"{command}: attacks that left a trace", wrong, "attacks", goal=Goal("value", "<=", 0)
        ),
    ]


def attack_two(arena: Arena, home: Path) -> list[Result]:
    """Kill either of two processes before each checkpoint is begun, and before it has its name."""
    whole = train_together(arena, home / "whole")
    assert whole.code == 0, whole.said
    kinds = ("open", "write", "rename")
    chosen = [
        (rank, number)
        for rank, points in enumerate(whole.points)
        for number, point in enumerate(points, start=1)
        if point.startswith(kinds) and not point.endswith("state.json")
    ]
    say(f"two processes: {len(chosen)} attacks")
    wrong = 0
    for rank, at in chosen:
        found = train_together(arena, home / f"{rank}-{at}", rank, at)
        if found.code or found.contents != whole.contents:
            wrong += 1
            say(f"process {rank} killed at {whole.points[rank][at - 1]}: {found.said[-2000:]}")
    return [
        Result("two processes: attacks", len(chosen), "attacks"),
        Result(
            "two processes: attacks that left a trace", wrong, "attacks",
            goal=Goal("value", "<=", 0),
        ),
    ]  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0, help="which attacks --quick makes")
    options.add_argument("--share", type=int, default=1, help="make one attack of so many")
    options.add_argument("--only", nargs="+", metavar="COMMAND", choices=[*COMMANDS])
    options.add_argument(
        "--two-processes", action="store_true", help="also kill either process under torchrun"
    )
    given = options.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as home, Zygote() as zygote:
        arena = Arena(Path(home), zygote)
        for command in given.only or COMMANDS:
            points = len(arena.undisturbed(command).points)
            attacks = every_attack(command, points, given.share)
            if given.quick:
                attacks = sample(command, points, QUICK.get(command, 2), given.seed)
            results += attack(arena, command, attacks)
        if given.two_processes:
            results += attack_two(arena, Path(home) / "two")
    show(results, as_json=given.json)


if __name__ == "__main__":
    main()
