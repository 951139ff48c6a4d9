"""Numbers as people read them."""

import math
from collections.abc import Iterable

ABSENT = "–"  # noqa: RUF001
MINUS = "−"  # noqa: RUF001
_UNITS = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3))


def count(value: float, digits: int = 1) -> str:
    """134,515,008 -> '134.5M'; below ten thousand all digits."""
    if value < 10_000:
        return f"{value:,.0f}"
    for letter, unit in reversed(_UNITS):
        if round(value / unit, digits) < 1000 or letter == "T":
            return f"{value / unit:,.{digits}f}{letter}"
    raise AssertionError


def size(value: int) -> str:
    """Bytes in decimal units: 269,060,552 -> '269 MB'."""
    if value < 1000:
        return f"{value} B"
    for letter, unit in reversed(_UNITS):
        scaled = value / unit
        if round(scaled) < 1000 or letter == "T":
            return f"{scaled:,.{0 if round(scaled, 1) >= 100 else 1}f} {letter.replace('K', 'k')}B"
    raise AssertionError


def decimal(value: float | None, digits: int = 2) -> str:
    """A loss or a score; what is absent is a dash, what diverged is said."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "diverged"
    return f"{value:,.{digits}f}".replace("-", MINUS) if abs(value) < 1e6 else f"{value:.1e}"


def rate(value: float | None) -> str:
    """Tokens per second: three digits are enough."""
    if value is None:
        return ABSENT
    return decimal(value, 0 if round(value, 1) >= 100 else 1)


def change(before: float | None, after: float | None, digits: int = 0) -> str:
    """The relative change in per cent, with its sign; empty where it has none."""
    if before is None or after is None or not before > 0 or not math.isfinite(after / before):
        return ""
    return signed(100 * (after / before - 1), digits) + "%"


def signed(value: float, digits: int) -> str:
    """'+0.12', '−0.12', and '0.00' without a sign."""  # noqa: RUF002
    text = f"{abs(value):,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def duration(seconds: float) -> str:
    """4,332 -> '1 h 12 min'; 8.24 -> '8.2 s'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 10 and round(seconds) < 600:
        whole = round(seconds)
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60:,} h"


def ranges(indices: Iterable[int]) -> str:
    """Increasing indices as runs: '0 to 20, 23, 29'."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
