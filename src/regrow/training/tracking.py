"""Write numbers for TensorBoard, Weights & Biases or trackio while a training runs.

A tool's package is imported only if the tool is used. A resumed training continues in the same
place.
"""

import importlib.util
import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal, Protocol

from regrow.common.errors import UserError, one_line
from regrow.common.files import write_atomically

_log = logging.getLogger(__name__)

Tool = Literal["tensorboard", "wandb", "trackio"]
_EXTRAS = {"tensorboard": "track"}
"""The extra that installs a tool, if it does not have the tool's name."""

WriteNumbers = Callable[[int, Mapping[str, float]], None]
"""Takes the number of a step, and its numbers by name."""


class Tracker(Protocol):
    """Takes the numbers of steps, by name.

    `name`: of the tool.
    """

    name: str

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes event files in ``tensorboard``.

    After a resume, steps that are computed again replace those of the earlier run (`purge_step`).
    Each step is flushed before its checkpoint is written, so a killed process loses none.
    """

    name = "tensorboard"

    def __init__(self, directory: Path, done: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        place = directory / "tensorboard"
        place.mkdir(parents=True, exist_ok=True)
        _wait_for_next_second(place)
        self._event: Any = Event
        # Not SummaryWriter: its thread prints a traceback if the disk is full.
        second, host = int(time.time()), socket.gethostname()
        path = place / f"events.out.tfevents.{second:010d}.{host}.{os.getpid()}.0"
        self._records = RecordWriter(path.open("wb"))
        self._add(file_version="brain.Event:2")
        # As SummaryWriter with `purge_step`.
        self._add(session_log={"status": "START"}, step=done + 1)
        self._records.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        numbers = [{"tag": name, "simple_value": value} for name, value in values.items()]
        self._add(summary={"value": numbers}, step=step)
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _add(self, **event: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **event).SerializeToString())


def _wait_for_next_second(place: Path) -> None:
    """Wait until the newest event file is older than the current second.

    TensorBoard reads the files in the order of their names. These begin with the second; what
    follows does not keep the order of writing.
    """
    seconds = [int(path.name.split(".")[3]) for path in place.glob("events.out.tfevents.*")]
    while seconds and int(time.time()) == max(seconds):
        time.sleep(0.02)


class OnlineTracker:
    """Writes to a run of Weights & Biases, or of trackio, which has the same functions.

    The project is `regrow` if the environment names none.
    """

    def __init__(self, module: Any, directory: Path, done: int, config: Mapping[str, Any]) -> None:
        self._module = module
        self.name = tool = module.__name__
        run_id = _run_id(directory / tool / "run-id", done)
        project = os.environ.get(f"{tool.upper()}_PROJECT", "regrow")
        options: dict[str, Any] = {"project": project, "config": dict(config), "resume": "allow"}
        if tool == "wandb":
            name = os.environ.get("WANDB_NAME", str(directory))
            options |= {"id": run_id, "name": name, "dir": str(directory)}
        else:
            # trackio identifies a run by its name alone.
            options |= {"name": f"{directory} {run_id}"}
        # Standard output is for what the command prints.
        with redirect_stdout(sys.stderr):
            self._run = module.init(**options)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()


def _run_id(path: Path, done: int) -> str:
    """The id of this training's run; a new one if the training begins."""
    if done == 0 or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, uuid.uuid4().hex[:8].encode())
    return path.read_text()


def check_tools(tools: Sequence[Tool] | None) -> None:
    """Raise UserError if one of the tools is not installed."""
    for tool in tools or ():
        if importlib.util.find_spec(tool) is None:
            extra = _EXTRAS.get(tool, tool)
            raise UserError(f"{tool} is not installed; pip install 'regrow[{extra}]'", key="track")


@contextmanager
def tracking(
    tools: Sequence[Tool] | None, directory: Path, done: int, config: Mapping[str, Any]
) -> Iterator[WriteNumbers]:
    """Context manager: gives a function that writes numbers to these tools.

    Of several processes, only the first enters it.

    `tools`: None takes TensorBoard if it is installed. `directory`: of the training; the tools may
    write there, and a run has its name. `done`: steps done before the resume. `config`: settings
    that the tools show.

    A tool that fails later is named in a warning and left out, since numbers end no training.

    Raises UserError if a tool is not installed or fails to start.
    """
    trackers: list[Tracker] = []
    check_tools(tools)
    try:
        for tool in tools if tools is not None else _installed():
            try:
                trackers.append(_open(tool, directory, done, config))
            except Exception as error:
                message = f"track: {tool}: {one_line(str(error)) or type(error).__name__}"
                if tools is not None:
                    raise UserError(message) from error
                # The user did not ask for TensorBoard, so its failure ends nothing.
                _log.warning("%s; goes on without", message)

        def write(step: int, values: Mapping[str, float]) -> None:
            for tracker in [*trackers]:
                with _best_effort(tracker, trackers):
                    tracker.write(step, values)

        yield write
    finally:
        for tracker in [*trackers]:
            with _best_effort(tracker, trackers):
                tracker.close()


@contextmanager
def _best_effort(tracker: Tracker, trackers: list[Tracker]) -> Iterator[None]:
    """Context manager: a tool that fails is named once and left out; the training goes on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a tool may raise anything
        trackers.remove(tracker)
        reason = one_line(str(error)) or type(error).__name__
        _log.warning("track: %s: %s; goes on without", tracker.name, reason)


def _installed() -> list[Tool]:
    return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []


def _open(tool: Tool, directory: Path, done: int, config: Mapping[str, Any]) -> Tracker:
    if tool == "tensorboard":
        return TensorBoard(directory, done)
    return OnlineTracker(importlib.import_module(tool), directory, done, config)
