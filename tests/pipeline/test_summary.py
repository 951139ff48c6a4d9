"""From the ledger of a run to what the report shows, however far the run went."""

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.common.run_directory import LEDGER_FILE
from regrow.pipeline.ledger import Entry, Ledger
from regrow.pipeline.summary import summarise
from regrow.report.outcomes import worse_lines
from regrow.report.records import HeldoutCurve, Loading

DOMAIN = {"domain": "a" * 64}
CUT = {
    "format": 1, "model": "sha256:" + "0" * 64,
    "axes": {
        "ffn": {"size": 6, "along": "layer", "keep": ["0-2", "5,1,0", "3-5"]},
        "layer": {"size": 4, "keep": "0,2-3"},
    },
}  # fmt: skip


def facts(parameters: int, **more: Any) -> dict[str, Any]:
    return {
        "fingerprint": f"sha256:{parameters:064d}", "parameters": parameters,
        "parts": {"embedding": 10, "ffn": parameters - 10}, "vocabulary": 320, "bytes": 99, **more,
    }  # fmt: skip


def losses(loss: float, **more: Any) -> dict[str, Any]:
    measured = {
        "loss_per_token": loss,
        "bits_per_byte": loss / 2,
        "tokens": 9,
        "bytes": 30,
        "predicts": "every token",
        "unknown": loss / 100,
        "lost": loss / 1000,
    }
    return {"heldout": {"domain": measured}, **more}


PROMPTS = {"prompts": ["Hello", "Why?"], "answer_tokens": 8}
RECOVERY = {
    "curve": [[64, 5.5], [100, 5.25]],
    "heldout_curve": [[64, {"domain": 5.5}], [100, {"domain": 5.0}]],
    "heldout": DOMAIN, "tokens": 100, "predicted": 90, "seconds": {"recover": 7.0, "measure": 0.5},
    "kept": "trained", "trained": losses(5.0),
}  # fmt: skip
STEPS: list[tuple[str, dict[str, Any], dict[str, Any], float]] = [
    ("original", {}, facts(100, source=None), 1.0),
    ("recipe", {}, {"text": "name: x # <b>\n"}, 0.0),
    ("texts", {}, {"texts": [
        {"name": "train", "role": "train", "documents": 2, "tokens": 50, "sha256": "t"},
        {"name": "domain", "role": "heldout", "documents": 1, "tokens": 9, "sha256": "h"},
    ]}, 0.5),
    ("original/measure", {"heldout": DOMAIN}, losses(4.0), 2.0),
    ("original/answers", PROMPTS, {"answers": ["a", "b"]}, 0.5),
    ("depth/carve", {"cut": {"layers": 3, "by": "random"}},
     facts(80, words="4 -> 3 layers", cut=CUT, notes=["x: dropped"],
           seconds={"score": 3.0, "refit": 1.5, "carve": 0.25}), 3.25),
    ("depth/measure-cut", {"heldout": DOMAIN, "speed": False}, losses(6.0), 1.5),
    ("depth/recover", {"recover": {
        "batch_tokens": 64, "row_length": 32, "learning_rate": 3e-4, "optimizer": "adamw",
        "schedule": "cosine",
    }},
     facts(80, **RECOVERY), 7.5),
    ("depth/measure", {"heldout": DOMAIN}, losses(5.0), 1.25),
    ("depth/answers", PROMPTS, {"answers": ["c", "d"]}, 0.5),
    ("words/carve", {"cut": {"vocab_size": 300, "by": None}},
     facts(70, words="vocabulary 320 -> 300", notes=[],
           cut={**CUT, "axes": {"vocab": {"size": 320, "keep": "0-299"}}},
           seconds={"score": 0.0, "carve": 0.5}), 0.75),
    ("words/measure-cut", {"heldout": DOMAIN, "speed": True},
     losses(5.5), 1.0),
    ("words/answers", PROMPTS, {"answers": ["e", "f"]}, 0.5),
    ("control/recover", {"recover": {}}, facts(100, **{**RECOVERY, "tokens": 1_000}), 9.0),
    ("control/measure", {"heldout": DOMAIN}, losses(3.5), 1.0),
    ("speed", {}, {"speeds": {
        "original": {"tokens_per_second": [20.0, 10.0], "beside": [20.0, 10.0]},
        "depth": {"tokens_per_second": [30.0, 16.0], "beside": [20.0, 10.0]},
        "words": {"tokens_per_second": [31.0, 17.0], "beside": [20.0, 10.0]},
    }}, 3.0),
]  # fmt: skip


def ledger(directory: Path, count: int, **changed: dict[str, Any]) -> Path:
    """The first steps of a run; `changed`: other inputs, by step with _ for /."""
    with Ledger(directory) as found:
        for number, (name, inputs, outputs, seconds) in enumerate(STEPS[:count]):
            environment = {
                "versions": {"torch": "2"}, "seed": 0, "command": f"regrow run {number}",
                "machine": {"cpu": "c", "threads": 2, "memory": 8},
            }  # fmt: skip
            inputs = changed.get(name.replace("/", "_"), inputs)
            started = f"2026-01-01T00:00:{number:02d}+00:00"
            found.record(Entry(name, "k", inputs, outputs, environment, started, seconds))
    return directory


def test_negative_seconds_are_none(tmp_path: Path) -> None:
    """An earlier version measured by the clock of the day, which may be set back."""
    path = ledger(tmp_path / "small", len(STEPS)) / "ledger.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries:
        entry["seconds"] = -3600.0
        phases = entry["outputs"].get("seconds", {})
        entry["outputs"]["seconds"] = dict.fromkeys(phases, -3600.0)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    summary = summarise(path.parent)
    assert summary.seconds == 0.0
    (first, *_) = summary.stages
    assert (first.seconds.carve, first.seconds.recover, first.seconds.measure) == (0.0, 0.0, 0.0)


def test_losses_may_be_over_other_tokens_in_each_text(tmp_path: Path) -> None:
    path = ledger(tmp_path / "small", len(STEPS)) / "ledger.jsonl"
    assert summarise(path.parent).predicts == ("every token",)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries:
        if entry["step"] == "original/measure":
            heldout = entry["outputs"]["heldout"]
            heldout["chat"] = heldout["domain"] | {"predicts": "answers"}
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert summarise(path.parent).predicts == ("answers", "every token")


def test_a_whole_run(tmp_path: Path) -> None:
    summary = summarise(ledger(tmp_path / "small", len(STEPS)))
    assert (summary.name, summary.command) == ("small", "regrow run 15")
    assert summary.seconds == sum(step[3] for step in STEPS)
    assert summary.recipe_text == "name: x # <b>\n"
    assert [text.name for text in summary.texts] == ["train", "domain"]
    assert [(row.name, row.role, row.parameters) for row in summary.models] == [
        ("original", "original", 100), ("depth", "stage", 80), ("words", "stage", 70),
        ("control", "comparison", 100),
    ]  # fmt: skip
    original, depth, words, control = summary.models
    assert (original.after_cut, original.after_recovery["domain"].loss) == ({}, 4.0)
    assert (depth.after_cut["domain"].loss, depth.after_recovery["domain"].loss) == (6.0, 5.0)
    assert (words.after_cut["domain"].bits_per_byte, words.after_recovery) == (2.75, {})
    score = depth.after_recovery["domain"]
    assert (score.unknown, score.lost, score.is_comparable) == (0.05, 0.005, False)
    speeds = [row.speed and (row.speed.median, row.speed.ratio) for row in summary.models]
    assert speeds == [(15.0, 1.0), (23.0, 1.55), (24.0, 1.625), None]
    assert summary.loading == Loading(path=str(tmp_path / "small/stages/words/model"))
    assert control.note == "the original, trained on 1,000 tokens too"
    assert list(summary.hashes) == ["original", "depth", "words"]
    assert [row.path for row in summary.models] == [
        "", "stages/depth/model", "stages/words/model", "stages/control/model",
    ]  # fmt: skip
    assert [(sample.prompt, sample.answers) for sample in summary.samples] == [
        ("Hello", {"original": "a", "depth": "c", "words": "e"}),
        ("Why?", {"original": "b", "depth": "d", "words": "f"}),
    ]


@pytest.mark.parametrize(
    ("rate", "words"),
    [(0, ", embeddings as they were"), (0.3, ", embeddings at 0.3 of it"), (1, ""), (None, "")],
)
def test_the_rate_of_embeddings_is_said(
    tmp_path: Path, rate: float | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {} if rate is None else {"embedding_rate": rate}
    for step in STEPS:
        if "recover" in (inputs := next(each for each in step if isinstance(each, dict))):
            monkeypatch.setitem(inputs, "recover", {**inputs["recover"], **settings})
    (depth, _) = summarise(ledger(tmp_path, len(STEPS))).stages
    assert depth.recovery.endswith(f"with cosine{words}")


def test_what_a_stage_did(tmp_path: Path) -> None:
    depth, words = summarise(ledger(tmp_path, len(STEPS))).stages
    assert (depth.cut, words.cut) == ("4 -> 3 layers, by random", "vocabulary 320 -> 300")
    assert depth.recovery == ("100 tokens in steps of 64, AdamW, learning rate 0.0003 with cosine")
    assert (depth.warnings, words.recovery) == (("x: dropped",), "")
    layer, ffn = depth.kept
    assert (layer.axis, layer.before, layer.kept) == ("layer", 4, (0, 2, 3))
    assert ffn.kept_by_layer == ((0, 1, 2), (0, 1, 5), (3, 4, 5))
    assert depth.curve == ((64, 5.5), (100, 5.25))
    # Before the recovery, between (in nats, at half a bit a byte each), and after it.
    points = ((0, 3.0), (64, 2.75), (100, 2.5))
    assert depth.heldout == HeldoutCurve(unit="bits per byte", texts={"domain": points})
    assert depth.seconds.model_dump() == {
        "score": 3.0, "refit": 1.5, "carve": 0.25, "recover": 7.0, "measure": 3.25,
    }  # fmt: skip
    assert words.seconds.recover is None


@pytest.mark.parametrize(
    ("count", "models", "done"),
    [(1, 1, []), (5, 1, []), (6, 2, [False]), (7, 2, [False]), (8, 2, [False]), (9, 2, [True]),
     (11, 3, [True, False]), (12, 3, [True, True]), (13, 3, [True, True])],
)  # fmt: skip
def test_a_run_on_its_way(tmp_path: Path, count: int, models: int, done: list[bool]) -> None:
    summary = summarise(ledger(tmp_path, count))
    assert len(summary.models) == models
    assert [stage.done for stage in summary.stages] == done
    answered = {5: ["a"], 9: ["a"], 12: ["a", "c"], 13: ["a", "c", "e"]}
    if count in answered:
        assert list(summary.samples[0].answers.values()) == answered[count]
    paths = {9: ["stages/depth/model"], 11: ["stages/depth/model", ""]}
    if count in paths:
        assert [row.path for row in summary.models[1:]] == paths[count]


def test_a_curve_of_another_text_is_left_out(tmp_path: Path) -> None:
    other = {"heldout": {"domain": "b" * 64}}
    heldout = summarise(ledger(tmp_path, 9, depth_measure=other)).stages[0].heldout
    assert heldout is not None
    assert heldout.texts == {"domain": ((0, 3.0), (100, 2.5))}


def test_the_model_of_a_run_is_its_link_where_that_is(tmp_path: Path) -> None:
    directory = ledger(tmp_path / "small", 9)
    stage = directory / "stages/depth/model"
    assert summarise(directory).loading == Loading(path=str(stage))
    stage.mkdir(parents=True)
    (directory / "model").symlink_to("stages/depth/model")
    assert summarise(directory).loading == Loading(path=str(directory / "model"))
    assert summarise(ledger(tmp_path / "begun", 7)).loading is None


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run was begun here \(ledger\.jsonl has no entry\)"):
        summarise(tmp_path)
    (tmp_path / "ledger.jsonl").write_text('{"torn')
    with pytest.raises(UserError, match="no run was begun here"):
        summarise(tmp_path)
    (tmp_path / "ledger.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"ledger\.jsonl:1: damaged"):
        summarise(tmp_path)


def test_what_a_recovery_did(tmp_path: Path) -> None:
    depth, words = summarise(ledger(tmp_path, len(STEPS))).stages
    assert depth.outcome is not None
    assert (depth.outcome.unit, depth.outcome.kept) == ("bits per byte", "trained")
    assert depth.outcome.texts == {"domain": (3.0, 2.5)}
    assert words.outcome is None


def test_a_recovery_that_did_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, inputs, outputs, seconds = STEPS[7]
    worse = {**outputs, "kept": "before", "trained": losses(6.5)}
    changed = [(name, inputs, worse, seconds), ("depth/measure", STEPS[8][1], losses(6.0), 1.0)]
    monkeypatch.setattr(f"{__name__}.STEPS", [*STEPS[:7], *changed, *STEPS[9:]])
    summary = summarise(ledger(tmp_path / "a", len(STEPS)))
    outcome = summary.stages[0].outcome
    assert outcome is not None
    assert (outcome.texts, outcome.kept) == ({"domain": (3.0, 3.25)}, "before")
    assert summary.models[1].note == "the weights before the recovery, which did not help"
    # The losses of weights that are not kept are of the text of that time.
    other = {"heldout": {"domain": "b" * 64}, "speed": False}
    changed_text = ledger(tmp_path / "b", len(STEPS), **{"depth_measure-cut": other})
    outcome = summarise(changed_text).stages[0].outcome
    assert outcome is not None
    assert outcome.texts == {}
    assert worse_lines(outcome, "x") == [
        "recovery did not help, so the model has the weights from before; the trained weights are "
        "in x"
    ]


def spoiled(value: Any, drawn: random.Random) -> Any:
    """The value with one part of it replaced by something of another kind, or left out."""
    if isinstance(value, dict | list) and value and drawn.random() < 0.9:
        at = drawn.choice([*value] if isinstance(value, dict) else [*range(len(value))])
        if drawn.random() < 0.1:
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            kept = [(key, part) for key, part in parts if key != at]
            return dict(kept) if isinstance(value, dict) else [part for _, part in kept]
        changed = copy.copy(value)
        changed[at] = spoiled(value[at], drawn)
        return changed
    return drawn.choice([None, True, -1, 10**400, 1e300, math.nan, "", "x/../y", [], [[]], {}])


def test_a_spoiled_ledger_is_read_or_named_in_one_line(tmp_path: Path) -> None:
    path = ledger(tmp_path, len(STEPS)) / LEDGER_FILE
    lines = path.read_text().splitlines(keepends=True)
    drawn, refused = random.Random(0), 0
    for _ in range(600):
        number = drawn.randrange(len(lines))
        line = json.dumps(spoiled(json.loads(lines[number]), drawn)) + "\n"
        path.write_text("".join([*lines[:number], line, *lines[number + 1 :]]))
        refused += said_in_one_line(tmp_path)
    assert refused > 200


def said_in_one_line(directory: Path) -> bool:
    """Whether the ledger is refused; if so, in one line that names it."""
    try:
        summarise(directory)
    except UserError as error:
        message = str(error)
    else:
        return False
    assert LEDGER_FILE in message
    assert "\n" not in message
    return True
