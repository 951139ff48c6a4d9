"""The file that keeps what was measured, so that nothing is measured twice."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regrow.common.errors import UserError
from regrow.common.files import json_bytes, read_json_object, write_atomically
from regrow.common.publishing import BusyError, make_directory, take_lock

FILE = "measured.json"
_LOCK = "lock"
_FORMAT = 1

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class MeasuredCut:
    """The loss after one cut; without sizes, of the original.

    Attributes:
        sizes: Of the axes that are cut, by axis.
        bits_per_byte: On the held-back text.
        seconds: To cut and to measure.
        refit: Whether the cut was refitted, if the architecture allows it.
    """

    sizes: Sizes
    bits_per_byte: float
    seconds: float
    refit: bool = True


@dataclass(frozen=True)
class MeasuredSpeed:
    """The speeds of a cut and of the original, which generate in turns, in seconds per token.

    Attributes:
        sizes: Of the axes that are cut, by axis.
        machine: On which both were measured.
        original, cut: Seconds per token.
    """

    sizes: Sizes
    machine: str
    original: float
    cut: float


class MeasuredCuts:
    """All cuts of one model that were measured on one text.

    Each is written to the file as soon as it is measured. `facts`: what else decides the results,
    for people who read the file.
    """

    def __init__(self, directory: Path, facts: Mapping[str, Any]) -> None:
        self.directory = directory
        self._facts = dict(facts)
        self._cuts: dict[tuple[bool, tuple[tuple[str, int], ...]], MeasuredCut] = {}
        self._speeds: dict[tuple[str, tuple[tuple[str, int], ...]], MeasuredSpeed] = {}
        path = directory / FILE
        if path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        found = read_json_object(path)
        try:
            if found["format"] != _FORMAT:
                raise ValueError
            for each in found["cuts"]:
                cut = MeasuredCut(**each)
                self._cuts[cut.refit, _key(cut.sizes)] = cut
            for each in found["speeds"]:
                self._speeds[each["machine"], _key(each["sizes"])] = MeasuredSpeed(**each)
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: not what was measured; delete it to measure again") from None

    def cut(self, sizes: Sizes, *, refit: bool = True) -> MeasuredCut | None:
        """The measured cut to these sizes; None if it is still to measure."""
        return self._cuts.get((refit, _key(sizes)))

    def speed(self, sizes: Sizes, machine: str) -> MeasuredSpeed | None:
        """The measured speed of a cut on a machine; None if it is still to measure."""
        return self._speeds.get((machine, _key(sizes)))

    def add(self, measured: MeasuredCut | MeasuredSpeed) -> None:
        """Keep a result, on disk too."""
        if isinstance(measured, MeasuredCut):
            self._cuts[measured.refit, _key(measured.sizes)] = measured
        else:
            self._speeds[measured.machine, _key(measured.sizes)] = measured
        content = {
            "format": _FORMAT,
            **self._facts,
            "cuts": [asdict(each) for each in self._cuts.values()],
            "speeds": [asdict(each) for each in self._speeds.values()],
        }
        write_atomically(self.directory / FILE, json_bytes(json.loads(json.dumps(content)), 1))

    def seconds(self, *, refit: bool = True) -> list[float]:
        """How long each cut took that was refitted, or each that was not."""
        return [c.seconds for c in self._cuts.values() if c.sizes and c.refit is refit]


@contextmanager
def opened(directory: Path, facts: Mapping[str, Any]) -> Iterator[MeasuredCuts]:
    """Context manager: the measured cuts in a directory, which is made if it is missing.

    Raises UserError if another process measures there.
    """
    try:
        make_directory(directory)
        lock = take_lock(directory / _LOCK)
    except BusyError as error:
        raise UserError(
            f"{directory}: another process ({error.owner}) measures this model; wait for it"
        ) from None
    except OSError as error:
        raise UserError(f"{directory}: cannot be made: {error.strerror or error}") from None
    try:
        yield MeasuredCuts(directory, facts)
    finally:
        os.close(lock)


def _key(sizes: Sizes) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(sizes.items()))
