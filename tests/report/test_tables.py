"""What is said of a table of losses."""

from datetime import UTC, datetime
from typing import Any

import pytest

from regrow.report.records import RunSummary, Unit
from regrow.report.tables import legend

SPANS = "Losses are over what is taken out of the text (spans of 3 tokens, 15% of it)."
CHARACTERS = "Bits per byte are of the 64 characters after 192."
ANSWERS = "On conversations, losses are over the answers alone."


@pytest.mark.parametrize(
    ("predicts", "bits", "nats"),
    [
        ((), "", ""),
        (("every token",), "", ""),
        (("what is taken out",), CHARACTERS, SPANS),
        (("answers",), *["Losses are over the answers of conversations alone."] * 2),
        (("answers", "every token"), ANSWERS, ANSWERS),
        (("answers", "what is taken out"), f"{CHARACTERS} {ANSWERS}", f"{SPANS} {ANSWERS}"),
    ],
)
def test_what_losses_are_over(predicts: Any, bits: str, nats: str) -> None:
    summary = RunSummary(
        name="r", command="", started=datetime.now(UTC), seconds=0, predicts=predicts
    )
    units: tuple[Unit, Unit] = ("bits per byte", "nats per token")
    assert tuple(legend(summary, unit) for unit in units) == (bits, nats)
