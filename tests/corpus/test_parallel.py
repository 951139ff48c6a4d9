"""Processes that work on blocks of text files."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.corpus.parallel import FilePosition, Workers, in_order, pool, process_files
from regrow.corpus.text import Block


def begin() -> None:
    pass


def blocked(_: Block) -> bool:
    """Whether SIGINT does not reach this process."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_reaches_no_worker_also_while_it_starts(tmp_path: Path) -> None:
    """A worker that it ends would print a traceback, and end the command with another error."""
    (tmp_path / "a.txt").write_text("text")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pool(1, begin) as workers:
        results = process_files(blocked, [tmp_path / "a.txt"], FilePosition(), workers, begin)
        assert [each.result for each in results] == [True]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def killed(_: Block) -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


def test_a_killed_worker_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with (
        pytest.raises(UserError, match="was killed, perhaps for want of memory"),
        pool(1, begin) as workers,
    ):
        list(process_files(killed, [tmp_path / "a.txt"], FilePosition(), workers, begin))


@pytest.mark.parametrize("ahead", [1, 2, 8])
def test_the_first_error_is_raised(ahead: int) -> None:
    def work(number: int) -> int:
        if number in (1, 3):
            raise UserError(f"bad {number}")
        return number

    with ThreadPoolExecutor(2) as executor, pytest.raises(UserError, match="bad 1"):
        list(in_order(work, ((n, n) for n in range(8)), Workers(executor, ahead), begin))


_SCRIPT = """
from pathlib import Path
from regrow.corpus.parallel import FilePosition, pool, process_files

def begin():
    pass

with pool(1, begin) as workers:
    list(process_files(len, [Path("a.txt")], FilePosition(), workers, begin))
"""


def test_a_script_without_a_main_block_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "script.py").write_text(_SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "UserError: no worker process could begin" in done.stderr.splitlines()[-1]
