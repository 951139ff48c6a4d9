"""Processes that need not import anything: of one that has imported all, or of the tests' own."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

_LIMIT = 240
"""Seconds."""


def exit_code(target: Callable[..., object], *arguments: object) -> int:
    """Of a copy of this process, in which `target` is called; negative for a signal."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join(_LIMIT)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


@contextmanager
def imported(*modules: str) -> Iterator[Any]:
    """A context of `multiprocessing` whose processes have imported these, and what trains."""
    root = str(Path(__file__).parents[1])
    # An empty entry would be the current directory.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", root, prepend=os.pathsep if "PYTHONPATH" in os.environ else None)
        context: Any = multiprocessing.get_context("forkserver")
        llama = "transformers.models.llama.modeling_llama"
        context.set_forkserver_preload([*modules, "regrow.training.loop", llama])
        yield context


class Together:
    """So many processes that meet in a store, which outlives them."""

    def __init__(self, forks: Any, count: int = 2) -> None:
        self._forks, self.count = forks, count
        self._store = TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
        )

    def run(
        self,
        target: Callable[..., None],
        arguments: tuple[Any, ...],
        log: Path,
        *,
        killed: int | None = None,
        when: Callable[[], bool] | None = None,
    ) -> list[int]:
        """Exit codes. What they say goes to a file. `killed`: which of them, or all, and `when`."""
        started = [
            self._forks.Process(
                target=_process, args=(rank, self.count, self._store.port, log, target, arguments)
            )
            for rank in range(self.count)
        ]
        try:
            for process in started:
                process.start()
            limit = time.monotonic() + _LIMIT
            while when is not None and not when():
                assert time.monotonic() < limit, "a run hangs"
                assert all(process.is_alive() for process in started), log.read_text()
                time.sleep(0.001)
            if when is not None:
                for rank, process in enumerate(started):
                    if killed in (None, rank):
                        process.kill()
                for process in started:
                    process.terminate()
            for process in started:
                process.join(_LIMIT)
            return [process.exitcode for process in started]
        finally:
            for process in started:
                process.kill()
                process.join()


def _process(
    rank: int,
    count: int,
    port: int,
    log: Path,
    target: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """In the environment that torchrun gives."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    torch.set_num_threads(1)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    target(*arguments)
