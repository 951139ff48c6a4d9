"""Text files through several processes, in work that can be killed and is then resumed.

One process reads blocks of records, and collects what the worker processes make of each block, in
the order of reading. So the result does not depend on the number of processes. From time to time
it saves a checkpoint; a later run of the same work resumes from there.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from regrow.common.errors import UserError
from regrow.common.outputs import check_new_directory, check_new_file
from regrow.corpus.text import Block, Position, read_blocks
from regrow.corpus.text_files import check_text_file

CHECKPOINT_SECONDS = 20.0
"""Time between two checkpoints; a killed run loses at most so much work."""
BLOCK_BYTES = 1 << 20

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Is told the bytes that were read so far, and the bytes of all files."""


def no_progress(_done: int, _total: int) -> None:
    """Tell nobody."""


# Checks before the work


def check_files(files: Sequence[Path], key: str) -> None:
    """Raise UserError if no file is given, one cannot be read, or one is given twice.

    `key`: of the error if no file is given.
    """
    if not files:
        raise UserError("name at least one file", key=key)
    seen: set[Path] = set()
    for path in files:
        check_text_file(path)
        if (real := path.resolve()) in seen:
            raise UserError(f"{path}: named twice; its documents would be doubled")
        seen.add(real)


def check_new(out: Path, kind: Literal["file", "directory"]) -> None:
    """Raise UserError if `out` exists or cannot be written.

    What killed processes left beside `out`, and is of no use, is removed.
    """
    (check_new_directory if kind == "directory" else check_new_file)(out)


def file_stamps(files: Sequence[Path]) -> list[list[Any]]:
    """Path, bytes and time of change of each file: a later run compares them with its own files."""
    return [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


# Work that can be resumed


def check_same_work(
    directory: Path, earlier: Mapping[str, Any], now: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """Raise UserError if an earlier run in the directory did other work.

    `earlier`, `now`, `names`: as in :func:`other_work`.
    """
    if (name := other_work(earlier, now, names)) is not None:
        raise UserError(
            f"{directory}: left by a run that was stopped, with other {name}; "
            "delete it to begin anew"
        )


def other_work(
    earlier: Mapping[str, Any], now: Mapping[str, Any], names: Mapping[str, str]
) -> str | None:
    """The first thing that decides the result and is not as before; None if all is.

    `earlier`, `now`: what decides the result, by key. `names`: what a message calls each key.
    """
    return next(
        (n for key, n in names.items() if key not in earlier or earlier[key] != now[key]), None
    )


# Processes


@dataclass(frozen=True)
class Workers:
    """The processes that work on blocks, and how blocks are given to them.

    The sizes change how fast the work is, and not its result.

    Attributes:
        executor: The processes.
        ahead: Blocks that are read before the result of the first of them is used.
        block_bytes: Bytes of text in a block, about.
    """

    executor: Executor
    ahead: int
    block_bytes: int = BLOCK_BYTES


@contextmanager
def pool(processes: int, start: Callable[..., None], *arguments: Any) -> Iterator[Workers]:
    """Processes that called `start` with these arguments when they began.

    Raises UserError if none of them can begin, or one is killed.
    """
    # Not forked: threads of the tokenizers library and of a progress bar may hold locks.
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    executor = ProcessPoolExecutor(processes, context, _begin, (began, start, arguments))
    try:
        yield Workers(executor, ahead=2 * processes)
    except BrokenProcessPool:
        if not began.is_set():
            raise UserError(
                "no worker process could begin: each imports the script that calls this, so call "
                'it from a file, below `if __name__ == "__main__":`'
            ) from None
        raise UserError(
            "a worker process was killed, perhaps for want of memory; start again with "
            "fewer workers, and it goes on from here"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _no_interrupt_for_children() -> Iterator[None]:
    """Context manager: processes that are started here get no SIGINT, also while they start.

    Ctrl-C sends it to them too, and this process ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(began: Event, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    began.set()
    # A parent that is killed cannot end its processes.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    start(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# Blocks


@dataclass(frozen=True)
class FilePosition:
    """How far a list of files is read.

    Attributes:
        file: The number of the file.
        position: Where its next record begins.
    """

    file: int = 0
    position: Position = field(default_factory=Position)


def file_position(file: object, place: Mapping[str, object], files: int) -> FilePosition:
    """The position that a checkpoint has saved, in a list of so many files.

    Raises TypeError or ValueError if it is none.
    """
    found = FilePosition(file, Position(**place))  # type: ignore[arg-type]
    numbers = (found.file, found.position.offset, found.position.record)
    if any(type(number) is not int or number < 0 for number in numbers) or found.file > files:
        raise ValueError(f"{numbers} is no position")
    return found


@dataclass(frozen=True)
class BlockResult(Generic[T]):
    """What a process made of a block.

    Attributes:
        result: What the process returned.
        after: Where the next block begins.
    """

    result: T
    after: FilePosition


def process_files(
    work: Callable[[Block], T],
    files: Sequence[Path],
    start: FilePosition,
    workers: Workers,
    checkpoint: Callable[[], None],
    *,
    whole: bool = True,
    progress: Progress = no_progress,
) -> Iterator[BlockResult[T]]:
    """The result of `work` for each block of the files, in the order of the files.

    Args:
        work: is called in the processes of `workers`.
        files: text files.
        start: where to begin.
        workers: the processes.
        checkpoint: is called from time to time, after the caller has used a result.
        whole: see :func:`regrow.corpus.text.read_blocks`.
        progress: is told of each block whose result was used.

    Raises:
        UserError: a file cannot be read. The results before that place are given first.
    """
    before = list(accumulate((path.stat().st_size for path in files), initial=0))
    blocks = (
        ((FilePosition(number, block.after), before[number] + block.read), block)
        for number, block in _read_files(files, start, workers.block_bytes, whole)
    )
    for (after, read), result in in_order(work, blocks, workers, checkpoint):
        yield BlockResult(result, after)
        progress(read, before[-1])


def in_order(
    work: Callable[[A], T],
    tasks: Iterable[tuple[B, A]],
    workers: Workers,
    checkpoint: Callable[[], None],
) -> Iterator[tuple[B, T]]:
    """The result of `work` for each task, in the order of the tasks, each with its label.

    Args:
        work: is called in the processes of `workers`.
        tasks: labels, and what `work` is given.
        workers: the processes.
        checkpoint: is called from time to time, after the caller has used a result.

    Raises:
        UserError: of a task, or while tasks are read. The results before that are given first.
    """
    waiting: deque[tuple[B, Future[T]]] = deque()
    saved = time.monotonic()

    def results(most: int) -> Iterator[tuple[B, T]]:
        nonlocal saved
        while len(waiting) > most:
            label, future = waiting.popleft()
            yield label, future.result()
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                checkpoint()
                saved = time.monotonic()

    read = iter(tasks)
    while True:
        try:
            label, task = next(read)
        except StopIteration:
            break
        except UserError:
            # An error of an earlier task comes first.
            for _, future in waiting:
                future.result()
            raise
        with _no_interrupt_for_children():  # submit starts the processes
            waiting.append((label, workers.executor.submit(work, task)))
        yield from results(workers.ahead)
    yield from results(0)


def _read_files(
    files: Sequence[Path], start: FilePosition, size: int, whole: bool
) -> Iterator[tuple[int, Block]]:
    """Blocks with the number of their file."""
    for number in range(start.file, len(files)):
        begin = start.position if number == start.file else Position()
        for block in read_blocks(files[number], size, begin, whole=whole):
            yield number, block
