"""Write beside a target, and give the result its name when it is complete and on the disk.

What is not complete lies in a hidden place beside its target:

- `.NAME.regrow-partial`, a file or a directory, which is of no use after a kill;
- `.NAME.unfinished`, a directory with checkpoints, whose work goes on after a kill.

The process that writes holds a lock (flock) on the place, and the lock ends with the process. So
who gets the lock knows that the owner is dead, and empties the place or goes on with its work. A
place whose owner lives is left alone. The lock is on a file, since NFS locks no directories.

What is renamed to its target is on the disk first: its files, then its directories; the new name
follows. `durable(False)` leaves this out.
"""

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from regrow.common.errors import UserError

_PARTIAL, _UNFINISHED = ".regrow-partial", ".unfinished"
_LOCK, _PUBLISHED = "lock", "published"
"""Files in a place: the lock, and a mark that the result is complete and gets its name."""
_durable: ContextVar[bool] = ContextVar("durable", default=True)


# Onto the disk


@contextmanager
def durable(wanted: bool) -> Iterator[None]:
    """Context manager: with False, nothing waits for the disk, so a power loss may damage it."""
    before = _durable.set(wanted)
    try:
        yield
    finally:
        _durable.reset(before)


def is_durable() -> bool:
    """Whether results are synced to the disk."""
    return _durable.get()


def sync(path: Path) -> None:
    """Sync a file or a directory to the disk; a directory's names, not its files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        sync_descriptor(handle)
    finally:
        os.close(handle)


def sync_descriptor(descriptor: int) -> None:
    """Sync an open file to the disk."""
    if is_durable():
        os.fsync(descriptor)


def make_directory(path: Path) -> list[Path]:
    """Make a directory and its parents, and sync their names; the new ones, innermost first."""
    created = []
    for each in (path, *path.parents):
        if each.exists():
            break
        created.append(each)
    path.mkdir(parents=True, exist_ok=True)
    for each in created:
        sync(each.parent)
    return created


def publish(source: Path, target: Path) -> None:
    """Rename a file or a directory to `target`, once all of it is on the disk.

    `target` must not exist, be a file, or be an empty directory.

    Raises OSError if it cannot be synced or renamed.
    """
    for path in source.rglob("*"):
        sync(path)
    sync(source)
    source.rename(target)
    sync(target.parent)


# Locks


class BusyError(Exception):
    """Another process holds the lock; `owner`: its id, or `unknown`."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


def take_lock(path: Path, *, wait: bool = False) -> int:
    """Lock the file `path`, which is made if it is not there; a descriptor that holds the lock.

    The lock ends when the descriptor is closed, at the latest with the process. The file holds the
    process id of its last owner. `wait`: until the owner of the lock ends.

    Raises BusyError if another process holds the lock, and UserError if the file system has no
    locks.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            if _lock(descriptor, path, wait=wait):
                with suppress(OSError):  # the id is for messages; a full disk ends the work itself
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path, *, wait: bool) -> bool:
    """Lock an open file; False if it is no longer at `path`, since its owner removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise BusyError(
            os.pread(descriptor, 32, 0).decode("ascii", "ignore") or "unknown"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path.parent}: its file system has no locks ({error.strerror}), which keep two "
            "processes apart; choose another place"
        ) from error
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


# Places


def partial_place(target: Path) -> Path:
    """Where a target lies while it is not complete."""
    return _beside(target, _PARTIAL)


def unfinished_place(target: Path) -> Path:
    """Where a target lies while it is not complete, if its work goes on after a kill."""
    return _beside(target, _UNFINISHED)


@contextmanager
def workplace(target: Path, *, checkpoint: str | None = None, wait: bool = False) -> Iterator[Path]:
    """Context manager: a locked directory beside `target`, in which the result is made.

    It is removed at the end. Make the result below it, and give it to `publish`. What a killed
    owner left in it is removed first. Missing parents of the target are made; if the work fails,
    they are removed again.

    Args:
        target: what the work will write.
        checkpoint: the name of a file in the directory. If it is there, the work goes on from what
            a killed owner left, and an error in the work leaves the directory.
        wait: until another process that writes the target is done.

    Raises:
        UserError: another process writes the target, or the file system has no locks.
        OSError: the directory cannot be made.
    """
    place = partial_place(target) if checkpoint is None else unfinished_place(target)
    with _parents(target):
        lock = _enter(place, target, wait=wait)
        resumable = False
        try:
            try:
                if checkpoint is None or not (place / checkpoint).is_file():
                    _empty(place)
                yield place
            except BaseException:
                resumable = checkpoint is not None and (place / checkpoint).is_file()
                raise
            finally:
                if not resumable:
                    _remove(place)
        finally:
            os.close(lock)


def publish_finished(source: Path, target: Path) -> None:
    """Publish the result of work that could be taken up; `source` lies in its workplace.

    If the process is killed before the workplace is removed, `remove_strays` removes it.
    """
    mark = source.parent / _PUBLISHED
    mark.touch()
    sync(mark)
    try:
        publish(source, target)
    except OSError:
        if source.exists():  # else it has its name, and only a sync failed
            mark.unlink(missing_ok=True)
        raise


@contextmanager
def partial_file(target: Path) -> Iterator[BinaryIO]:
    """Context manager: an open file, which becomes `target` at the end, when it is on the disk.

    A reader sees the old file or the new one, never a part. Its mode follows the umask. It waits
    for another process that writes the same file. Missing parents are made.
    """
    place = partial_place(target)
    with _parents(target), _own_file(place, target) as file:
        try:
            yield file
            file.flush()
            sync_descriptor(file.fileno())
            place.replace(target)
        except BaseException:
            place.unlink(missing_ok=True)
            raise
    sync(target.parent)


def remove_strays(target: Path) -> None:
    """Remove what killed processes left beside `target` and nobody can use.

    Unfinished work stays, unless it has nothing to go on from, or its result has got its name.

    Raises UserError if another process is writing the target.
    """
    places = [partial_place(target)]
    unfinished = unfinished_place(target)
    is_published = (unfinished / _PUBLISHED).exists() and target.exists()
    if is_published or {path.name for path in unfinished.glob("*")} <= {_LOCK}:
        places.append(unfinished)
    for place in places:
        try:
            _remove_dead(place)
        except BusyError as error:
            raise _busy(target, error) from None


def remove_all_strays(directory: Path) -> None:
    """Remove what killed processes left in a directory and below, and nobody can use."""
    for place in [*directory.rglob(f".*{_PARTIAL}")]:
        with suppress(BusyError):
            _remove_dead(place)


def _beside(target: Path, suffix: str) -> Path:
    if target.name in ("", ".."):
        raise UserError(
            f"{target}: has no name of its own; give a name that ends in none of / and .."
        )
    return target.with_name(f".{target.name}{suffix}")


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Context manager: make the parents of a target; if an error comes, remove those it made."""
    created = make_directory(target.parent)
    try:
        yield
    except BaseException:
        for directory in created:
            with suppress(OSError):  # it holds what others, or unfinished work, put there
                directory.rmdir()
        raise


def _enter(place: Path, target: Path, *, wait: bool) -> int:
    """Make a place if it is not there, and lock it; the descriptor of its lock."""
    while True:
        with suppress(FileExistsError):
            place.mkdir()
        try:
            if place.is_dir() and not place.is_symlink():
                return take_lock(place / _LOCK, wait=wait)
            _remove_dead(place)
        except FileNotFoundError:  # its owner removed it meanwhile
            continue
        except BusyError as error:
            raise _busy(target, error) from None


@contextmanager
def _own_file(place: Path, target: Path) -> Iterator[BinaryIO]:
    """Context manager: a new file at `place`, locked and open for writing."""
    while True:
        try:
            file = os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "wb")
        except FileExistsError:
            try:
                _remove_dead(place, wait=not place.is_dir())
            except BusyError as error:
                raise _busy(target, error) from None
            continue
        with file, suppress(BusyError):  # who cleans up may have been faster
            if _lock(file.fileno(), place, wait=False):
                yield file
                return


def _remove_dead(place: Path, *, wait: bool = False) -> None:
    """Remove a place whose owner is dead. Raises BusyError if it lives."""
    try:
        mode = place.lstat().st_mode
        if stat.S_ISLNK(mode):
            place.unlink()
            return
        lock = take_lock(place / _LOCK if stat.S_ISDIR(mode) else place, wait=wait)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        _remove(place)
    finally:
        os.close(lock)


def _remove(place: Path) -> None:
    """Remove a place, as its owner."""
    if not place.is_dir():
        place.unlink(missing_ok=True)
        return
    _empty(place)
    # The lock goes last: until then nobody else can be in the place.
    (place / _LOCK).unlink(missing_ok=True)
    with suppress(OSError):  # somebody took a new lock in it
        place.rmdir()


def _empty(place: Path) -> None:
    """Remove all but the lock; the mark goes last, so that what is left is known as useless."""
    for path in sorted(place.iterdir(), key=lambda path: path.name == _PUBLISHED):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)


def _busy(target: Path, error: BusyError) -> UserError:
    return UserError(
        f"{target}: another process ({error.owner}) is writing it; wait for it, or choose "
        "another place"
    )
