"""Parse numbers, sizes and shares as people type them.

In each function `option` is the name of the option, for the error.
"""

import re
from decimal import Decimal

from regrow.common.errors import UserError

_NUMBER = re.compile(
    r"((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)(?:\.[0-9]+)?)\s*([kKmMbBtT]?)", re.ASCII
)
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]?)[bB]?")
_SHARE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(%?)", re.ASCII)
_SCALE = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}


def count(option: str, text: str) -> int:
    """An integer from 65,400,000 or 67M or 3.4B. Raises UserError at anything else."""
    hit = _NUMBER.fullmatch(text.strip())
    if hit is None:
        raise UserError(f"{option} {text}: not a number such as 65,400,000, 67M or 3.4B")
    number = Decimal(hit[1].replace(",", "").replace("_", "")) * _SCALE[hit[2].upper()]
    if number != int(number):
        raise UserError(f"{option} {text}: not a whole number")
    return int(number)


def nbytes(option: str, text: str) -> int:
    """Bytes from 5GB or 500MB, in decimal units. Raises UserError at anything else."""
    hit = _SIZE.fullmatch(text.strip())
    if hit is None or (size := int(float(hit[1]) * _SCALE[hit[2].upper()])) < 1:
        raise UserError(f"{option} {text}: not a size such as 5GB or 500MB")
    return size


def share(option: str, text: str) -> float:
    """A fraction above 0 and up to 1, from 99.9% or 0.999. Raises UserError at anything else."""
    hit = _SHARE.fullmatch(text.strip())
    value = float(Decimal(hit[1]) / (100 if hit[2] else 1)) if hit else 0.0
    if not 0 < value <= 1:
        raise UserError(f"{option} {text}: not a share such as 99.9% or 0.999")
    return value
