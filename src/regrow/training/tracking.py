"""Tools that draw numbers while a training runs: TensorBoard, Weights & Biases, trackio.

The package of each is loaded only where it is asked for. A training that is taken up again goes on
in the same place.
"""

import importlib.util
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal, Protocol

from regrow.common.errors import UserError

_log = logging.getLogger(__name__)

Tool = Literal["tensorboard", "wandb", "trackio"]
_EXTRAS = {"tensorboard": "track"}
"""Of the package, where one is not named as its tool is."""

Write = Callable[[int, Mapping[str, float]], None]
"""Takes a step and its numbers by name."""


class Metrics(Protocol):
    """Takes the numbers of steps."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``tensorboard``.

    What an earlier call wrote of steps that are done again is taken back (`purge_step`). Each step
    is handed to the system before its checkpoint is, so none is lost where a process is killed.
    """

    def __init__(self, directory: Path, done: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        made: Any = SummaryWriter
        place = directory / "tensorboard"
        _leave_second(place)
        self._writer = made(str(place), purge_step=done + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _leave_second(place: Path) -> None:
    """Wait while the newest event file is of this second.

    Files are read in the order of their names: of the second, and then of what may be in any order.
    """
    seconds = [int(path.name.split(".")[3]) for path in place.glob("events.out.tfevents.*")]
    while seconds and int(time.time()) == max(seconds):
        time.sleep(0.02)


class Tracked:
    """A run of Weights & Biases, or of trackio, which has the same functions.

    Its project is `regrow` where the environment names none.
    """

    def __init__(self, module: Any, directory: Path, done: int, config: Mapping[str, Any]) -> None:
        self._module = module
        tool = module.__name__
        own = _own_id(directory / tool / "run-id", done)
        project = os.environ.get(f"{tool.upper()}_PROJECT", "regrow")
        options: dict[str, Any] = {"project": project, "config": dict(config), "resume": "allow"}
        if tool == "wandb":
            name = os.environ.get("WANDB_NAME", str(directory))
            options |= {"id": own, "name": name, "dir": str(directory)}
        else:
            # It knows a run by its name alone.
            options |= {"name": f"{directory} {own}"}
        # What a command prints is its own.
        with redirect_stdout(sys.stderr):
            self._run = module.init(**options)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()


def _own_id(path: Path, done: int) -> str:
    """Of this training; a new one where it begins."""
    if done == 0 or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()


def check_tools(tools: Sequence[Tool] | None) -> None:
    """Raise UserError where one is not installed."""
    for tool in tools or ():
        if importlib.util.find_spec(tool) is None:
            extra = _EXTRAS.get(tool, tool)
            raise UserError(f"track: {tool} is not installed; pip install 'regrow[{extra}]'")


@contextmanager
def tracking(
    tools: Sequence[Tool] | None, directory: Path, done: int, config: Mapping[str, Any]
) -> Iterator[Write]:
    """Inside, numbers are drawn by these tools; None takes TensorBoard where it is installed.

    Of several processes, the first alone does this.

    `directory`: of the training, where they may write; a run has its name. `done`: step after which
    the training is taken up. `config`: its settings, which the tools show.
    Raises UserError where one is not installed, or says that it cannot.
    """
    opened: list[Metrics] = []
    check_tools(tools)
    try:
        for tool in tools if tools is not None else _installed():
            try:
                opened.append(_open(tool, directory, done, config))
            except Exception as error:
                said = f"track: {tool}: {' '.join(str(error).split()) or type(error).__name__}"
                if tools is not None:
                    raise UserError(said) from error
                # Nobody asked for it.
                _log.warning("%s; goes on without", said)

        def write(step: int, values: Mapping[str, float]) -> None:
            for each in opened:
                each.write(step, values)

        yield write
    finally:
        for each in opened:
            each.close()


def _installed() -> list[Tool]:
    return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []


def _open(tool: Tool, directory: Path, done: int, config: Mapping[str, Any]) -> Metrics:
    if tool == "tensorboard":
        return TensorBoard(directory, done)
    return Tracked(importlib.import_module(tool), directory, done, config)
