"""Whether a recovery helped, and what is said about it."""

import math
import re
from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from regrow.pipeline.ledger import Entry
from regrow.pipeline.outcomes import outcome as compared
from regrow.pipeline.outcomes import recovery_outcome
from regrow.report.outcomes import worse_lines
from regrow.report.records import Outcome
from tests.pipeline.test_summary import DOMAIN, RECOVERY, losses


def test_a_stage_without_a_cut_starts_from_the_stage_before() -> None:
    entries = {
        name: Entry(name, "k", {"heldout": DOMAIN}, outputs, {}, "", 1.0)
        for name, outputs in {
            "original/measure": losses(4.0), "more/recover": RECOVERY, "more/measure": losses(3.0),
            "again/recover": RECOVERY, "again/measure": losses(3.5), "b/measure-cut": losses(9.0),
            "c/recover": RECOVERY, "c/measure": losses(2.0),
        }.items()
    }  # fmt: skip
    for stage, previous, change in (
        ("more", "original", (2.0, 1.5)), ("again", "more", (1.5, 1.75)), ("c", "b", (4.5, 1.0)),
    ):  # fmt: skip
        found = recovery_outcome(entries, stage, previous)
        assert found is not None
        assert found.texts == {"domain": change}


LOSS = st.floats(0.01, 20)


@given(st.dictionaries(st.sampled_from("abc"), st.tuples(LOSS, LOSS), min_size=1))
def test_every_text_goes_one_way(texts: dict[str, tuple[float, float]]) -> None:
    found = Outcome(unit="bits per byte", texts=texts, kept="trained")
    assert sorted((*found.better, *found.worse, *found.unchanged)) == sorted(texts)
    assert [line.split()[2] for line in worse_lines(found, "x")] == list(found.worse)
    for line in worse_lines(found, "x"):  # the two numbers of a line differ
        first, second = map(float, re.findall(r"[\d.]+", line))
        assert first < second
    before, after = zip(*texts.values(), strict=True)
    assert found.mean_is_worse == (fmean(after) > fmean(before))


def test_a_diverged_loss_is_worse() -> None:
    for after in (math.nan, math.inf):
        texts = {"a": (1.0, after), "b": (2.0, 1.0)}
        found = Outcome(unit="nats per token", texts=texts, kept="before")
        assert found.mean_is_worse
        assert worse_lines(found, "t") == [
            "recovery made a worse: 1.000 -> diverged nats per token",
            "recovery did not help on average (1.500 -> diverged nats per token), so the model has "
            "the weights from before; the trained weights are in t",
        ]


def test_an_encoder_decoder_is_compared_by_its_spans() -> None:
    spans = {"predicts": "what is taken out", "bits_per_byte": 1.0}
    before, after = ({"a": {**spans, "loss_per_token": loss}} for loss in (2.0, 1.0))
    found = compared(before, after, "trained")
    assert (found.unit, found.texts) == ("nats per token", {"a": (2.0, 1.0)})
