"""The answers of a model to requests, in files that grow line by line.

So an evaluation that was killed goes on with the next question, and what was answered once is never
computed again. There is a directory for each model, and in it a file for each task. A line is one
answer, under the hash of its request: the text that the model read, and what was asked of it. If a
task changes, its requests do, and the old answers are no longer found.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote

from regrow.common.errors import UserError
from regrow.common.files import parse_json_object
from regrow.common.publishing import (
    BusyError,
    make_directory,
    sync,
    sync_descriptor,
    take_lock,
)


def request_key(kind: str, arguments: tuple[Any, ...]) -> str:
    """The hash of a request of lm-eval: its kind and its arguments, SHA-256 in hex."""
    return hashlib.sha256(json.dumps([kind, *arguments]).encode()).hexdigest()


class Responses:
    """The answers of one model, in a directory.

    Context manager: holds a lock on the directory. Raises UserError if another process holds it, or
    the directory cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: int | None = None
        self._known: dict[str, dict[str, Any]] = {}
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> Self:
        try:
            make_directory(self.directory)
            self._lock = take_lock(self.directory / "lock")
        except BusyError as error:
            raise UserError(
                f"{self.directory}: another process ({error.owner}) evaluates this model; wait for "
                "it"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.directory}: cannot hold results: {error.strerror or error}"
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            with suppress(OSError):
                sync_descriptor(file.fileno())
            file.close()
        self._files.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def of(self, task: str) -> Mapping[str, Any]:
        """All answers for a task by the key of their request."""
        if task not in self._known:
            self._known[task] = _read(self._path(task))
        return self._known[task]

    def add(self, task: str, answers: Mapping[str, Any]) -> None:
        """Append answers by the key of their request. They survive a kill of this process."""
        known = self._known.setdefault(task, _read(self._path(task)))
        if task not in self._files:
            begins = not self._path(task).exists()
            self._files[task] = self._path(task).open("ab")
            if begins:
                sync(self.directory)
        lines = [json.dumps({"request": key, "answer": answer}) for key, answer in answers.items()]
        self._files[task].write("".join(f"{line}\n" for line in lines).encode())
        self._files[task].flush()
        known.update(answers)

    def _path(self, task: str) -> Path:
        return self.directory / f"{quote(task, safe=' ')[:200]}.jsonl"


def _read(path: Path) -> dict[str, Any]:
    """The answers in a file. An incomplete last line, as a kill leaves it, is cut off."""
    if not path.is_file():
        return {}
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)
    found = {}
    for number, line in enumerate(data[:end].split(b"\n")[:-1], start=1):
        try:
            row = parse_json_object(line, "")
            found[str(row["request"])] = row["answer"]
        except (UserError, KeyError):
            raise UserError(
                f"{path}:{number}: damaged; remove this line, and its question is asked again"
            ) from None
    return found
