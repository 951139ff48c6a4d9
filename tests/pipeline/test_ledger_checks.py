"""What a run reads from a ledger is checked before any work."""

from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.pipeline.ledger import Entry
from regrow.pipeline.ledger_checks import check_entries, reading

ENVIRONMENT = {"versions": {}, "machine": {}, "command": "regrow"}


def entry(step: str, environment: dict[str, Any] = ENVIRONMENT, **outputs: Any) -> Entry:
    return Entry(step, "k", {}, outputs, environment, "2026-01-01T00:00:00+00:00", 1.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (entry("write", sha256=None), "write: outputs: sha256 is missing"),
        (entry("depth/measure", heldout=[]), "depth/measure: outputs: heldout is missing"),
        (
            entry("depth/carve", fingerprint="f", files="f", cut={}),
            "depth/carve: outputs: refitted is",
        ),
        (entry("depth/recover", fingerprint="f"), "depth/recover: outputs: files is missing"),
        (entry("recipe", environment={}), "recipe: environment: versions is missing"),
    ],
)
def test_what_is_missing_is_named(wrong: Entry, message: str) -> None:
    with pytest.raises(UserError, match=rf"^here: {message}"):
        check_entries([wrong], Path("here"))


def test_what_is_whole_passes() -> None:
    check_entries(
        [entry("write", sha256="a"), entry("depth/measure", heldout={}), entry("recipe")],
        Path("here"),
    )


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("a\nb"), OverflowError("big")])
def test_what_cannot_be_read_is_one_line(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"^here: an entry is not what regrow writes") as caught,
        reading(Path("here")),
    ):
        raise error
    assert "\n" not in str(caught.value)
