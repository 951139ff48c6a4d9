"""Numbers, sizes and shares as people type them, in options and in recipes."""

from typing import Any

import pytest
from pydantic import ValidationError

from regrow.common import quantities
from regrow.common.errors import UserError
from regrow.common.fields import Fraction, Share, Size, Strict


class Spec(Strict):
    size: Size = 1
    share: Share = 1.0
    fraction: Fraction = 0.0


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [
        ("size", "10M", 10_000_000), ("size", "1e6", 1_000_000), ("size", "1_000", 1_000),
        ("size", 7, 7), ("size", 1e6, 1_000_000), ("size", "0.5k", 500),
        ("share", "99.9%", 0.999), ("share", "50%", 0.5), ("share", 0.25, 0.25),
        ("share", "0.25", 0.25), ("share", ".5", 0.5), ("fraction", "0%", 0.0),
        ("fraction", "12.5 %", 0.125),
    ],
)  # fmt: skip
def test_a_field_reads_what_an_option_reads(key: str, written: Any, read: float) -> None:
    assert getattr(Spec(**{key: written}), key) == read


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("size", "0"), ("size", "many"), ("size", "1.5"), ("size", True), ("size", "9" * 5_000),
        ("share", "0%"), ("share", "150%"), ("share", True), ("fraction", "-1%"),
        ("fraction", "half"),
    ],
)  # fmt: skip
def test_a_field_refuses_the_rest(key: str, written: Any) -> None:
    with pytest.raises(ValidationError):
        Spec(**{key: written})


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("1.5k", 1_500), ("7", 7), ("7B", 7),
     ("1e6", 10**6), ("30_000", 30_000), ("2 kB", 2_000)],
)  # fmt: skip
def test_bytes(text: str, size: int) -> None:
    assert quantities.nbytes("--bytes", text) == size


def test_a_count_below_the_least_is_refused() -> None:
    with pytest.raises(UserError, match="--workers 0: give at least 1"):
        quantities.count("--workers", "0", least=1)
