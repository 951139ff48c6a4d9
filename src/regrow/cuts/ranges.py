"""Lists of indices as short text: `0-11,16-29`. The order is kept and need not be ascending."""

import re

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_PART = re.compile(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?")


def format_ranges(indices: Indices) -> str:
    """The shortest list of ranges for these indices, in their order."""
    if len(indices) == 0:
        return ""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    starts = indices[np.concatenate(([0], breaks))]
    ends = indices[np.concatenate((breaks - 1, [len(indices) - 1]))]
    return ",".join(
        str(a) if a == b else f"{a}-{b}"
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
    )


def parse_ranges(text: str, limit: int = 1 << 32) -> Indices:
    """The indices of a list of ranges, both ends included.

    `limit`: indices must be below it, and there must be at most this many, so that a short text
    cannot fill the memory.

    Raises ValueError, with a message for users, if the text is invalid.
    """
    if not text.strip():
        return np.zeros(0, dtype=np.int64)
    parts = []
    total = 0
    for part in text.split(","):
        hit = _PART.fullmatch(part)
        if hit is None:
            raise ValueError(f"{part.strip()!r} is not a number or a range such as 12-15")
        first = int(hit[1])
        last = int(hit[2]) if hit[2] else first
        if last < first:
            raise ValueError(f"{part.strip()!r} runs backwards")
        if last >= limit:
            raise ValueError(f"{part.strip()!r} lies beyond {limit - 1:,}")
        total += last - first + 1
        if total > limit:
            raise ValueError(f"more than {limit:,} indices, so some are named twice")
        parts.append(np.arange(first, last + 1, dtype=np.int64))
    return np.concatenate(parts)
