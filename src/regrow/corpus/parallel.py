"""Blocks of text files through several processes: work that may be killed, and is then taken up.

One process reads blocks of records and gathers what the others make of them, in the order of
reading. So what comes out does not depend on how many processes there are.
"""

import fcntl
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from regrow.common.errors import UserError
from regrow.common.files import sync_directory
from regrow.corpus.text import Block, Position, check_text_file, read_blocks

NOTE_SECONDS = 20.0
"""Between two notes of how far the work is; what a killed run loses at most."""
BLOCK_BYTES = 1 << 20

T = TypeVar("T")


class Done(NamedTuple):
    """What came of a block.

    Attributes:
        file: The number of its file.
        after: Where the next block begins.
        read: Bytes of the file that were read so far.
        result: What the process returned.
    """

    file: int
    after: Position
    read: int
    result: Any


def check_files(files: Sequence[Path], key: str) -> None:
    """Raise UserError where one cannot be read, or is named twice, or none is named."""
    if not files:
        raise UserError("name at least one file", key=key)
    seen: set[Path] = set()
    for path in files:
        check_text_file(path)
        if (real := path.resolve()) in seen:
            raise UserError(f"{path}: named twice; its documents would be doubled")
        seen.add(real)


def file_stamps(files: Sequence[Path]) -> list[list[Any]]:
    """By which a later run sees whether the files are the same."""
    return [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


@contextmanager
def pool(workers: int, start: Callable[..., None], *arguments: Any) -> Iterator[Executor]:
    """Processes that called `start` with these arguments when they began.

    Raises UserError where one is killed.
    """
    # Not forked: threads of the tokenizers library and of a progress bar may hold locks.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, _begin, (start, arguments))
    try:
        yield executor
    except BrokenProcessPool:
        raise UserError(
            "a process that tokenises was killed, perhaps for want of memory; start again with "
            "fewer workers, and it goes on from here"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told of it, and ends us
    # A parent that is killed cannot end us.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    start(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def read_files(
    files: Sequence[Path], first: int, place: Position, size: int, *, whole: bool = True
) -> Iterator[tuple[int, Block]]:
    """Blocks with the number of their file, from a place in the file `first` on."""
    for number in range(first, len(files)):
        start = place if number == first else Position()
        for block in read_blocks(files[number], size, start, whole=whole):
            yield number, block


def in_order(
    blocks: Iterator[tuple[int, Block]], submit: Callable[[Block], "Future[T]"], ahead: int
) -> Iterator[Done]:
    """What comes of each block, as they were read; at most `ahead` are read before their turn."""
    waiting: deque[tuple[int, Position, int, Future[T]]] = deque()
    try:
        for number, block in blocks:
            waiting.append((number, block.after, block.read, submit(block)))
            if len(waiting) > ahead:
                yield _done(*waiting.popleft())
    except UserError:
        # What is wrong further on is told after what is wrong before it.
        for item in waiting:
            item[3].result()
        raise
    while waiting:
        yield _done(*waiting.popleft())


def _done(number: int, after: Position, read: int, future: "Future[T]") -> Done:
    return Done(number, after, read, future.result())


@contextmanager
def unfinished_directory(out: Path, state: str) -> Iterator[Path]:
    """A hidden directory beside `out`, for one process at a time.

    It is removed when the work fails before its file `state` is there; without that, nothing can
    be taken up.
    """
    place = out.parent / f".{out.name}.unfinished"
    place.mkdir(exist_ok=True)
    handle = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another process is writing it") from None
        try:
            yield place
        except BaseException:
            if not (place / state).is_file():
                shutil.rmtree(place, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def remove(place: Path) -> None:
    """Remove a hidden directory whose work is done."""
    shutil.rmtree(place)
    sync_directory(place.parent)
