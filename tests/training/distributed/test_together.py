"""Two processes, one of which is killed and one lost for good, against one process.

One torchrun for all of it: to start processes takes longer than what they do.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from regrow.architectures.t5 import T5
from regrow.corpus.packing import pack
from regrow.corpus.samples import DataOrder
from regrow.training.task import StepReport
from tests.tiny import write_seq2seq
from tests.training.distributed.together import SCENARIOS, TEXT, perform
from tests.training.small import byte_tokenizer

ALIKE = ("plain", "uneven", "muon", "frozen", "t5", "steered", "taught")


class StopError(Exception):
    pass


def _stop(report: StepReport) -> None:
    if report.step == 2:
        raise StopError


def _torchrun(directory: Path, role: str, port: int, said: IO[bytes]) -> subprocess.Popen[bytes]:
    """A node with one process, of at most two nodes; training goes on with what nodes there are."""
    settings = {
        "is_host": int(role == "host"),
        "last_call_timeout": 8,
        "keep_alive_interval": 1,
        "keep_alive_max_attempt": 3,
    }
    return subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1",
            "--max-restarts=3", "--monitor-interval=0.1", "--rdzv-backend=c10d",
            f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1",
            "--rdzv-conf=" + ",".join(f"{key}={value}" for key, value in settings.items()),
            "-m", "tests.training.distributed.together", str(directory), role,
        ],
        stdout=said, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes did all scenarios."""
    directory = tmp_path_factory.mktemp("together")
    write_seq2seq(directory / "t5-model", T5, 1, dropout_rate=0.0)
    with pytest.raises(StopError):
        perform("grown", directory, on_step=_stop)
    port = _free_port()
    log = directory / "said.log"
    with log.open("wb") as said:
        host = _torchrun(directory, "host", port, said)
        time.sleep(0.5)
        guest = _torchrun(directory, "guest", port, said)
        try:
            host.wait(timeout=900)
        finally:
            for node in (host, guest):
                node.kill()
                node.wait()
    assert host.returncode == 0, log.read_text()
    return directory


@pytest.fixture(scope="module")
def alone(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same of one process."""
    own = tmp_path_factory.mktemp("alone")
    (own / "t5-model").symlink_to(directory / "t5-model")
    return {name: perform(name, own) for name in ALIKE}


def outcome(directory: Path, name: str, file: str = "result") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / name / f"{file}.json").read_text())
    return found


def assert_same_losses(one: dict[str, Any], other: dict[str, Any]) -> None:
    for curve in ("curve", "heldout"):
        tokens, losses = zip(*one[curve], strict=True)
        theirs, found = zip(*other[curve], strict=True)
        assert tokens == theirs
        assert losses == pytest.approx(found, rel=1e-4)


def assert_same_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    """But for the sign of a gradient that is nothing but rounding, after which Adam goes."""
    assert one["weights"].keys() == other["weights"].keys()
    for name, values in one["weights"].items():
        mine, theirs = torch.tensor(values), torch.tensor(other["weights"][name])
        assert (mine - theirs).norm() <= 5e-3 * theirs.norm(), name


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_learn_what_one_does(
    directory: Path, alone: dict[str, Any], name: str
) -> None:
    found = outcome(directory, name)
    assert (found["count"], found["resumed_at"]) == (2, 0)
    assert_same_losses(alone[name], found)
    assert_same_weights(alone[name], found)
    other = outcome(directory, name, "other")
    assert (other["curve"], other["heldout"]) == (found["curve"], found["heldout"])


def test_a_mixture_moves_alike_in_all(directory: Path, alone: dict[str, Any]) -> None:
    """By the numbers of the first: to the bit among processes, to rounding beside one alone."""
    found = outcome(directory, "steered")["steering"]
    assert outcome(directory, "steered", "other")["steering"] == found
    (mine, theirs) = (each["denoiser"]["history"] for each in (found, alone["steered"]["steering"]))
    assert [change["sample"] for change in mine] == [change["sample"] for change in theirs]
    for one, other in zip(mine, theirs, strict=True):
        assert one["shares"] == pytest.approx(other["shares"], rel=1e-3)
    assert max(mine[-1]["shares"].values()) > 1.5 / 7


def test_losses_by_component_are_of_the_samples_of_all(
    directory: Path, alone: dict[str, Any]
) -> None:
    found = outcome(directory, "steered")["component_losses"]
    assert {name for step in found for name in step} > {"denoiser/S", "denoiser/X1"}
    for step, expected in zip(found, alone["steered"]["component_losses"], strict=True):
        assert step == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "same"), [("given", "plain"), ("given-t5", "t5"), ("given-taught", "taught")]
)
def test_who_is_given_a_part_learns_what_all_have(directory: Path, name: str, same: str) -> None:
    found, expected = outcome(directory, name), outcome(directory, same)
    for part in ("curve", "heldout", "weights", "heads", "equal"):
        assert found[part] == expected[part]


@pytest.mark.parametrize("name", ["plain", "t5"])
def test_shared_embeddings_stay_shared(directory: Path, alone: dict[str, Any], name: str) -> None:
    found = outcome(directory, name)
    assert len(found["heads"]) == len(alone[name]["heads"]) > 1
    distinct, named = found["equal"]
    assert distinct <= named - (len(found["heads"]) - 1)
    first, *others = found["heads"]
    for other in others:
        assert found["weights"][other] == found["weights"][first]


def test_a_killed_process_is_started_again_and_all_end_in_the_same_bits(directory: Path) -> None:
    whole, killed = outcome(directory, "dropout"), outcome(directory, "killed")
    assert (directory / "killed/happened").exists()
    assert (killed["count"], killed["resumed_at"]) == (2, 2)
    for part in ("curve", "heldout", "weights"):
        assert killed[part] == whole[part]
    assert outcome(directory, "plain")["weights"] != whole["weights"]


def test_when_a_node_is_lost_the_other_goes_on_alone(
    directory: Path, alone: dict[str, Any]
) -> None:
    found = outcome(directory, "lost")
    assert (found["count"], found["resumed_at"]) == (1, 2)
    assert_same_losses(alone["plain"], found)


def test_two_processes_take_up_what_one_began(directory: Path, alone: dict[str, Any]) -> None:
    found = outcome(directory, "grown")
    assert (found["count"], found["resumed_at"]) == (2, 2)
    assert_same_losses(alone["plain"], found)


@pytest.mark.parametrize(
    "name", [name for name, each in SCENARIOS.items() if each.family != "t5" and name != "full"]
)
def test_the_samples_are_the_same_in_the_same_order(directory: Path, name: str) -> None:
    """Whoever asks, and however often: killed and lost processes ask again."""
    asked: dict[int, set[int]] = {}
    for path in (directory / name).glob("asked-*.jsonl"):
        for line in path.read_text().splitlines():
            for row, number in zip(*json.loads(line), strict=True):
                asked.setdefault(number, set()).add(row)
    last = 12 if name == "asked" else 18
    rows = DataOrder(3, len(pack(TEXT, byte_tokenizer(), 10))).rows(0, last)
    assert asked == {number: {int(row)} for number, row in enumerate(rows)}


def test_one_process_asked_to_stop_stops_both(
    directory: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    for file in ("result", "other"):
        assert outcome(directory, "asked", file)["left"] == "SystemExit: 143"
    saved = sorted(path.name for path in (directory / "asked/training").iterdir())
    assert saved[-1] == "step-00000003"
    shutil.copytree(directory / "asked", tmp_path / "asked")
    found = perform("asked", tmp_path)
    assert found["resumed_at"] == 3
    assert_same_losses(alone["plain"], found)


def test_a_disk_that_is_full_for_one_ends_both_and_is_said_once(directory: Path) -> None:
    said = [outcome(directory, "full", file)["left"] for file in ("result", "other")]
    (first, text), (other, same) = (each.split(": ", 1) for each in said)
    assert (first, other) == ("UserError", "ReportedError")
    assert text == same
    assert "cannot be written" in text
    assert [path.name for path in (directory / "full/training").iterdir()] == ["step-00000002"]
