"""A run of two processes, each of which is killed once, against one of one process."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

import regrow
from regrow.cli.app import main
from regrow.pipeline.ledger import read_entries
from tests.forks import Together, imported
from tests.tiny import sentences, write_model, write_text

TRAINED = {
    "tokens": 320, "row_length": 32, "batch_tokens": 64, "micro_batch": 1, "learning_rate": 0.01,
    "save_every": 0, "precision": "fp32",
}  # fmt: skip


def process(recipe: str, out: str) -> None:
    """`regrow run`."""
    sys.argv = ["regrow", "run", recipe, "--out", out]
    main()


@pytest.fixture(scope="module")
def together() -> Iterator[Together]:
    with imported(__name__) as forks:
        yield Together(forks)


def write_recipe(path: Path, home: Path, **second: Any) -> Path:
    """Two stages. `second`: what the second cuts."""
    recipe: dict[str, Any] = {
        "name": "tiny", "model": str(home / "m"), "seed": 3, "threads": 1,
        "data": {"train": str(home / "train.jsonl"), "heldout": {"h": str(home / "heldout.jsonl")}},
        "prompts": ["The river"], "answer_tokens": 3,
        "stages": [
            {"name": "depth", "cut": {"layers": 3, "calibration_tokens": 512},
             "recover": {**TRAINED, "lora": {"rank": 2}}},
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

    log, given = home / "said.log", (str(recipe), str(out))
    first, _ = together.run(process, given, log, killed=0, when=is_recovered)
    _, other = together.run(process, given, log, killed=1, when=is_training)
    assert (first, other) == (-9, -9)
    assert "width/recover" not in read_entries(out / "ledger.jsonl")
    assert together.run(process, given, log) == [0, 0], log.read_text()
    return home


def entries(out: Path) -> Mapping[str, Any]:
    return read_entries(out / "ledger.jsonl")


def files(out: Path) -> set[str]:
    """But for what draws the numbers of steps, one for each time that a training went on."""
    found = (path.relative_to(out) for path in out.rglob("*") if path.is_file())
    return {str(path) for path in found if path.parent.name != "tensorboard"}


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
    for line in ("width: ffn 48 -> 24", "width: held out: ", "Report: ", "Model:  /"):
        assert said.count(line) == 1, line


def test_a_run_that_cannot_be_is_refused_in_one_line(home: Path, together: Together) -> None:
    recipe, log = write_recipe(home / "wrong.yaml", home, layers=9), home / "wrong.log"
    assert together.run(process, (str(recipe), str(home / "wrong")), log) == [2, 2]
    (line,) = log.read_text().splitlines()
    assert line.startswith("regrow: stages: width: cut.layers: 9 is not between")


def test_weights_from_before_are_kept_if_training_together_does_not_help(
    home: Path, together: Together
) -> None:
    recipe = yaml.safe_load((home / "recipe.yaml").read_text(encoding="utf-8"))
    del recipe["stages"][1]
    recipe["stages"][0]["recover"] |= {"learning_rate": 3.0, "lora": None}
    path, out, log = home / "worse.yaml", home / "worse", home / "worse.log"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert together.run(process, (str(path), str(out)), log) == [0, 0], log.read_text()
    done = entries(out)
    assert done["depth/recover"].outputs["kept"] == "before"
    assert (out / "stages/depth/trained/model.safetensors").is_file()
    for step in ("depth/recover", "depth/carve"):
        kept = entries(home / "alone")["depth/carve"].outputs["fingerprint"]
        assert done[step].outputs["fingerprint"] == kept
