"""The ledger of a run: which steps are done, from which inputs, and with which results.

A run resumes from it, and the report is made from it. The file has one line of JSON for each step.
A line is appended and synced when the step is done; an incomplete last line, as a killed process
leaves it, is dropped on opening. Each entry holds the inputs of the step, and a key that hashes
them and all steps before it. So a changed recipe is noticed, and the steps that it invalidates are
known.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from regrow.common.errors import UserError
from regrow.common.files import parse_json_object, write_atomically
from regrow.common.publishing import (
    BusyError,
    make_directory,
    partial_place,
    sync,
    sync_descriptor,
    take_lock,
)
from regrow.common.run_directory import LEDGER_FILE

_BEFORE_FIRST_ENTRY = "original"
"""What a run makes before its first entry: a converted or downloaded model."""
_HASH = re.compile(r"(sha256:)?[0-9a-f]{64}")


@dataclass(frozen=True)
class Step:
    """A planned step.

    Attributes:
        stage: A stage of the recipe, `original`, or a comparison; or a record about the run:
            `recipe`, `texts`.
        kind: What is done: `carve`, `measure-cut`, `recover`, `measure`, `answers`, ...; empty for
            `original`, `recipe` and `texts`.
        inputs: The inputs of the step.
        key: A hash of what decides the step's result, and of all steps before it.
    """

    stage: str
    kind: str
    inputs: Mapping[str, Any]
    key: str

    @property
    def name(self) -> str:
        """The name in the ledger: `depth/carve`."""
        return f"{self.stage}/{self.kind}" if self.kind else self.stage


@dataclass(frozen=True)
class Entry:
    """A step that is done, one line of the ledger.

    Attributes:
        step: The name of the step.
        key, inputs: As in `Step`.
        outputs: Measurements and hashes.
        environment: Versions, machine, command.
        started: Date and time, ISO 8601.
        seconds: How long the step took.
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

    @property
    def heldout_losses(self) -> Mapping[str, Any]:
        """The losses that a step measured, by held-out text; of a recovery, of its trained weights.

        Only `measure`, `measure-cut` and `recover` have them.
        """
        measured = self.outputs["trained"] if self.kind == "recover" else self.outputs
        losses: Mapping[str, Any] = measured["heldout"]
        return losses

    @property
    def heldout_hashes(self) -> Mapping[str, str]:
        """The hashes of the held-out texts that such a step had, by name."""
        facts = self.outputs if self.kind == "recover" else self.inputs
        hashes: Mapping[str, str] = facts["heldout"]
        return hashes


def step_after(
    previous: Step | None,
    name: str,
    inputs: Mapping[str, Any],
    decisive: Mapping[str, Any] | None = None,
) -> Step:
    """The step of this name after `previous`; its key hashes both.

    `decisive`: the inputs that enter the key; None takes all.
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
    """The ledger of one run directory, and a lock that lets one process at a time use it.

    Context manager: holds the lock, which is also released if the process is killed. Raises
    UserError if another process holds it, or the directory holds something else than a run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / LEDGER_FILE
        self._lock_path = directory / "lock"
        self._lock: int | None = None
        self._created: list[Path] = []
        self._entries: dict[str, Entry] = {}

    def __enter__(self) -> Self:
        try:
            self._created = make_directory(self.directory)
            self._refuse_other_content()
            self._lock = take_lock(self._lock_path)
        except BusyError as error:
            raise UserError(
                f"{self.directory}: another run (process {error.owner}) is using it; wait for it, "
                "or choose another directory for this one"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.directory}: cannot hold a run: {error.strerror or error}"
            ) from None
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
            # No step was recorded: remove the lock and the directories that this run created.
            self._lock_path.unlink(missing_ok=True)
            for directory in self._created:
                if not any(directory.iterdir()):
                    directory.rmdir()
        self._release()

    def _refuse_other_content(self) -> None:
        if self.path.exists():
            return
        begun = self.directory / _BEFORE_FIRST_ENTRY
        known = (self._lock_path.name, begun.name, partial_place(begun).name)
        for path in self.directory.iterdir():
            if path.name not in known:
                raise UserError(
                    f"{self.directory}: holds {path.name} and no {LEDGER_FILE}, so it is no run; "
                    "choose a new or empty directory"
                )

    def _release(self) -> None:
        if self._lock is not None:
            os.truncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The last entry of each step by name, in the order in which they were first done."""
        return self._entries

    def done(self, step: Step) -> Entry | None:
        """The entry of a step with this name and key; None if it is still to do."""
        entry = self._entries.get(step.name)
        return entry if entry is not None and entry.key == step.key else None

    def record(self, entry: Entry) -> None:
        """Append an entry and sync it to disk."""
        line = json.dumps(asdict(entry), sort_keys=True) + "\n"
        begins = not self.path.exists()
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            sync_descriptor(file.fileno())
        if begins:
            sync(self.directory)
        self._entries[entry.step] = entry

    def forget(self, steps: Sequence[str]) -> None:
        """Remove the entries of these steps, by rewriting the file."""
        kept = {name: entry for name, entry in self._entries.items() if name not in steps}
        lines = [json.dumps(asdict(entry), sort_keys=True) + "\n" for entry in kept.values()]
        write_atomically(self.path, "".join(lines).encode())
        self._entries = kept


def read_entries(path: Path, *, repair: bool = False) -> dict[str, Entry]:
    """The last entry of each step by name; none if there is no such file.

    An incomplete last line is ignored. `repair`: also remove it from the file.

    Raises UserError if any other line is damaged.
    """
    if not path.is_file():
        return {}
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1  # of the last complete line
    if repair and end < len(data):
        os.truncate(path, end)
    entries: dict[str, Entry] = {}
    for number, line in enumerate(data[:end].split(b"\n")[:-1], start=1):
        try:
            entry = _entry(line)
        except (UserError, ValueError, TypeError):
            raise UserError(
                f"{path}:{number}: damaged; remove this line and what follows to go on from there"
            ) from None
        entries[entry.step] = entry
    return entries


def _entry(line: bytes) -> Entry:
    """The entry in a line. Raises UserError, ValueError or TypeError if it is none."""
    entry = Entry(**parse_json_object(line, ""))
    names = (entry.step, entry.key, entry.started)
    facts = (entry.inputs, entry.outputs, entry.environment)
    is_sound = (
        all(isinstance(each, str) for each in names)
        and all(isinstance(each, dict) for each in facts)
        and isinstance(entry.seconds, int | float)
        and -math.inf < entry.seconds < math.inf
        and bool(entry.step)
    )
    if not is_sound:
        raise TypeError
    return entry


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """The differences of two values, as text: `cut.ffn: 960 -> 896`, `data.train: changed`.

    `key`: the dotted key of both.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for part in dict.fromkeys([*old, *new]):
            found += differences(
                old.get(part), new.get(part), f"{key}.{part}" if key else str(part)
            )
        return found
    if old == new:
        return []
    if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (old, new)):
        return [f"{key}: changed"]
    return [f"{key}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}…"
