"""Processes that work on blocks of text files."""

import signal
from pathlib import Path

from regrow.corpus.parallel import FilePosition, pool, process_files
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
