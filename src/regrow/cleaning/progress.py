"""How far the building of a corpus is, by stage."""

import time

from regrow.common.progress import Progress, Update

_SURE = 2.0
"""Seconds after which the speed says how long the rest takes."""


class StageProgress:
    """Tells how far one stage is, and how long the rest of it takes at its speed."""

    def __init__(self, progress: Progress, stage: str) -> None:
        self._progress, self._stage = progress, stage
        self._begun = time.monotonic()
        self._first: int | None = None
        progress.update(Update(stage, "starting", 0.0, None))

    def tell(self, done: int, total: int, doing: str = "documents") -> None:
        """`done` of `total` is done; what was done by an earlier run does not count as fast."""
        spent = time.monotonic() - self._begun
        if self._first is None:
            self._first = done
            self._begun = time.monotonic()
        rate = (done - self._first) / spent if spent > _SURE else 0.0
        left = (total - done) / rate if rate else None
        share = min(1.0, done / total) if total else 1.0
        self._progress.update(Update(self._stage, doing, share, left))
