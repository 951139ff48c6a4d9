"""A run of two processes, each of which is killed once, against one of one process."""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed import TCPStore  # type: ignore[attr-defined]

import regrow
from regrow.cli import main
from regrow.ledger import read_entries
from tests.tiny import sentences, write_model, write_text

TRAINED = {
    "tokens": 320, "row_length": 32, "batch_tokens": 64, "micro_batch": 1, "learning_rate": 0.01,
    "save_every": 0, "precision": "fp32",
}  # fmt: skip


def process(rank: int, port: int, recipe: str, out: str, said: str) -> None:
    """`regrow run`, in the environment that torchrun gives, saying all to a file."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    torch.set_num_threads(1)
    log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["regrow", "run", recipe, "--out", out]
    main()


class Together:
    """What torchrun does: two processes that meet in a store, which outlives them."""

    def __init__(self) -> None:
        self._store = TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
        )
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            [__name__, "regrow.training.loop", "transformers.models.llama.modeling_llama"]
        )

    def run(
        self, recipe: Path, out: Path, killed: int = 0, when: Callable[[], bool] | None = None
    ) -> list[int]:
        """Exit codes. `killed`: which of them, and `when`; then the other is asked to stop."""
        given = (self._store.port, str(recipe), str(out), str(out.with_name("said.log")))
        both = [self._context.Process(target=process, args=(rank, *given)) for rank in (0, 1)]
        try:
            for each in both:
                each.start()
            limit = time.monotonic() + 240
            while when is not None and not when():
                assert time.monotonic() < limit, "a run hangs"
                assert all(each.is_alive() for each in both)
                time.sleep(0.001)
            if when is not None:
                both[killed].kill()
                both[1 - killed].terminate()
            for each in both:
                each.join(240)
            return [each.exitcode for each in both]
        finally:
            for each in both:
                each.kill()
                each.join()


@pytest.fixture(scope="module")
def together() -> Iterator[Together]:
    root = str(Path(__file__).parents[1])
    # An empty entry would be the current directory.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", root, prepend=os.pathsep if "PYTHONPATH" in os.environ else None)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield Together()


def write_recipe(path: Path, home: Path, **second: Any) -> Path:
    """Two stages. `second`: what the second cuts."""
    recipe: dict[str, Any] = {
        "name": "tiny", "model": str(home / "m"), "seed": 3, "threads": 1,
        "data": {"train": str(home / "train.jsonl"), "heldout": {"h": str(home / "heldout.jsonl")}},
        "prompts": ["The river"], "answer_tokens": 3,
        "stages": [
            {"name": "depth", "cut": {"layers": 3, "calibration_tokens": 512}, "recover": TRAINED},
            {"name": "width", "cut": {**second, "calibration_tokens": 512},
             "recover": {**TRAINED, "distill": {"teacher": "previous"}}},
        ],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, together: Together) -> Path:
    """Where `alone` and `together` are the same run; what was said together lies in `said.log`."""
    home = tmp_path_factory.mktemp("runs")
    write_model(home / "m")
    write_text(home / "train.jsonl", sentences(40))
    write_text(home / "heldout.jsonl", sentences(4, seed=1))
    recipe = write_recipe(home / "recipe.yaml", home, ffn=24)
    regrow.run(recipe, home / "alone")
    out = home / "together"

    def is_recovered() -> bool:
        return "depth/recover" in read_entries(out / "ledger.jsonl")

    def is_training() -> bool:
        return (out / "stages/width/training/step-00000002").exists()

    first, _ = together.run(recipe, out, killed=0, when=is_recovered)
    _, other = together.run(recipe, out, killed=1, when=is_training)
    assert (first, other) == (-9, -9)
    assert "width/recover" not in read_entries(out / "ledger.jsonl")
    assert together.run(recipe, out) == [0, 0], (home / "said.log").read_text()
    return home


def entries(out: Path) -> Mapping[str, Any]:
    return read_entries(out / "ledger.jsonl")


def files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def test_two_processes_make_what_one_makes(home: Path) -> None:
    assert files(home / "together") == files(home / "alone")
    alone, together = entries(home / "alone"), entries(home / "together")
    assert list(together) == list(alone)
    for name, entry in together.items():
        theirs = alone[name]
        assert (entry.key, entry.outputs.keys()) == (theirs.key, theirs.outputs.keys())
        for text, loss in entry.outputs.get("heldout", {}).items() if "measure" in name else ():
            wanted = theirs.outputs["heldout"][text]["loss_per_token"]
            assert loss["loss_per_token"] == pytest.approx(wanted, rel=1e-4)
    assert (
        together["width/carve"].outputs["cut"]["axes"]
        == (alone["width/carve"].outputs["cut"]["axes"])
    )
    for stage in ("depth", "width"):
        curves = [dict(each[f"{stage}/recover"].outputs["curve"]) for each in (alone, together)]
        assert curves[1] == pytest.approx(curves[0], rel=1e-4)
        weights, wanted = (
            load_file(home / run / f"stages/{stage}/model/model.safetensors")
            for run in ("together", "alone")
        )
        assert weights.keys() == wanted.keys()
        for name, tensor in weights.items():
            assert (tensor - wanted[name]).norm() <= 5e-3 * wanted[name].norm(), name


def test_what_was_done_is_not_done_again(home: Path) -> None:
    """One entry each, though the run began three times."""
    lines = (home / "together/ledger.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(entries(home / "alone"))


def test_one_process_speaks(home: Path) -> None:
    said = (home / "said.log").read_text()
    for line in ("width: ffn 48 -> 24", "width: loss held out: ", "Report: ", "model   /"):
        assert said.count(line) == 1, line


def test_a_run_that_cannot_be_is_refused_in_one_line(home: Path, together: Together) -> None:
    (home / "wrong").mkdir()
    recipe = write_recipe(home / "wrong.yaml", home, layers=9)
    assert together.run(recipe, home / "wrong/out") == [2, 2]
    (line,) = (home / "wrong/said.log").read_text().splitlines()
    assert line.startswith("regrow: stages: width: layer: 9 is not between")
