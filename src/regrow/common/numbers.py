"""Format numbers for people."""

import math
from collections.abc import Iterable

ABSENT = "–"  # noqa: RUF001
MINUS = "−"  # noqa: RUF001
_COUNTS = (("K", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12))
_SIZES = (("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))


def count(value: float, digits: int = 1) -> str:
    """A count with a unit: 134,515,008 -> '134.5M'; below ten thousand, all digits."""
    if value < 10_000:
        return f"{value:,.0f}"
    name, unit = _unit(value, _COUNTS, digits)
    return f"{value / unit:,.{digits}f}{name}"


def things(number: int, one: str, many: str = "") -> str:
    """A number with its noun: '1 layer', '1,024 layers'; `many` where the plural has not only s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(value: int) -> str:
    """Bytes in decimal units: 269,060,552 -> '269 MB'."""
    if value < 1000:
        return f"{value} B"
    name, unit = _unit(value, _SIZES, 0)
    return f"{value / unit:,.{0 if round(value / unit, 1) >= 100 else 1}f} {name}"


def _unit(value: float, units: tuple[tuple[str, float], ...], digits: int) -> tuple[str, float]:
    fitting = (pair for pair in units if round(value / pair[1], digits) < 1000)
    return next(fitting, units[-1])


def decimal(value: float | None, digits: int = 2) -> str:
    """A loss or a score; a dash for None, 'diverged' for a value that is not finite."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "diverged"
    return f"{value:,.{digits}f}".replace("-", MINUS) if abs(value) < 1e6 else f"{value:.1e}"


def rate(value: float | None) -> str:
    """Tokens per second, with some three digits; a dash for None."""
    if value is None:
        return ABSENT
    return decimal(value, 0 if round(value, 1) >= 100 else 1)


def change(before: float | None, after: float | None, digits: int = 0) -> str:
    """The relative change in per cent, with its sign; empty if it cannot be computed."""
    if before is None or after is None or not before > 0 or not math.isfinite(after / before):
        return ""
    return signed(100 * (after / before - 1), digits) + "%"


def signed(value: float, digits: int) -> str:
    """A number with its sign: '+0.12', '−0.12'; '0.00' has none."""  # noqa: RUF002
    text = f"{abs(value):,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def share_interval(interval: tuple[float, float]) -> str:
    """An interval of a share, in per cent: '54.1 to 67.8%'."""
    low, high = (decimal(round(100 * share, 1) + 0.0, 1) for share in interval)
    return f"{low} to {high}%"


def duration(seconds: float) -> str:
    """Seconds in words: 4,332 -> '1 h 12 min'; 8.24 -> '8.2 s'.

    The spaces before units do not break.
    """
    if seconds < 9.95:
        return f"{seconds:.1f}\u00a0s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 600:
        return _two_units(whole, 60, "min", "s")
    minutes = round(seconds / 60)
    return f"{minutes}\u00a0min" if minutes < 60 else _two_units(minutes, 60, "h", "min")


def rough_duration(seconds: float) -> str:
    """Estimated seconds in one unit, with two digits or so: 9,000 -> '2.5 h'."""
    units = (
        ("s", 1, 90), ("min", 60, 5_400), ("h", 3_600, 172_800), ("days", 86_400, 63_115_200),
        ("years", 31_557_600, math.inf),
    )  # fmt: skip
    name, unit = next((name, unit) for name, unit, most in units if seconds < most)
    value = seconds / unit
    if value >= 100:
        value = float(f"{value:.2g}")
    digits = 1 if value < 9.95 and name not in ("s", "min") else 0
    return f"{value:,.{digits}f}".removesuffix(".0") + f"\u00a0{name}"


def _two_units(value: int, base: int, large: str, small: str) -> str:
    first = f"{value // base:,}\u00a0{large}"
    return f"{first} {value % base}\u00a0{small}" if value % base else first


def ranges(indices: Iterable[int]) -> str:
    """Increasing indices as ranges: '0 to 20, 23, 29'."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
