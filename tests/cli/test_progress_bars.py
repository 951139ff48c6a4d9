"""What the line of a long command says, at each moment."""

import time
from dataclasses import dataclass
from typing import Any

import pytest

from regrow.cli import progress_bars
from regrow.cli.progress_bars import Shown, byte_progress, run_progress, showing_parts
from regrow.common.progress import Update, tell_part


@dataclass
class Time:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Time:
    return Time()


@pytest.fixture
def shown(now: Time) -> Shown:
    return Shown(now)


def update(doing: str = "recovering", **more: Any) -> Update:
    return Update(**{"stage": "half", "doing": doing, "share": 0.25, "seconds_left": None, **more})


def test_no_time_is_shown_before_it_is_known(shown: Shown) -> None:
    assert shown.words() == "starting"
    shown.take_update(update("step 1 of 49"))
    assert shown.line() == "half: 25%, step 1 of 49"
    shown.take_update(update("step 2 of 49", seconds_left=267.0))
    assert shown.line() == "half: 25%, 4:27 left, step 2 of 49"


def test_a_training_shows_bits_per_byte(shown: Shown) -> None:
    state = update(
        "step 3 of 9", loss=2.341, heldout="1.031 bits per byte", tokens_per_second=412.0
    )
    shown.take_update(state)
    told = "step 3 of 9, held out 1.031 bits per byte, training loss 2.34, 412 tokens/s"
    assert shown.words() == told


def test_a_loop_says_how_long_the_rest_of_it_takes(shown: Shown, now: Time) -> None:
    shown.take_update(update("scoring and cutting"))
    shown.take_part("refitting, layer", 0, 26)
    assert shown.words() == "refitting, layer 1 of 26"
    now.seconds = 6.0
    shown.take_part("refitting, layer", 2, 26)
    assert shown.words() == "refitting, layer 3 of 26, 1:12 for this"
    shown.take_update(update("scoring and cutting", seconds_left=600.0))
    assert shown.words() == "10:00 left, refitting, layer 3 of 26"
    shown.take_part("refitting, layer", 26, 26)
    assert shown.words() == "10:00 left, scoring and cutting"
    shown.take_part("loading the model", 0, 1)
    assert shown.words() == "10:00 left, loading the model"
    shown.take_part("scoring, batch", 0, 8)
    shown.take_update(update("measuring"))
    assert shown.words() == "measuring"


def test_the_time_left_falls_between_two_reports(shown: Shown, now: Time) -> None:
    shown.take_update(update("measuring", seconds_left=8.0))
    now.seconds = 5.0
    assert shown.words() == "0:03 left, measuring"
    now.seconds = 8.0  # it takes longer than was thought
    assert shown.words() == "measuring"


def test_what_takes_long_says_for_how_long(shown: Shown, now: Time) -> None:
    shown.take_update(update("measuring"))
    now.seconds = 9.0
    assert shown.words() == "measuring"
    now.seconds = 42.0
    assert shown.words() == "measuring, for 0:42"
    shown.take_update(update("measuring"))  # still the same
    assert shown.words() == "measuring, for 0:42"
    shown.take_update(update("answering"))
    assert shown.words() == "answering"


def test_a_log_gets_lines_while_nothing_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_bars, "_LINE_EVERY", 0.005)
    with run_progress() as progress:
        progress.update(update("converting"))
        tell_part("converting, tensor", 3, 272)
        limit = time.monotonic() + 5
        printed = ""
        while printed.count("tensor 4 of 272") < 2 and time.monotonic() < limit:
            time.sleep(0.005)
            printed += capsys.readouterr().err
    assert printed.count("half: 25%, converting, tensor 4 of 272\n") >= 2
    capsys.readouterr()
    time.sleep(0.02)
    assert capsys.readouterr().err == ""


def test_a_command_without_a_bar_shows_its_loops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_bars, "_LINE_EVERY", 0.0)
    with showing_parts():
        tell_part("scoring, batch", 2, 8)
        tell_part("scoring, batch", 8, 8)
        with byte_progress("carving") as progress:
            tell_part("refitting, layer", 0, 3)
            progress.advance(1, 2)
    assert capsys.readouterr().err.splitlines() == [
        "scoring, batch 3 of 8", "refitting, layer 1 of 3",
    ]  # fmt: skip


def test_a_single_part_is_not_numbered(shown: Shown) -> None:
    shown.take_update(update("measuring"))
    shown.take_part("measuring the loss, batch", 0, 1)
    assert shown.words() == "measuring the loss"
