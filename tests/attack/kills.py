"""Kill commands, or fill their disk, at any change of their files; then start them again.

A command that is started again must end with the same bytes as one that nobody disturbed, and
nothing else may lie beside its result.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.attack.faults import FULL, KINDS, MOMENT
from tests.attack.zygote import Outcome, Request, Zygote
from tests.tiny import sentences, write_model, write_text

RECOVERY = {
    "tokens": 200, "row_length": 32, "batch_tokens": 64, "micro_batch": 2, "save_every": 0,
    "learning_rate": 1e-3,
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "name": "attacked",
    "model": "model",
    "data": {"train": ["train.jsonl"], "heldout": {"domain": "heldout.jsonl"}},
    "prompts": ["The river"],
    "answer_tokens": 3,
    "stages": [
        {"name": "words", "cut": {"vocab_size": 310, "refit": False}},
        {
            "name": "depth",
            "cut": {"layers": 3, "calibration_tokens": 256},
            "recover": {**RECOVERY, "objective": "fill-in-the-middle", "export_every": 100},
        },
    ],
}
"""A cut of the vocabulary, an extended tokenizer, a refit, a recovery with checkpoints, exports."""
CORPUS = """out: ../work/out
sources: [{name: a, path: train.jsonl}, {name: b, path: [heldout.jsonl, questions.txt]}]
steps: [squeeze]
duplicates: {paragraphs: true, sentences: 1}
contamination: {against: questions.txt}
shards: 2
compress: gz
"""
"""All kinds of duplicates, a question, and two shards."""
_SETTINGS = [f"--set={key}={value}" for key, value in {**RECOVERY, "export_every": 100}.items()]
COMMANDS: dict[str, list[str]] = {
    "run": ["run", "BASE/recipe.yaml", "--out", "OUT"],
    "train": [
        "train", "BASE/model", "OUT", "--text", "BASE/train.jsonl", "--heldout",
        "BASE/heldout.jsonl", *_SETTINGS,
    ],
    "prune": ["prune", "BASE/model", "OUT", "--layers", "3", "--calibration", "BASE/train.jsonl"],
    "vocab count": [
        "vocab", "count", "BASE/model", "OUT", "--corpus", "BASE/train.jsonl", "--workers", "1",
    ],
    "vocab grow": [
        "vocab", "grow", "BASE/model", "OUT", "--corpus", "BASE/train.jsonl", "--tokens", "5",
        "--least", "2",
    ],
    "corpus tokenise": [
        "corpus", "tokenise", "BASE/model", "OUT", "--text", "BASE/train.jsonl", "--workers", "1",
    ],
    "corpus build": ["corpus", "build", "BASE/corpus.yaml", "--workers", "1"],
    "score": ["score", "BASE/model", "OUT", "--by", "magnitude"],
}  # fmt: skip
"""The command lines; BASE is the directory of the inputs, and OUT the target."""
_TARGETS = {"vocab count": "counts", "score": "scores.json"}


@dataclass(frozen=True)
class Attack:
    """One fault: which command, at which of its points (from 1), and what happens there.

    For `MOMENT`, `at` is the number of a call.
    """

    command: str
    at: int
    kind: str


@dataclass(frozen=True)
class Undisturbed:
    """What a command does that nobody disturbs.

    Attributes:
        points: What it does at each point.
        contents: What is then in the directory of its target.
        mended: What attacks left in it, from which the command then gave these contents. Started
            again from the same files, it does the same.
    """

    points: list[str]
    contents: dict[str, str]
    mended: set[frozenset[tuple[str, str]]] = field(default_factory=set)

    def where(self, attack: Attack) -> str:
        """What the command does where it is attacked."""
        return "a call" if attack.kind == MOMENT else self.points[attack.at - 1]


class Arena:
    """Inputs, and a directory in which one command at a time is attacked."""

    def __init__(self, home: Path, zygote: Zygote) -> None:
        self.base, self._home, self._zygote = home / "base", home, zygote
        self._undisturbed: dict[str, Undisturbed] = {}
        self.base.mkdir(parents=True)
        write_model(self.base / "model")
        write_text(self.base / "train.jsonl", sentences(60, seed=1))
        write_text(self.base / "heldout.jsonl", sentences(3, seed=2))
        (self.base / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        (self.base / "corpus.yaml").write_text(CORPUS)
        (self.base / "questions.txt").write_text(sentences(1, seed=1)[0])

    def undisturbed(self, command: str) -> Undisturbed:
        """What a command does without a fault; it is run once."""
        if command not in self._undisturbed:
            outcome = self._run(command, fresh=True)
            assert outcome.code == 0, outcome.said
            self._zygote.learn(outcome)  # the next ones begin with all imported
            self._undisturbed[command] = Undisturbed(outcome.points, contents(self._home / "work"))
        return self._undisturbed[command]

    def calls(self, command: str) -> int:
        """How many functions a command calls."""
        return self._run(command, fresh=True, kind=MOMENT).calls

    def fault(self, attack: Attack, undisturbed: Undisturbed) -> str | None:
        """What is wrong after an attack; None if nothing is.

        A command is not started again if it was before, from files that were the same.
        """
        where = undisturbed.where(attack)
        outcome = self._run(attack.command, fresh=True, at=attack.at, kind=attack.kind)
        if wrong := _wrong_end(attack, outcome):
            return f"{attack} at {where}: {wrong}\n{outcome.said}"
        left = frozenset(_contents(self._home / "work", for_restart=True))
        if left in undisturbed.mended and not contents(self._home / "tmp"):
            return None
        again = self._run(attack.command)
        found = contents(self._home / "work")
        # If the result had its name already, the command is right to refuse it.
        if again.code != 0 and not (again.code == 2 and _is_taken(again.said)):
            return f"{attack} at {where}: started again, exit code {again.code}\n{again.said}"
        if found != undisturbed.contents:
            differ = {
                name
                for name in {*found, *undisturbed.contents}
                if found.get(name) != undisturbed.contents.get(name)
            }
            return f"{attack} at {where}: started again, these differ: {sorted(differ)}"
        if strays := contents(self._home / "tmp"):
            return f"{attack} at {where}: these are left in the system's place: {sorted(strays)}"
        undisturbed.mended.add(left)
        return None

    def arguments(self, command: str, out: Path) -> list[str]:
        """The command line of a command that writes `out`."""
        return [
            str(out) if each == "OUT" else each.replace("BASE/", f"{self.base}/")
            for each in COMMANDS[command]
        ]

    def _run(self, command: str, *, fresh: bool = False, at: int = 0, kind: str = "") -> Outcome:
        work = self._home / "work"
        if fresh:
            for path in (work, self._home / "tmp"):
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
        arguments = self.arguments(command, work / _TARGETS.get(command, "out"))
        return self._zygote.run(Request(arguments, str(self._home), at, kind))


def _wrong_end(attack: Attack, outcome: Outcome) -> str | None:
    """What is wrong with how an attacked command ended; None if nothing is."""
    if "Traceback" in outcome.said:
        return "a traceback"
    # A training finishes its step at a signal; what only draws or prints ends no command.
    allowed = {
        "SIGKILL": (-9,), "SIGTERM": (-15, 143, 0), "SIGINT": (130, 0), FULL: (2, 0),
        MOMENT: (130, 0, -2),  # by the signal itself, before the command begins
    }[attack.kind]  # fmt: skip
    if outcome.code not in allowed:
        return f"exit code {outcome.code}"
    lines = [line for line in outcome.said.splitlines() if line.startswith("regrow: ")]
    if outcome.code in (2, 130) and len(lines) != 1:
        return f"{len(lines)} lines of error"
    return None


def _is_taken(said: str) -> bool:
    return any(words in said for words in ("already holds something", "exists; choose another"))


def contents(directory: Path) -> dict[str, str]:
    """What is in a directory, by path: the hash of each file, without what says when or how fast.

    Directories are named too, so that an empty one is seen.
    """
    return dict(_contents(directory))


def _contents(directory: Path, *, for_restart: bool = False) -> Iterator[tuple[str, str]]:
    """`for_restart`: with all that a command could read that is started again."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            yield name, f"-> {path.readlink()}"
        elif "tensorboard" in path.parts:
            size = path.stat().st_size if for_restart else ""
            yield name.partition("/events.out.")[0], f"tensorboard {size}"
        elif path.is_dir():
            yield name, "directory"
        elif path.name == "ledger.jsonl":
            yield name, _digest(_timeless(path.read_text(errors="replace")).encode())
        elif path.name == "state.json":
            yield name, _digest(_without_seconds(path.read_bytes()))
        elif path.name in ("lock", "finished.json") or (
            path.name == "report.html" and not for_restart
        ):
            yield name, "file"
        else:
            yield name, _digest(path.read_bytes())


def _without_seconds(state: bytes) -> bytes:
    """The state of a training without the time that it took."""
    try:
        values = json.loads(state)
        del values["seconds"]
    except (ValueError, KeyError):
        return state
    return json.dumps(values).encode()


def _timeless(ledger: str) -> str:
    """The lines of a ledger without times and the place of the run."""
    lines = []
    for line in ledger.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            return f"damaged: {line}"
        for key in ("started", "seconds", "environment"):
            del entry[key]
        for key in ("seconds", "speeds", "directory"):
            entry["outputs"].pop(key, None)
        lines.append(json.dumps(entry, sort_keys=True))
    return "\n".join(lines)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def attacks_of_round(command: str, points: int, number: int) -> list[Attack]:
    """One fault at each point of a command, the kinds in turn; four rounds make all faults.

    Points that follow each other lie far apart, so that the first attacks are an even sample.
    """
    return [
        Attack(command, at, KINDS[(place + number) % len(KINDS)])
        for place, at in enumerate(_spread(points))
    ]


def attacks_of_kind(command: str, points: int, kind: str) -> list[Attack]:
    """A fault of one kind at each point of a command, in the order of `attacks_of_round`."""
    return [Attack(command, at, kind) for at in _spread(points)]


def _spread(points: int) -> list[int]:
    return sorted(range(1, points + 1), key=lambda at: f"{at:016b}"[::-1])


def moments(command: str, calls: int, count: int, seed: int) -> list[Attack]:
    """SIGINT at some of the calls of a command, drawn at random, spread out."""
    draw = random.Random(f"{seed} {command}")
    return [
        Attack(command, 1 + int((number + draw.random()) * calls / count), MOMENT)
        for number in range(count)
    ]


def sample(command: str, points: int, count: int, seed: int) -> list[Attack]:
    """Attacks drawn at random: the points spread out, the kinds in turn."""
    draw = random.Random(f"{seed} {command}")
    kinds = draw.sample(KINDS, len(KINDS))
    return [
        Attack(
            command,
            1 + int((number + draw.random()) * points / count),
            kinds[number % len(kinds)],
        )
        for number in range(count)
    ]


# Two processes under torchrun


@dataclass(frozen=True)
class Together:
    """How two processes ended that train together.

    Attributes:
        code: Exit code of torchrun.
        said: Standard output and error.
        points: The points of each process, in the directory of the checkpoints.
        contents: As `contents` gives them.
    """

    code: int
    said: str
    points: list[list[str]]
    contents: dict[str, str]


def train_together(arena: Arena, home: Path, rank: int = -1, at: int = 0) -> Together:
    """Train with two processes; the process `rank` is killed once, at its point `at`.

    `home`: a new directory. torchrun starts both processes again.
    """
    notes, out = home / "notes", home / "work/out"
    for path in (notes, out.parent):
        path.mkdir(parents=True)
    below = out / "stages/train/training"
    environment = {
        **os.environ, "ATTACK_NOTES": str(notes), "ATTACK_BELOW": str(below),
        "ATTACK_RANK": str(rank), "ATTACK_AT": str(at), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "--max-restarts=1", "--monitor-interval=0.1", "-m", "tests.attack.one_of_two",
    ]  # fmt: skip
    done = subprocess.run(
        [*torchrun, *arena.arguments("train", out)], capture_output=True, text=True, check=False,
        env=environment, timeout=900,
    )  # fmt: skip
    points = [
        path.read_text().splitlines() if (path := notes / f"points-{each}").exists() else []
        for each in (0, 1)
    ]
    return Together(done.returncode, done.stdout + done.stderr, points, contents(out.parent))
