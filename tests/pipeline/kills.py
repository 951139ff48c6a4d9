"""Runs that are killed at a moment that a test chooses."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import regrow


def _run(recipe: str, out: str, compare: Sequence[str]) -> None:
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        regrow.run(recipe, out, compare=compare)


def killed(
    forks: Any, recipe: Path, out: Path, when: Callable[[], bool], compare: Sequence[str] = ()
) -> bool:
    """Run until `when`, then SIGKILL; whether it was killed before its end."""
    process = forks.Process(target=_run, args=(str(recipe), str(out), compare))
    process.start()
    limit = time.monotonic() + 120
    while process.is_alive() and not when():
        assert time.monotonic() < limit, "a run hangs"
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9)
    return bool(process.exitcode)


def lines(out: Path) -> int:
    path = out / "ledger.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def longer_than(out: Path, count: int) -> Callable[[], bool]:
    return lambda: lines(out) > count


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def saved_after(training: Path, step: int) -> Callable[[], bool]:
    return lambda: any(int(path.name[5:]) > step for path in training.glob("step-*"))
