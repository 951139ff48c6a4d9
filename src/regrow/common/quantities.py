"""Parse numbers, sizes and shares as people type them, in options and in recipes.

A number may have a separator or a unit: `65400000`, `65_400_000`, `65,400,000`, `65.4M`, `65.4e6`.
Bytes may end in B: `5GB`. Units are decimal. A share is `99.9%` or `0.999`.

In each function `option` is the name of the option, for the error.
"""

import re
from decimal import Decimal

from regrow.common.errors import UserError

_NUMBER = re.compile(
    r"((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)(?:\.[0-9]+)?)"
    r"(?:[eE]\+?([0-9]{1,2})|\s*([kKmMbBgGtT]?))",
    re.ASCII,
)
_SHARE = re.compile(r"([0-9]*\.?[0-9]+)\s*(%?)", re.ASCII)
_SCALE = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_MOST_DIGITS = 40


def parse_count(text: str) -> int | None:
    """An integer from 65,400,000, 65_400_000, 67M, 3.4B or 1e6; None at anything else."""
    number = _number(text)
    return None if number is None or number != int(number) else int(number)


def parse_bytes(text: str) -> int | None:
    """Bytes from 5GB, 500MB or a count, in decimal units; None at anything else."""
    text = text.strip()
    number = _number(text[:-1] if re.search(r"[0-9kKmMgGtT]\s*[bB]$", text) else text)
    return None if number is None else int(number)


def parse_share(text: str) -> float | None:
    """A fraction from 0 to 1, from 99.9% or 0.999; None at anything else."""
    hit = _SHARE.fullmatch(text.strip())
    value = float(Decimal(hit[1]) / (100 if hit[2] else 1)) if hit else -1.0
    return value if 0 <= value <= 1 else None


def _number(text: str) -> Decimal | None:
    hit = _NUMBER.fullmatch(text.strip())
    if hit is None or len(hit[0]) > _MOST_DIGITS:
        return None
    scale = 10 ** int(hit[2]) if hit[2] else _SCALE[(hit[3] or "").upper()]
    return Decimal(hit[1].replace(",", "").replace("_", "")) * scale


def count(option: str, text: str, least: int = 0) -> int:
    """An integer as `parse_count` reads it.

    Raises UserError at anything else, and at a number below `least`.
    """
    number = parse_count(text)
    if number is None:
        whole = "whole " if _number(text) is not None else ""
        raise UserError(f"{option} {text}: not a {whole}number such as 65_400_000, 67M or 1e6")
    if number < least:
        raise UserError(f"{option} {text}: give at least {least}")
    return number


def nbytes(option: str, text: str) -> int:
    """Bytes as `parse_bytes` reads them, at least one. Raises UserError at anything else."""
    size = parse_bytes(text)
    if not size:
        raise UserError(f"{option} {text}: not a size such as 5GB or 500MB")
    return size


def share(option: str, text: str) -> float:
    """A fraction above 0, as `parse_share` reads it. Raises UserError at anything else."""
    value = parse_share(text)
    if not value:
        raise UserError(f"{option} {text}: not a share such as 99.9% or 0.999")
    return value
