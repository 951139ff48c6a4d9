"""Many fresh processes of the command line, each forked from one that has imported everything.

`python -m tests.attack.zygote` reads a request a line, as JSON, and answers with a line. To import
torch and transformers for each attack anew would take most of the time.
"""

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

LIMIT_SECONDS = 300


@dataclass(frozen=True)
class Request:
    """One process: its command line, and the fault that it meets.

    Attributes:
        arguments: Of `regrow`.
        home: A directory; the points of the fault lie below `work` in it.
        at: The number of the point, from 1; 0 for no fault. For `MOMENT`, the number of the call.
        kind: One of `tests.attack.faults.KINDS`, or `MOMENT`.
    """

    arguments: list[str]
    home: str
    at: int = 0
    kind: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        code: Exit code; negative for a signal.
        said: Standard output and error.
        points: What was done at each point; empty if it was killed.
        modules: The modules that it had imported; empty if it was killed.
        calls: How many functions were called, for `MOMENT`.
    """

    code: int
    said: str
    points: list[str]
    modules: list[str]
    calls: int


class Zygote:
    """The process that forks. Context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attack.zygote"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(self, request: Request) -> Outcome:
        """Run one process to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(request)) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def learn(self, outcome: Outcome) -> None:
        """Import what a process had imported, so that later ones need not."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"modules": outcome.modules}) + "\n")
        self._process.stdin.flush()


def _serve() -> None:
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401 - else a subprocess imports it

    import regrow.cli.app  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "modules" in request:
            for name in request["modules"]:
                try:
                    __import__(name)
                except Exception:  # noqa: BLE001 - some cannot be imported by their name
                    continue
        else:
            print(json.dumps(asdict(_run(Request(**request)))), flush=True)


def _run(request: Request) -> Outcome:
    log, told = Path(request.home) / "log", Path(request.home) / "points"
    told.unlink(missing_ok=True)
    sys.stdout.flush()
    gc.freeze()  # else a collection in the new process touches, and so copies, all memory
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        _become(request, log, told)
    code = _wait(pid)
    found = json.loads(told.read_text()) if told.exists() else {}
    found = {"points": [], "modules": [], "calls": 0, **found}
    return Outcome(code, log.read_text(errors="replace"), **found)


def _wait(pid: int) -> int:
    until = time.monotonic() + LIMIT_SECONDS
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)


def _become(request: Request, log: Path, told: Path) -> None:
    """Run the command in this process, which was forked, and end it."""
    from tests.attack.faults import MOMENT, Calls, Faults

    code = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["TMPDIR"] = tempfile.tempdir = str(Path(request.home) / "tmp")
        # A pool that is spawned would import everything anew.
        fork = multiprocessing.get_context("fork")
        multiprocessing.get_context = lambda *_: fork  # type: ignore[assignment]
        _measure_no_speed()
        is_moment = request.kind == MOMENT
        faults = Faults(Path(request.home) / "work", 0 if is_moment else request.at, request.kind)
        faults.install()
        calls = Calls(request.at)
        if is_moment:
            calls.watch()
        code = _command(request.arguments)
        sys.setprofile(None)
        found = {"points": faults.points, "modules": sorted(sys.modules), "calls": calls.count}
        told.write_text(json.dumps(found))
    except BaseException:  # noqa: BLE001 - printed, so that the attack sees it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _measure_no_speed() -> None:
    """Measuring the speed of generation changes no file, and would take a third of the time."""
    from regrow.evaluation import generation

    took = generation.TimedText(seconds=1.0, tokens=1, cache_bytes=0, peak_bytes=None)
    generation.timed_text = lambda *_, **__: took


def _command(arguments: list[str]) -> int:
    from regrow.__main__ import main

    sys.argv = ["regrow", *arguments]
    try:
        main()
    except SystemExit as end:
        given: Any = end.code
        return given if isinstance(given, int) else 0 if given is None else 1
    return 0


if __name__ == "__main__":
    _serve()
