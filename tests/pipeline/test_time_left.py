"""The time left corrects itself, and is never absurd."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.pipeline.time_left import GUESSED_RATES, Clock, StepWork

KINDS = st.sampled_from(sorted(GUESSED_RATES))
AMOUNTS = st.floats(0, 1e24)
SECONDS = st.none() | st.floats(0, 1e9)


@st.composite
def clocks(draw: st.DrawFn) -> Clock:
    """A clock after any number of reports, of steps that it knows and others."""
    count = draw(st.integers(0, 6))
    clock = Clock([StepWork(f"s{i}", draw(KINDS), draw(AMOUNTS)) for i in range(count)])
    for _ in range(draw(st.integers(0, 6))):
        step = f"s{draw(st.integers(0, 7))}"
        if draw(st.booleans()):
            clock.finish(step)
        else:
            clock.done(step, draw(AMOUNTS), draw(SECONDS))
    return clock


@given(clocks())
def test_share_and_time_left_are_possible(clock: Clock) -> None:
    assert 0 <= clock.share <= 1
    left = clock.seconds_left
    assert left is None or 0 <= left < math.inf


@given(clocks(), st.data())
def test_a_finished_step_counts_nothing(clock: Clock, data: st.DataObject) -> None:
    left, share = clock.seconds_left, clock.share
    for work in clock.work:
        clock.finish(work.step)
        now = clock.seconds_left
        # Of what is left, more may not have been measured, and then no time is told.
        assert left is None or now is None or now <= left
        assert clock.share >= share
        left, share = now, clock.share
    assert clock.seconds_left == 0
    assert clock.share == 1


@given(st.floats(1, 1e6), st.floats(1e-3, 1e6), st.integers(2, 20))
def test_the_rate_is_what_was_seen(rate: float, amount: float, parts: int) -> None:
    clock = Clock([StepWork("a", "train", amount * parts), StepWork("b", "train", amount)])
    assert clock.seconds_left is None
    clock.done("a", amount, amount / rate)
    assert clock.seconds_left == pytest.approx(amount * parts / rate)
    assert clock.share == pytest.approx(1 / (parts + 1))


def test_skipped_work_says_nothing_of_the_rate() -> None:
    clock = Clock([StepWork("a", "carve", 6e8)])
    clock.done("a", 3e8)
    assert clock.rate("carve") == GUESSED_RATES["carve"]
    assert clock.seconds_left is None
    clock.done("a", 1e8, 1.0)
    assert clock.seconds_left == pytest.approx(2)


def test_rates_are_weighted_by_amount_and_apart_by_kind() -> None:
    clock = Clock([StepWork("a", "train", 100), StepWork("b", "forward", 100)])
    clock.done("a", 10, 1)
    clock.done("a", 90, 3)
    assert clock.rate("train") == 25
    # The guess for what was not measured is corrected by what was.
    slower = 25 / GUESSED_RATES["train"]
    assert clock.rate("forward") == pytest.approx(slower * GUESSED_RATES["forward"])


def test_no_time_is_told_before_what_is_left_was_measured() -> None:
    clock = Clock([StepWork("a", "forward", 1e12), StepWork("b", "train", 1e12)])
    assert clock.seconds_left is None
    clock.finish("a", 2.0)
    assert clock.seconds_left is None
    clock.done("b", 1e11, 1.0)
    assert clock.seconds_left == pytest.approx(9)


def test_a_small_rest_may_be_guessed() -> None:
    rest = GUESSED_RATES["generate"] / 2  # half a second
    clock = Clock([StepWork("a", "train", 100.0), StepWork("b", "generate", rest)])
    clock.done("a", GUESSED_RATES["train"], 1.0)
    clock.work[0] = StepWork("a", "train", 10 * GUESSED_RATES["train"])
    assert clock.seconds_left == pytest.approx(9.5)


def test_a_rate_that_was_tried_before_the_run_counts_as_measured() -> None:
    work = [StepWork("a", "forward", 10.0), StepWork("b", "train", 1e12)]
    assert Clock(work).seconds_left is None
    clock = Clock(work, guesses={**GUESSED_RATES, "train": 1e11})
    assert clock.seconds_left == pytest.approx(10)
    clock.done("b", 5e11, 20.0)
    assert clock.seconds_left == pytest.approx(20)


def test_the_share_never_falls() -> None:
    clock = Clock([StepWork("a", "forward", 1e12), StepWork("b", "train", 1e12)])
    clock.done("a", 1e12, 1.0)
    share = clock.share
    clock.done("b", 1e6, 10.0)  # far slower than was thought
    assert clock.share == share


def test_a_step_that_told_nothing_is_measured_as_a_whole() -> None:
    clock = Clock([StepWork("a", "score", 100.0), StepWork("b", "score", 100.0)])
    clock.finish("a", 4.0)
    assert clock.seconds_left == pytest.approx(4)
    clock.done("b", 50.0)
    clock.finish("b", 1e-9)  # what was skipped says nothing
    assert clock.rate("score") == 25


def test_what_is_too_little_to_divide_says_nothing() -> None:
    clock = Clock([StepWork("a", "fixed", 1.0)])
    clock.done("a", 5e-324, 2.0)
    assert clock.rate("fixed") == GUESSED_RATES["fixed"]
    clock.done("a", 1.0, 5e-324)
    assert clock.rate("fixed") == pytest.approx(0.5)
    assert Clock([], _measured={"fixed": (1.0, 5e-324)}).rate("fixed") == GUESSED_RATES["fixed"]


def test_no_work_is_done_work() -> None:
    assert (Clock([]).share, Clock([]).seconds_left) == (1, 0)
