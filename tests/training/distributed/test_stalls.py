"""A process that stalls is named by the others."""

import multiprocessing
import os
import re
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from regrow.corpus.packing import pack
from regrow.objectives.losses.causal import Causal
from regrow.training.distributed.stalls import Activity, Progress, StallDetector, watch_for_stalls
from regrow.training.settings import RecoverySettings
from regrow.training.task import StepReport
from tests.training.small import byte_tokenizer, small_model, train_on

READING, COMPUTING, UPDATING = (
    Progress(marks, 7, activity)
    for marks, activity in enumerate(("reading samples", "computing", "updating"))
)


LOOKS = 10


def looks(detector: StallDetector, many: int, *places: Progress, silent: int | None = None) -> Any:
    """What is said after so many looks at processes that stay where they are."""
    said = None
    for _ in range(many):
        count = time.monotonic_ns()
        reports = {
            rank: (0 if rank == silent else count, place) for rank, place in enumerate(places)
        }
        said = detector.find_stalled(reports)
    return said


def test_one_that_no_longer_counts_has_stalled() -> None:
    detector = StallDetector(LOOKS)
    assert looks(detector, LOOKS, COMPUTING, COMPUTING, silent=1) is None
    said = looks(detector, 1, COMPUTING, COMPUTING, silent=1)
    assert said == (1, "has not answered since step 7, computing")


def test_one_that_stays_behind_has_stalled() -> None:
    detector = StallDetector(LOOKS)
    assert looks(detector, LOOKS, UPDATING, UPDATING, READING) is None
    said = looks(detector, 1, UPDATING, UPDATING, READING)
    assert said == (2, "has not moved from step 7, reading samples; others are at step 7, updating")


def test_where_all_stand_at_one_place_nobody_has() -> None:
    """However long: the kernels of the first step are made."""
    detector = StallDetector(LOOKS)
    assert looks(detector, 50 * LOOKS, COMPUTING, COMPUTING) is None
    # The others go on at last; this one is not behind for long.
    assert looks(detector, LOOKS, UPDATING, COMPUTING) is None
    assert looks(detector, 1, UPDATING, UPDATING) is None
    assert looks(detector, LOOKS, UPDATING, UPDATING) is None


@pytest.mark.parametrize("activity", ["measuring", "saving", "reporting"])
def test_what_one_may_do_alone_takes_as_long_as_it_takes(activity: Activity) -> None:
    detector, here = StallDetector(LOOKS), Progress(5, 7, activity)
    ahead = Progress(8, 8, "computing")
    assert looks(detector, 50 * LOOKS, here, ahead) is None
    assert looks(detector, LOOKS + 1, here, ahead, silent=0) == (
        0, f"has not answered since step 7, {activity}",
    )  # fmt: skip


def test_who_moves_behind_others_has_not_stalled() -> None:
    detector = StallDetector(LOOKS)
    for number in range(5 * LOOKS):
        slow = Progress(number // 5, number // 5, "computing")
        assert (
            detector.find_stalled(
                {0: (number, Progress(number, number, "computing")), 1: (number, slow)}
            )
            is None
        )


def test_processes_tell_each_other_where_they_are() -> None:
    store, over = HashStore(), threading.Event()
    said: list[str] = []

    def other() -> None:
        with watch_for_stalls(1, 2, store, 0.3, said.append) as set_progress:
            set_progress(4, "reading samples")
            over.wait()

    thread = threading.Thread(target=other)
    thread.start()
    with watch_for_stalls(0, 2, store, 0.3, said.append) as set_progress:
        for step in range(1, 6):
            set_progress(step, "computing")
        while not said:
            time.sleep(0.02)
    over.set()
    thread.join()
    assert said[0] == (
        "training: for 0.3 s process 1 has not moved from step 4, reading samples; "
        "others are at step 5, computing"
    )


def test_a_process_reports_at_once() -> None:
    """Otherwise one that stalls in the first seconds would never be missed."""
    store = HashStore()
    with watch_for_stalls(1, 2, store, 1_000.0):
        until = time.monotonic() + 3.0
        while not store.check(["1"]) and time.monotonic() < until:
            time.sleep(0.01)
        assert store.check(["1"])


def test_one_that_has_left_is_not_waited_for() -> None:
    """As the last step's reports are written by one, or the next training begins."""
    store = HashStore()
    said: list[str] = []
    for _ in range(2):
        with watch_for_stalls(0, 2, store, 0.1, said.append) as set_progress:
            with watch_for_stalls(1, 2, store, 0.1, said.append) as theirs:
                theirs(3, "reporting")
                set_progress(3, "reporting")
                time.sleep(0.05)
            time.sleep(0.4)
    assert said == []


def test_alone_or_unasked_nobody_is_watched() -> None:
    before = threading.active_count()
    for count, seconds in ((1, 0.01), (2, None)):
        with watch_for_stalls(0, count, HashStore(), seconds) as set_progress:
            set_progress(1, "computing")
            assert threading.active_count() == before


def _train(rank: int, port: int, directory: str) -> None:
    """Reports long in step 1, measures long in step 2, and stops in step 3: each in one process."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    torch.set_num_threads(1)
    os.dup2(os.open(f"{directory}/said-{rank}", os.O_WRONLY | os.O_CREAT), 2)
    rows = pack(["the cat sat on the mat", "a dog"] * 9, byte_tokenizer(), 10)

    class Rows:
        row_length, identity, lengths = rows.row_length, rows.identity, rows.lengths

        def __len__(self) -> int:
            return len(rows)

        def batch(self, asked: Any, numbers: Any) -> Any:
            if rank == 1 and numbers.min() >= 8:
                os.kill(os.getpid(), signal.SIGSTOP)
            return rows.batch(asked, numbers)

    def on_step(report: StepReport) -> None:
        time.sleep(1.7 * STALL if report.step == 1 else 0)

    def evaluate(_: Any) -> float:
        time.sleep(1.7 * STALL * rank)
        return 1.0

    settings = RecoverySettings(
        tokens=200, row_length=10, batch_tokens=40, precision="fp32", stall=STALL, save_every=0,
        evaluate_every=80,
    )  # fmt: skip
    train_on(
        small_model("llama"), Rows(), Causal(), settings, seed=3, identity="m",
        directory=Path(directory) / "training", on_step=on_step, evaluate=evaluate,
    )  # fmt: skip


STALL = 1.5


def test_of_two_processes_one_that_is_stopped_is_named_and_the_other_ends(tmp_path: Path) -> None:
    """And nobody who does something alone, for longer than one may stand still."""
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "transformers.models.llama.modeling_llama"])
    both = [context.Process(target=_train, args=(r, store.port, str(tmp_path))) for r in (0, 1)]
    for each in both:
        each.start()
    try:
        both[0].join(120)
        said = (tmp_path / "said-0").read_text()
        assert both[0].exitcode == 1, said
        # Where it stood when it reports so last.
        assert re.search(r"training: for 1.5 s process 1 has not answered since step [23], ", said)
        kept = sorted(path.name for path in (tmp_path / "training").iterdir())
        assert kept == ["step-00000001", "step-00000002"]
    finally:
        for each in both:
            each.kill()
            each.join()
