"""A run whose mixtures follow losses: recorded, shown, the same after a kill, refused if wrong."""

import itertools
import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import regrow
from regrow.architectures.openba import OPENBA
from regrow.common.errors import UserError
from regrow.evaluation.heldout_components import heldout_denoisers
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.rows.denoisers import UL2
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.summary import summarise
from regrow.training.checkpoints import Checkpoints
from tests.forks import exit_code
from tests.tiny import sentences, write_seq2seq, write_text

torch.set_num_threads(1)
ROW = 24
KEY = "denoiser, 200 tokens in rows of 24"

EVEN = dict.fromkeys(UL2, 1.0)
GIVEN = dict.fromkeys(UL2, 5.0)
Recipe = dict[str, Any]


def recover(tokens: int, **changes: Any) -> dict[str, Any]:
    return {
        "objective": "d-ul2", "tokens": tokens, "row_length": ROW, "batch_tokens": 2 * ROW,
        "micro_batch": 4, "learning_rate": 1e-2, "mixture_every": 100, "mixture_tokens": 200,
        **changes,
    }  # fmt: skip


def recipe(home: Path) -> Recipe:
    return {
        "name": "tiny", "model": str(home / "m"), "seed": 3, "threads": 1,
        "data": {"train": str(home / "train.jsonl"),
                 "heldout": {"one": str(home / "one.jsonl"), "two": str(home / "two.jsonl")}},
        "stages": [
            {"name": "depth",
             "cut": {"drop_layers": {"encoder": "1", "decoder": "1"}, "calibration_tokens": 256},
             "recover": recover(600, denoisers={"rule": "code", "start": EVEN})},
            {"name": "longer", "recover": recover(200, objective="ul2", mixture_every=None)},
        ],
    }  # fmt: skip


def texts(home: Path) -> Path:
    write_seq2seq(home / "m", OPENBA)
    write_text(home / "train.jsonl", sentences(40))
    write_text(home / "one.jsonl", sentences(8, seed=1))
    write_text(home / "two.jsonl", sentences(4, seed=2))
    return home


def go(recipe: Recipe, out: Path, **options: Any) -> None:
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    regrow.run(path, out, **options)


def outputs(out: Path, step: str) -> Mapping[str, Any]:
    return read_entries(out / "ledger.jsonl")[step].outputs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = texts(tmp_path_factory.mktemp("dynamic"))
    go(recipe(home), home / "run")
    return home


def test_references_are_those_of_the_uncut_model(home: Path) -> None:
    measured = outputs(home / "run", "original/references")["losses"]
    assert list(measured) == [KEY]
    original = Path(outputs(home / "run", "original")["directory"])
    model, tokenizer = load_model(original), load_tokenizer(original)
    texts = [*sentences(8, seed=1), *sentences(4, seed=2)]
    components = heldout_denoisers(texts, tokenizer, model.config, ROW, 200)
    assert measured[KEY] == pytest.approx(components.losses(model), rel=1e-6)
    mixture = outputs(home / "run", "depth/recover")["mixtures"]["denoiser"]
    assert mixture["references"] == measured[KEY]


def test_the_history_is_recorded_and_summarised(home: Path) -> None:
    mixture = outputs(home / "run", "depth/recover")["mixtures"]["denoiser"]
    assert mixture["start"] == pytest.approx(dict.fromkeys(UL2, 1 / 7))
    assert [change["tokens"] // 100 for change in mixture["history"]] == [1, 2, 3, 4, 5, 6]
    assert mixture["history"][-1]["shares"] != mixture["start"]
    assert outputs(home / "run", "longer/recover")["mixtures"] == {}
    depth, longer = summarise(home / "run").stages
    (shown,) = depth.mixtures
    assert shown.of == "denoiser"
    assert [tokens for tokens, _ in shown.shares] == [0, *(c["tokens"] for c in mixture["history"])]
    assert shown.shares[0][1] == mixture["start"]
    assert shown.losses[-1] == (mixture["history"][-1]["tokens"], mixture["history"][-1]["losses"])
    assert shown.references == mixture["references"]
    assert longer.mixtures == ()


def test_killed_and_taken_up_again_it_is_the_same(home: Path, tmp_path: Path) -> None:
    whole = home / "run"
    out = tmp_path / "run"
    changed = recipe(home)
    changed["stages"][0]["recover"]["save_every"] = 0
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    save, calls = Checkpoints.save, itertools.count(1)

    def killing(*given: Any, **named: Any) -> None:
        save(*given, **named)
        if next(calls) == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", killing)
        assert exit_code(regrow.run, path, out) == -signal.SIGKILL
    assert "depth/recover" not in read_entries(out / "ledger.jsonl")
    *_, state = sorted((out / "stages/depth/training").glob("step-*/state.json"))
    assert json.loads(state.read_text())["mixtures"]["denoiser"]["history"]
    regrow.run(path, out)
    name = "stages/longer/model/model.safetensors"
    assert (out / name).read_bytes() == (whole / name).read_bytes()
    for kept in ("curve", "mixtures"):
        assert outputs(out, "depth/recover")[kept] == outputs(whole, "depth/recover")[kept]


def test_other_text_to_follow_is_another_training(home: Path, tmp_path: Path) -> None:
    changed = recipe(home)
    write_text(tmp_path / "two.jsonl", sentences(4, seed=7))
    changed["data"]["heldout"]["two"] = str(tmp_path / "two.jsonl")
    shutil.copytree(home / "run", tmp_path / "run", symlinks=True)
    with pytest.raises(UserError, match=r"data.heldout.two: changed\); this invalidates original"):
        go(changed, tmp_path / "run")
    del changed["stages"][0]["recover"]
    del changed["stages"][0]["cut"]["drop_layers"]["encoder"]
    with pytest.raises(UserError, match=r"this invalidates"):
        go(changed, tmp_path / "run")


def test_given_references_are_not_measured(home: Path, tmp_path: Path) -> None:
    changed = recipe(home)
    del changed["stages"][1]
    changed["stages"][0]["recover"] |= {
        "tokens": 200, "denoisers": {"rule": "paper", "references": GIVEN},
    }  # fmt: skip
    go(changed, tmp_path / "run")
    assert "original/references" not in read_entries(tmp_path / "run/ledger.jsonl")
    mixture = outputs(tmp_path / "run", "depth/recover")["mixtures"]["denoiser"]
    assert mixture["references"] == GIVEN
    assert mixture["start"]["S"] == 0.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "ul2", "denoisers": {}},
         "denoisers: their mixture follows losses in d-ul2 alone"),
        ({"objective": "ul2", "denoisers": None},
         "mixture_every: no mixture follows losses; give objective d-ul2"),
        ({"denoisers": {"rule": "best"}}, "denoisers.rule: stable, paper or code is wanted"),
        ({"denoisers": {"references": {"R1": 1.0}}}, "denoisers.references: R1; give R1, R2, S"),
        ({"denoisers": {"start": GIVEN | {"S": 0}}}, "denoisers.start.S"),
        ({"denoisers": {"referenced": GIVEN}}, "referenced: unknown key; did you mean references"),
        ({"domains": "dynamic"}, "recover.domains: data.train has no shares to begin with"),
        ({"domains": "fixed"}, "domains"),
        ({"mixture_tokens": 0}, "mixture_tokens"),
        ({"mixture_every": 600}, "within 600 tokens no mixture would change"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_work(
    home: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    changed = recipe(home)
    changed["stages"][0]["recover"] |= changes
    with pytest.raises(UserError, match=message) as error:
        go(changed, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run/ledger.jsonl").exists()


def test_losses_under_another_vocabulary_are_no_reference(home: Path, tmp_path: Path) -> None:
    changed = recipe(home)
    changed["stages"].insert(0, {"name": "fewer", "cut": {"vocab_size": 300}})
    with pytest.raises(UserError, match=r"depth: recover.denoisers: .* \(300 tokens\); give refer"):
        go(changed, tmp_path / "run")
    assert not (tmp_path / "run/ledger.jsonl").exists()


@pytest.mark.parametrize(("objective", "row"), [("span-corruption", ROW), ("o-ul2", 64)])
def test_sources_of_a_recipe_are_mixed_by_their_losses(
    home: Path, tmp_path: Path, objective: str, row: int
) -> None:
    changed = recipe(home)
    del changed["stages"][1]
    changed["data"]["train"] = [
        {"name": name, "path": str(write_text(tmp_path / f"{name}.jsonl", sentences(8, seed))),
         "weight": weight}
        for name, seed, weight in (("one", 11, 3), ("two", 12, 1))
    ]  # fmt: skip
    changed["stages"][0]["recover"] |= {
        "objective": objective, "denoisers": None, "tokens": 400 * row // ROW,
        "row_length": row, "batch_tokens": 2 * row,
        "domains": {"rule": "code", "references": {"one": 9.0, "two": 1.0}},
    }  # fmt: skip
    go(changed, tmp_path / "run")
    (mixture,) = summarise(tmp_path / "run").stages[0].mixtures
    assert mixture.of == "domain"
    assert mixture.shares[0] == (0, {"one": 0.75, "two": 0.25})
    assert mixture.shares[-1][1]["two"] > 0.9
    del changed["data"]["heldout"]["two"]
    with pytest.raises(UserError, match=r"data\.heldout has no text for two; give one for each"):
        go(changed, tmp_path / "other")
