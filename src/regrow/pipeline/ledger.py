"""What a run has done, with what, and what came out: the base of resume and of the report.

One line of JSON a step, appended and synced. A line that a kill tore is dropped on opening. Each
entry carries what went into the step and a key over that and all steps before it, so a changed
recipe is noticed, and what it invalidates can be named.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from regrow.common.errors import UserError
from regrow.common.files import write_atomically

LEDGER_FILE = "ledger.jsonl"
_BEFORE_FIRST_ENTRY = ("original",)
"""What a run may make before it records anything: a converted or downloaded model."""
_HASH = re.compile(r"(sha256:)?[0-9a-f]{64}")


@dataclass(frozen=True)
class Step:
    """A step as planned.

    Attributes:
        stage: A stage of the recipe, `original`, `result`, or a comparison; of what is recorded of
            the run itself, the name alone: `recipe`, `texts`.
        kind: What is done: `carve`, `measure-cut`, `recover`, `measure`, ...; empty where the
            stage says all.
        inputs: What goes into the step.
        key: A hash of what decides the step's result, and of all steps before it.
    """

    stage: str
    kind: str
    inputs: Mapping[str, Any]
    key: str

    @property
    def name(self) -> str:
        """As the ledger has it: `depth/carve`."""
        return f"{self.stage}/{self.kind}" if self.kind else self.stage


@dataclass(frozen=True)
class Entry:
    """A step as done, one line of the ledger.

    Attributes:
        step: Its name.
        outputs: Measurements and hashes.
        environment: Versions, machine, command.
        started: Date and time, ISO 8601.
        seconds: That the step took.
    """

    step: str
    key: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    environment: Mapping[str, Any]
    started: str
    seconds: float

    @property
    def stage(self) -> str:
        return self.step.partition("/")[0]

    @property
    def kind(self) -> str:
        return self.step.partition("/")[2]


def step_after(
    previous: Step | None,
    name: str,
    inputs: Mapping[str, Any],
    decisive: Mapping[str, Any] | None = None,
) -> Step:
    """The step of this name, keyed by its inputs and by the step before it.

    `decisive`: what the key is of, where that is less than the inputs.
    """
    text = json.dumps(
        {
            "after": previous.key if previous else None,
            "name": name,
            "inputs": inputs if decisive is None else decisive,
        },
        sort_keys=True,
    )
    stage, _, kind = name.partition("/")
    return Step(stage, kind, inputs, hashlib.sha256(text.encode()).hexdigest())


class Ledger:
    """The ledger of one run directory, held by one process at a time.

    A context manager: the lock is given back at the end, also when the process is killed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / LEDGER_FILE
        self._lock_path = directory / "lock"
        self._lock: int | None = None
        self._made: list[Path] = []
        self._entries: dict[str, Entry] = {}

    def __enter__(self) -> Self:
        try:
            self._made = _make(self.directory)
            self._refuse_foreign()
            self._lock = self._take_lock()
        except OSError as error:
            raise UserError(
                f"{self.directory}: cannot hold a run: {error.strerror or error}"
            ) from None
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        try:
            self._entries = read_entries(self.path, repair=True)
        except UserError:
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not self.path.exists():
            # Nothing was done, so nothing stays.
            self._lock_path.unlink(missing_ok=True)
            for directory in self._made:
                if not any(directory.iterdir()):
                    directory.rmdir()
        self._release()

    def _refuse_foreign(self) -> None:
        if self.path.exists():
            return
        for path in self.directory.iterdir():
            if path.name not in (self._lock_path.name, *_BEFORE_FIRST_ENTRY):
                raise UserError(
                    f"{self.directory}: holds {path.name} and no {LEDGER_FILE}, so it is no run; "
                    "choose a new or empty directory"
                )

    def _take_lock(self) -> int:
        while True:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(lock, 32, 0).decode() or "unknown"
                os.close(lock)
                raise UserError(
                    f"{self.directory}: another run (process {owner}) is using it; wait for it, or "
                    "choose another directory for this one"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), self._lock_path.stat()):
                    return lock
            os.close(lock)  # its holder took it away between the two calls

    def _release(self) -> None:
        if self._lock is not None:
            os.truncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The last entry of each step, in the order in which they were first done."""
        return self._entries

    def done(self, step: Step) -> Entry | None:
        """The entry of exactly this step, or None where it is still to do."""
        entry = self._entries.get(step.name)
        return entry if entry is not None and entry.key == step.key else None

    def record(self, entry: Entry) -> None:
        line = json.dumps(asdict(entry), sort_keys=True) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._entries[entry.step] = entry

    def forget(self, steps: Sequence[str]) -> None:
        """Take entries out, by rewriting the file."""
        kept = {name: entry for name, entry in self._entries.items() if name not in steps}
        lines = [json.dumps(asdict(entry), sort_keys=True) + "\n" for entry in kept.values()]
        write_atomically(self.path, "".join(lines).encode())
        self._entries = kept


def _make(directory: Path) -> list[Path]:
    """Make a directory; those that were not there, the innermost first."""
    made = []
    for path in (directory, *directory.parents):
        if path.exists():
            break
        made.append(path)
    directory.mkdir(parents=True, exist_ok=True)
    return made


def read_entries(path: Path, *, repair: bool = False) -> dict[str, Entry]:
    """The last entry of each step. A torn last line is passed over, and cut off with `repair`.

    Raises UserError at a line that is damaged elsewhere.
    """
    if not path.is_file():
        return {}
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if repair and whole < len(data):
        os.truncate(path, whole)
    entries: dict[str, Entry] = {}
    for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            raise UserError(
                f"{path}:{number}: damaged; remove this line and what follows to go on from there"
            ) from None
        entries[entry.step] = entry
    return entries


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Where two inputs differ, in words: `cut.ffn: 960 -> 896`, `data.train: changed`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in dict.fromkeys([*old, *new]):
            found += differences(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
        return found
    if old == new:
        return []
    if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (old, new)):
        return [f"{at}: changed"]
    return [f"{at}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}…"
