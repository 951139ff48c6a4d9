"""A run from end to end: killed anywhere, changed, tampered with, refused."""

import contextlib
import copy
import json
import math
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

import regrow
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import QUIET, Progress, Update
from regrow.common.publishing import partial_place
from regrow.evaluation.registry import EVALUATIONS, Evaluation
from regrow.pipeline.finished import Result
from regrow.pipeline.ledger import Ledger, read_entries
from regrow.pipeline.recipe_file import load_recipe
from regrow.pipeline.run_plan import RunOptions, plan_run
from regrow.pipeline.step_work import step_work
from regrow.pipeline.steps import RESULTS
from regrow.pipeline.summary import summarise
from tests.tiny import sentences, write_model, write_seq2seq, write_text, write_tiny

Recipe = dict[str, Any]
SAME = ["original", "recipe", "texts"]
ALL = [
    "original", "recipe", "texts", "original/measure", "original/answers",
    "depth/carve", "depth/measure-cut", "depth/recover", "depth/measure", "depth/answers",
    "width/carve", "width/measure-cut", "width/recover", "width/measure", "width/answers",
    "vocabulary/carve", "vocabulary/measure-cut", "vocabulary/recover", "vocabulary/measure",
    "vocabulary/answers", "speed",
]  # fmt: skip


def recover(tokens: int, **more: Any) -> dict[str, Any]:
    return {"tokens": tokens, "row_length": 32, "batch_tokens": 64, "learning_rate": 0.01, **more}


@dataclass(frozen=True)
class Finished:
    """A finished run that no test changes, and what it was made of."""

    home: Path
    recipe: Recipe
    out: Path
    result: Result
    updates: list[Update]
    said: list[str]

    def changed(self, *places: tuple[str, Any]) -> Recipe:
        """The recipe with some dotted keys set; stages by name."""
        recipe = copy.deepcopy(self.recipe)
        for dotted, value in places:
            at: Any = recipe
            *before, last = dotted.split(".")
            for key in before:
                named = at if isinstance(at, dict) else {stage["name"]: stage for stage in at}
                at = named[key]
            at[last] = value
        return recipe

    def copied(self, out: Path) -> Path:
        shutil.copytree(self.out, out, symlinks=True)
        return out


def go(recipe: Recipe, out: Path, **options: Any) -> Result:
    """Write the recipe beside `out` and run it."""
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return regrow.run(path, out, **options)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    home = tmp_path_factory.mktemp("pipeline")
    write_model(home / "m")
    write_text(home / "train.jsonl", sentences(60))
    write_text(home / "heldout.jsonl", sentences(4, seed=1))
    write_text(home / "more.jsonl", sentences(60, seed=2))
    (home / "other.txt").write_text("Snow fell on the town, and nobody came.")
    recipe: Recipe = {
        "name": "tiny", "model": str(home / "m"), "seed": 3, "threads": 1,
        "data": {
            "train": str(home / "train.jsonl"),
            "heldout": {"domain": str(home / "heldout.jsonl"), "other": str(home / "other.txt")},
        },
        "prompts": ["The river"], "answer_tokens": 3,
        "stages": [
            {"name": "depth", "cut": {"layers": 3, "calibration_tokens": 512},
             "recover": recover(320, evaluate_every=128, save_every=0)},
            {"name": "width", "cut": {"ffn": 24, "hidden": 28, "calibration_tokens": 512},
             "recover": recover(128)},
            {"name": "vocabulary", "cut": {"vocab_size": 300}, "recover": recover(128)},
        ],
    }  # fmt: skip
    updates: list[Update] = []
    said: list[str] = []
    result = go(recipe, home / "run", progress=Progress(update=updates.append, say=said.append))
    return Finished(home, recipe, home / "run", result, updates, said)


def contents(directory: Path) -> dict[str, bytes]:
    """All files by path, without the lock and without those that hold times.

    The page says where the model is, so the directory has one name in all of them.
    """

    def read(path: Path) -> bytes:
        data = path.read_bytes()
        is_page = path.name == "report.html"
        return data.replace(str(directory).encode(), b"OUT") if is_page else data

    return {
        str(path.relative_to(directory)): read(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
        and path.name not in ("lock", "finished.json")
        and path.parent.name != "tensorboard"
    }


def entries(out: Path) -> Mapping[str, Any]:
    return read_entries(out / "ledger.jsonl")


def assert_same_result(out: Path, other: Path) -> None:
    """Models to the last bit; cuts, curves and losses too."""
    ours, theirs = contents(out / "stages"), contents(other / "stages")
    assert ours.keys() == theirs.keys()
    for name, data in ours.items():
        assert data == theirs[name], name
    told, wanted = entries(out), entries(other)
    assert told.keys() == wanted.keys()
    timed = {"seconds", "speeds", "directory", "model"}
    for name, entry in told.items():
        decisive = {key: value for key, value in entry.outputs.items() if key not in timed}
        assert decisive == {k: v for k, v in wanted[name].outputs.items() if k not in timed}, name


# To the end


def test_all_steps_are_done_in_order(finished: Finished) -> None:
    assert list(entries(finished.out)) == ALL
    assert finished.result.report == finished.out / "report.html"
    assert finished.result.report.stat().st_size > 10_000
    assert {path.name for path in finished.out.iterdir()} == {
        "finished.json", "ledger.jsonl", "lock", "model", "report.html", "stages",
    }  # fmt: skip
    for stage in ("depth", "width", "vocabulary"):
        left = {path.name for path in (finished.out / "stages" / stage).iterdir()}
        assert left == {"model", "tensorboard"}


def test_the_result_is_a_plain_model_of_the_planned_size(finished: Finished) -> None:
    code = (
        "import sys, transformers\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "assert 'regrow' not in sys.modules\n"
        "print(sum(p.numel() for p in model.parameters()), len(tokenizer))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(finished.result.model)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Embedding, and 3 layers: queries and outputs, keys and values, three of ffn, two norms.
    layer = 2 * 28 * 32 + 2 * 28 * 16 + 3 * 24 * 28 + 2 * 28
    planned = 300 * 28 + 3 * layer + 28
    assert done.stdout.split() == [str(planned), "300"]
    assert entries(finished.out)["vocabulary/carve"].outputs["parameters"] == planned


def test_training_helped(finished: Finished) -> None:
    done = entries(finished.out)
    for stage in ("depth", "width"):
        before, after = (
            done[f"{stage}/{step}"].outputs["heldout"]["domain"]["loss_per_token"]
            for step in ("measure-cut", "measure")
        )
        assert after < before - 0.02
    curve = done["depth/recover"].outputs["heldout_curve"]
    assert [tokens for tokens, _ in curve] == [128, 256, 320]
    assert curve[-1][1]["domain"] == pytest.approx(
        done["depth/measure"].outputs["heldout"]["domain"]["loss_per_token"], abs=1e-5
    )


def test_who_watches_sees_it_go_on(finished: Finished) -> None:
    assert finished.updates[0].stage == "original"
    assert finished.updates[-1].stage == "speed"
    shares = [update.share for update in finished.updates]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    lefts = [update.seconds_left for update in finished.updates]
    assert lefts[0] is None  # nothing is measured yet
    assert all(left is None or 0 <= left < math.inf for left in lefts)
    stages = list(dict.fromkeys(update.stage for update in finished.updates))
    assert stages == ["original", "depth", "width", "vocabulary", "speed"]
    training = [u for u in finished.updates if u.stage == "depth" and u.loss is not None]
    assert len(training) == 5
    assert training[0].heldout == ""
    assert training[-1].heldout.endswith(" bits per byte")
    assert "depth: 4 -> 3 layers" in "\n".join(finished.said)


def test_running_again_does_nothing(finished: Finished) -> None:
    before = contents(finished.out)
    said: list[str] = []
    go(finished.recipe, finished.out, progress=Progress(say=said.append))
    assert [line.partition(":")[0] for line in said] == ["finished already"]
    assert contents(finished.out) == before
    assert (finished.out / "lock").read_bytes() == b""


# Killed


def _run(recipe: str, out: str, compare: Sequence[str]) -> None:
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        regrow.run(recipe, out, compare=compare)


@pytest.fixture(scope="module")
def forks() -> Any:
    """Processes from one that has imported all, so that many can be killed in little time."""
    root = str(Path(__file__).parents[2])
    # An empty entry would be the current directory.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", root, prepend=os.pathsep if "PYTHONPATH" in os.environ else None)
        context = multiprocessing.get_context("forkserver")
        llama = "transformers.models.llama.modeling_llama"
        context.set_forkserver_preload(["tests.pipeline.test_run", "regrow.training.loop", llama])
        yield context


def killed(
    forks: Any, recipe: Path, out: Path, when: Callable[[], bool], compare: Sequence[str] = ()
) -> bool:
    """Run until `when`, then SIGKILL; whether it was killed before its end."""
    process = forks.Process(target=_run, args=(str(recipe), str(out), compare))
    process.start()
    limit = time.monotonic() + 120
    while process.is_alive() and not when():
        assert time.monotonic() < limit, "a run hangs"
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9)
    return bool(process.exitcode)


def lines(out: Path) -> int:
    path = out / "ledger.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def longer_than(out: Path, count: int) -> Callable[[], bool]:
    return lambda: lines(out) > count


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def saved_after(training: Path, step: int) -> Callable[[], bool]:
    return lambda: any(int(path.name[5:]) > step for path in training.glob("step-*"))


def written(finished: Finished, tmp_path: Path, recipe: Recipe | None = None) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe or finished.recipe, sort_keys=False), encoding="utf-8")
    return path


def test_killed_after_every_step_it_ends_in_the_same_bits(
    finished: Finished, forks: Any, tmp_path: Path
) -> None:
    recipe, out = written(finished, tmp_path), tmp_path / "run"
    kills = 0
    while lines(out) < len(ALL):
        kills += killed(forks, recipe, out, longer_than(out, lines(out)))
    assert kills >= len(ALL) - 2
    go(finished.recipe, out)
    assert_same_result(out, finished.out)


def test_killed_within_a_training_it_ends_in_the_same_bits(
    finished: Finished, forks: Any, tmp_path: Path
) -> None:
    recipe, out = written(finished, tmp_path), tmp_path / "run"
    training = out / "stages/depth/training"
    within = 0
    for step in range(4):
        assert killed(forks, recipe, out, saved_after(training, step))
        within += any(training.glob("step-*")) and "depth/recover" not in entries(out)
    assert within
    go(finished.recipe, out)
    assert_same_result(out, finished.out)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_ends_in_the_same_bits(
    finished: Finished, forks: Any, tmp_path: Path, seed: int
) -> None:
    recipe, out = written(finished, tmp_path), tmp_path / "run"
    rng = random.Random(seed)
    kills = sum(killed(forks, recipe, out, after(rng.uniform(0.05, 0.5))) for _ in range(8))
    assert kills
    go(finished.recipe, out)
    assert_same_result(out, finished.out)
    assert not [path for path in out.rglob("*") if "partial" in path.name]


def test_what_killed_writes_left_is_swept(finished: Finished, tmp_path: Path) -> None:
    out = finished.copied(tmp_path / "run")
    for name in ("ledger.jsonl", "report.html", "stages/depth/training.json"):
        partial_place(out / name).touch()
    for name in ("stages/depth/carved", "stages/width/model", "stages/width/exports/step-1"):
        place = partial_place(out / name)
        place.mkdir(parents=True)
        (place / "model.safetensors").touch()
    partial_place(out / "model").symlink_to("stages")
    for name in ("carved", "training"):  # between the record of a recovery and their removal
        (out / "stages/depth" / name).mkdir()
    go(finished.recipe, out)
    assert contents(out) == contents(finished.out)


def test_a_redo_that_was_killed_leaves_no_results_of_before(
    finished: Finished, tmp_path: Path
) -> None:
    """Killed after the ledger forgot the recovery, and before its results were removed."""
    out = finished.copied(tmp_path / "run")
    for name in ("exports/step-00000001", "trained", "training/step-00000001"):
        (out / "stages/depth" / name).mkdir(parents=True)
    with Ledger(out) as ledger:
        ledger.forget(["depth/recover", "depth/measure"])
    go(finished.recipe, out)
    assert {path.name for path in (out / "stages/depth").iterdir()} == {
        path.name for path in (finished.out / "stages/depth").iterdir()
    }
    assert_same_result(out, finished.out)


# Changed

CHANGES: Mapping[str, tuple[list[tuple[str, Any]], str, str, list[str]]] = {
    "a size": ([("stages.width.cut.ffn", 20)], "width.cut.ffn: 24 -> 20",
               "width, vocabulary", ALL[10:]),
    "a score": ([("stages.width.cut.by", "random")], "width.cut.by: nothing -> random",
                "width, vocabulary", ALL[10:]),
    "a recovery": ([("stages.width.recover.tokens", 192)], "width.recover.tokens: 128 -> 192",
                   "width, vocabulary", ALL[12:]),
    "a prompt": ([("prompts", ["Rain"])], 'prompts: ["The river"] -> ["Rain"]',
                 "original (answers), depth (answers), width (answers), vocabulary (answers)",
                 [name for name in ALL if "answers" in name]),
    "the answers' length": ([("answer_tokens", 2)], "answer_tokens: 3 -> 2",
                            "original (answers), depth (answers), width (answers), "
                            "vocabulary (answers)", [name for name in ALL if "answers" in name]),
    "a prompt and a held-out text": (
        [("prompts", ["Rain"]), ("data.heldout.other", "more.jsonl")],
        'data.heldout.other: changed; prompts: ["The river"] -> ["Rain"]',
        "original (losses and answers), depth (losses and answers), width (losses and answers), "
        "vocabulary (losses and answers)",
        [name for name in ALL if "measure" in name or "answers" in name]),
    "the seed": ([("seed", 4)], "seed: 3 -> 4",
                 "depth, width, vocabulary", ALL[5:]),
    "the train text": ([("data.train", "more.jsonl")], "data.train: changed",
                       "depth, width, vocabulary", ALL[5:]),
    "a held-out text": ([("data.heldout.other", "more.jsonl")], "data.heldout.other: changed",
                        "original (losses), depth (losses), width (losses), vocabulary (losses)",
                        [name for name in ALL if "measure" in name]),
    "a name": ([("stages.vocabulary.name", "words")], "vocabulary is no longer there",
               "vocabulary", ALL[15:]),
}  # fmt: skip


def as_changed(finished: Finished, name: str) -> Recipe:
    changes = [
        (key, str(finished.home / value) if key.startswith("data") else value)
        for key, value in CHANGES[name][0]
    ]
    return finished.changed(*changes)


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_recipe_is_refused(finished: Finished, tmp_path: Path, name: str) -> None:
    _, change, invalid, _ = CHANGES[name]
    out = finished.copied(tmp_path / "run")
    before = contents(out)
    with pytest.raises(UserError) as error:
        go(as_changed(finished, name), out)
    assert str(error.value) == (
        f"{out}: the recipe changed ({change}); this invalidates {invalid}; set `redo` to do "
        "them again, or choose another directory"
    )
    assert contents(out) == before


def test_a_new_evaluation_is_one_entry(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Evaluation(lambda model, *_: model.num_parameters(), "all", "counting")
    monkeypatch.setitem(EVALUATIONS, "size", entry)
    recipe = {**finished.recipe, "stages": finished.recipe["stages"][:1]}
    out = tmp_path / "run"
    go(recipe, out)
    entries = read_entries(out / "ledger.jsonl")
    found = {name: each.outputs.get("size") for name, each in entries.items()}
    sizes = {name: size for name, size in found.items() if size is not None}
    assert sizes.keys() == {"original/measure", "depth/measure-cut", "depth/measure"}
    assert sizes["depth/measure"] == sizes["depth/measure-cut"] < sizes["original/measure"]


def test_results_of_another_version_are_refused(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished.copied(tmp_path / "run")
    before = contents(out)
    monkeypatch.setattr("regrow.pipeline.steps.RESULTS", RESULTS + 1)
    with pytest.raises(UserError, match="another version of regrow, which gives other results"):
        go(finished.recipe, out)
    assert contents(out) == before


@pytest.mark.parametrize("name", ["a recovery", "a held-out text", "a prompt", "a name"])
def test_redo_does_exactly_these_steps_again(finished: Finished, tmp_path: Path, name: str) -> None:
    stale = CHANGES[name][3]
    out = finished.copied(tmp_path / "run")
    before = entries(out)
    models = contents(out / "stages")
    go(as_changed(finished, name), out, redo=True)
    after = entries(out)
    again = {n for n, entry in after.items() if n not in before or entry != before[n]}
    renamed = {n.replace("vocabulary", "words") for n in stale} if name == "a name" else stale
    assert again - {"recipe", "texts"} == set(renamed)
    recovered = {n.partition("/")[0] for n in stale if n.endswith("/recover")}
    for path, data in contents(out / "stages").items():
        if path.endswith("README.md") and name == "a held-out text":
            assert data != models[path]  # it has the new scores
        elif path.partition("/")[0] not in recovered and not path.startswith("words"):
            assert data == models[path]
    summary = summarise(out)
    assert [stage.done for stage in summary.stages] == [True] * 3
    assert all(row.after_cut for row in summary.models[1:])
    assert summary.recipe_text == out.with_suffix(".yaml").read_text()
    # And back again: what is put into the same steps comes out of them.
    go(finished.recipe, out, redo=True)
    shutil.rmtree(out / "stages/words", ignore_errors=True)
    assert_same_result(out, finished.out)


def test_a_curve_of_another_text_is_not_shown(finished: Finished, tmp_path: Path) -> None:
    shown = summarise(finished.out).stages[0].heldout
    assert shown is not None
    points = shown.texts["domain"]
    assert [tokens for tokens, _ in points] == [0, 128, 256, 320]
    assert points[0][1] > points[1][1] > points[-1][1]
    out = finished.copied(tmp_path / "run")
    recipe = finished.changed(("data.heldout.domain", str(finished.home / "other.txt")))
    go(recipe, out, redo=True)
    shown = summarise(out).stages[0].heldout
    assert shown is not None
    assert [tokens for tokens, _ in shown.texts["domain"]] == [0, 320]


@pytest.mark.parametrize(
    "change", [("stages.depth.recover.save_every", 60), ("threads", None), ("name", "other")]
)
def test_what_changes_nothing_may_change(
    finished: Finished, tmp_path: Path, change: tuple[str, Any]
) -> None:
    out = finished.copied(tmp_path / "run")
    go(finished.changed(change), out)
    before, after = entries(finished.out), entries(out)
    assert [name for name in after if after[name] != before[name]] == ["recipe"]


def test_other_settings_of_a_half_done_training_are_noticed(
    finished: Finished, forks: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    recipe = finished.changed(("stages", finished.recipe["stages"][:1]))
    training = out / "stages/depth/training"
    assert killed(
        forks, written(finished, tmp_path, recipe), out, lambda: any(training.glob("step-*"))
    )
    other = finished.changed(("stages.depth.recover.learning_rate", 0.02))
    other["stages"] = other["stages"][:1]
    with pytest.raises(UserError, match=r"depth\.recover\.learning_rate: 0\.01 -> 0\.02\); this "
                       r"invalidates depth; set `redo`"):  # fmt: skip
        go(other, out)
    go(other, out, redo=True)
    go(other, tmp_path / "fresh")
    assert_same_result(out, tmp_path / "fresh")


# Tampered with


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


TAMPERING: Mapping[str, Callable[[Path], object]] = {
    "weights": lambda model: flip(model / "model.safetensors"),
    "config": lambda model: flip(model / "config.json"),
    "tokenizer": lambda model: flip(model / "tokenizer_config.json"),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("stage", ["depth", "vocabulary"])
@pytest.mark.parametrize("what", TAMPERING)
def test_a_changed_output_is_noticed(
    finished: Finished, tmp_path: Path, stage: str, what: str
) -> None:
    out = finished.copied(tmp_path / "run")
    TAMPERING[what](out / "stages" / stage / "model")
    message = "gone, though the ledger says" if what == "gone" else "not as .*/recover left it"
    if what == "config":  # no JSON any more, or other JSON
        message += "|not JSON|not valid JSON|JSON"
    with pytest.raises(UserError, match=f"stages/{stage}/model.*({message})"):
        go(finished.recipe, out)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_changed_original_is_noticed(finished: Finished, tmp_path: Path, name: str) -> None:
    shutil.copytree(finished.home / "m", tmp_path / "m")
    out = finished.copied(tmp_path / "run")
    moved = finished.changed(("model", str(tmp_path / "m")))
    go(moved, out)
    if name == "config.json":
        config = json.loads((tmp_path / "m" / name).read_text())
        (tmp_path / "m" / name).write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    else:
        flip(tmp_path / "m" / name)
    with pytest.raises(UserError, match=r"the recipe changed \(model\.\w+: changed\)"):
        go(moved, out)


# The control


def test_a_control_can_be_added_later(finished: Finished, tmp_path: Path) -> None:
    out = finished.copied(tmp_path / "run")
    before, models = entries(out), contents(out / "stages")
    go(finished.recipe, out, compare=["control"])
    after = entries(out)
    assert list(after) == [*ALL, "control/recover", "control/measure"]
    assert all(after[name] == before[name] for name in ALL)
    assert all(contents(out / "stages")[path] == data for path, data in models.items())
    assert after["control/recover"].outputs["tokens"] == 320 + 128 + 128
    summary = summarise(out)
    assert [row.role for row in summary.models] == ["original", *["stage"] * 3, "comparison"]
    assert "576 tokens" in summary.models[-1].note
    done = contents(out)
    go(finished.recipe, out)
    go(finished.recipe, out, compare=["control"])
    assert contents(out) == done
    with pytest.raises(UserError, match=r"invalidates width, vocabulary, con"):
        go(as_changed(finished, "a recovery"), out)


# Refused before anything is written


def _two(finished: Finished, second: dict[str, Any], **first: Any) -> Recipe:
    """Two stages of which the second is wrong."""
    stages = [{"name": "a", "cut": {"layers": 3}, **first}, {"name": "b", "cut": second}]
    return finished.changed(("stages", stages))


def _refused() -> Iterator[tuple[str, Callable[[Finished], Recipe], str]]:
    def change(key: str, value: Any) -> Callable[[Finished], Recipe]:
        return lambda f: f.changed((key, value))

    def second(**cut: Any) -> Callable[[Finished], Recipe]:
        return lambda f: _two(f, cut)

    def at_home(key: str, name: str) -> Callable[[Finished], Recipe]:
        return lambda f: f.changed((key, str(f.home / name)))

    def of_decoders(f: Finished) -> Recipe:
        stages = [{"name": "a", "recover": recover(64, objective="causal")}]
        return f.changed(("model", str(f.home / "t5")), ("stages", stages))

    yield "no train text", at_home("data.train", "none.txt"), "data.train: .*none.txt: no such file"
    yield "no held-out text", at_home("data.heldout.x", "none.txt"), "data.heldout.x: .*no such f"
    yield "empty text", at_home("data.heldout.x", "empty.txt"), "data.heldout.x: .*no text"
    yield "blank text", at_home("data.train", "blank.jsonl"), "data.train: .*blank.jsonl: no text"
    yield "not UTF-8", at_home("data.train", "latin.txt"), "data.train: .*line 1 is not UTF-8"
    yield (
        "short",
        at_home("data.train", "short.txt"),
        (r"data.train: \d+ tokens, less than one row of 32 \(stages: \w+: recover.row_length\)"),
    )
    yield (
        "objective of the other kind",
        of_decoders,
        "stages: a: recover.objective: causal is not for an encoder-decoder; give one of span-",
    )
    yield (
        "which stack",
        at_home("model", "t5"),
        "stages: depth: cut.layers 3: t5 has 2 stacks; give encoder=3 or decoder=3",
    )
    yield "no model", at_home("model", "none"), "none: no such directory"
    yield (
        "no tokenizer",
        lambda f: f.changed(("model", str(f.home / "bare")), ("stages", f.recipe["stages"][:1])),
        "bare: no tokenizer that transformers can load",
    )
    yield "no tokenizer to cut", at_home("model", "bare"), "stages: vocabulary: .*no tokenizer.json"
    yield "no eos", at_home("model", "endless"), "endless: no eos_token"
    yield "later layers", second(layers=4), "stages: b: cut.layers: 4 is not between 1 and 3"
    yield "later layer", second(drop_layers="3"), "stages: b: cut.drop_layers 3: '3' lies beyond 2"
    yield (
        "later hidden",
        second(hidden=30),
        "stages: b: cut.hidden: the llama config class refuses 30",
    )
    yield "later heads", second(heads=3), "stages: b: cut.heads: 3 heads on 2 key-value heads"
    yield "vocabulary", second(vocab_size=9), "stages: b: vocabulary size 9 is too small: the least"
    yield (
        "large vocabulary",
        second(vocab_size=400),
        "stages: b: cut.vocab_size: 400 is not between 1",
    )
    yield "stack", second(ffn={"decoder": 8}), "stages: b: cut.ffn decoder=8: llama has no dec"
    yield "score", second(ffn=24, by="influence"), "stages: b: cut.by: influence scores layer, not"
    yield (
        "refit",
        lambda f: f.changed(
            ("model", str(f.home / "gemma2")),
            ("stages", [{"name": "a", "cut": {"drop_layers": "1", "refit": True}}]),
        ),
        "stages: a: cut.refit: gemma2 normalises",
    )
    yield "no cut", second(cut="/none.json"), "stages: b: /none.json: no such file"
    yield (
        "cut",
        lambda f: _two(f, {"cut": str(f.home / "cut/regrow_cut.json")}),
        ("stages: b: cut: axis layer: made for size 4, the model has 3"),
    )
    yield (
        "cut of another",
        lambda f: f.changed(
            ("model", str(f.home / "cut")),
            ("stages", [{"name": "a", "cut": {"cut": str(f.home / "cut/regrow_cut.json")}}]),
        ),
        "stages: a: cut: it was made for model sha256:",
    )
    yield (
        "replicas",
        change("stages.depth.recover.replicas", 2),
        r"depth: recover.replicas 2: one",
    )
    yield "stage called control", change("stages.depth.name", "control"), "'control' is taken"


REFUSED = {name: (make, message) for name, make, message in _refused()}


@pytest.fixture(scope="module")
def wrong(finished: Finished) -> Finished:
    """Beside the run, what cannot be run."""
    home = finished.home
    write_tiny(T5, home / "t5", vocab_size=400)
    write_tiny(GEMMA2, home / "gemma2", vocab_size=400)
    for path in (home / "m").glob("tokenizer*"):
        shutil.copy(path, home / "t5")
        shutil.copy(path, home / "gemma2")
    regrow.prune(home / "m", home / "cut", drop_layers="1")
    (home / "empty.txt").touch()
    (home / "blank.jsonl").write_text('{"text": "  "}\n')
    (home / "latin.txt").write_bytes("né".encode("latin-1"))
    (home / "short.txt").write_text("A river.")
    for name in ("bare", "endless"):
        shutil.copytree(home / "m", home / name)
    for path in (home / "bare").glob("tokenizer*"):
        path.unlink()
    config = json.loads((home / "endless/tokenizer_config.json").read_text())
    del config["eos_token"]
    (home / "endless/tokenizer_config.json").write_text(json.dumps(config))
    return finished


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(
    wrong: Finished, tmp_path: Path, name: str
) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as error:
        go(make(wrong), tmp_path / "new")
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"new.yaml"}


def test_a_run_does_not_go_into_its_model(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.home / "m", tmp_path / "m")
    before = contents(tmp_path / "m")
    with pytest.raises(UserError, match="lies inside the model"):
        regrow.run(written(finished, tmp_path, finished.changed(("model", str(tmp_path / "m")))),
                   tmp_path / "m/run")  # fmt: skip
    assert contents(tmp_path / "m") == before


def test_the_disk_must_have_room(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="bytes are needed there, 1,000,000 are free"):
        go(finished.recipe, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    out = finished.copied(tmp_path / "run")
    go(finished.recipe, out)  # nothing to do needs no room


@pytest.mark.parametrize("refit", [None, False])
def test_a_refit_has_room_for_its_copy_and_its_matrices(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: bool | None
) -> None:
    source = shutil.copytree(finished.home / "m", tmp_path / "m")
    weights = load_file(source / "model.safetensors")  # 2 bytes each, as most models have them
    save_file({n: t.bfloat16() for n, t in weights.items()}, source / "model.safetensors")
    layout = ModelDirectory(source).layout
    heads, hidden, ffn, layers = layout.sizes["head"], 28, layout.sizes["ffn"], 4
    whole, result = 2 * layout.parameters(), 2 * layout.parameters({"hidden": hidden})
    # Query, output, key, value, gate, up and down of each layer, in float32.
    width, keys = heads * layout.sizes["head_dim"], 2 * layout.sizes["head_dim"]
    solved = 4 * layers * hidden * (2 * width + 2 * keys + 3 * ffn)
    assert solved > whole
    needed: list[int] = []

    def check(_: Path, nbytes: int) -> None:
        needed.append(nbytes)
        raise UserError("full")

    monkeypatch.setattr("regrow.pipeline.run_checks.check_free_space", check)
    cut = {"hidden": hidden, "refit": refit, "calibration_tokens": 512}
    stages: list[dict[str, Any]] = [{"name": "width", "cut": cut}]
    with pytest.raises(UserError, match="full"):
        go(finished.changed(("model", str(source)), ("stages", stages)), tmp_path / "new")
    beside = solved if refit is None else whole
    assert needed == [result + beside]
    # The checkpoints of a training come after a refit: the larger of the two counts.
    stages[0]["recover"] = recover(128)
    with pytest.raises(UserError, match="full"):
        go(finished.changed(("model", str(source)), ("stages", stages)), tmp_path / "new")
    training = 2 * 12 * layout.parameters({"hidden": hidden})
    assert needed[1] == 3 * result + training > 3 * result + beside


def test_a_refit_that_does_not_fit_in_memory_is_said_before_any_work(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [
        {"name": "depth", "cut": {"layers": 3, "refit": False}},
        {"name": "width", "cut": {"ffn": 32, "calibration_tokens": 100_000}},
        {"name": "words", "cut": {"vocab_size": 300}},
    ]
    recipe = finished.changed(("stages", stages))
    monkeypatch.setattr("regrow.surgery.refitting.memory.available_memory", lambda: 1_000_000)
    message = r"stages: width: cut.calibration_tokens: to refit .* on 100,000 tokens, .* GB of st"
    with pytest.raises(UserError, match=message):
        go(recipe, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    stages[1]["cut"] = {"ffn": 32, "refit": False}
    go(finished.changed(("stages", stages)), tmp_path / "new")  # the other cuts need none


def test_what_a_training_saved_makes_room_for_it(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(update: Update) -> None:
        if update.doing == "recovering":
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        go(finished.recipe, out, progress=Progress(update=stop))
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="bytes are needed there"):
        go(finished.recipe, out)

    def save(stage: Path) -> None:
        saved = stage / "training/step-00000001/model.safetensors"
        saved.parent.mkdir(parents=True)
        saved.touch()
        os.truncate(saved, 10**12)

    save(out / "stages/control")  # which nobody asks for
    with pytest.raises(UserError, match="bytes are needed there"):
        go(finished.recipe, out)
    (carved,) = out.glob("stages/*/carved")
    save(carved.parent)
    with pytest.raises(UserError, match=r"step-00000001: damaged .*state\.json"):
        go(finished.recipe, out)


# A recovery that does not help


@pytest.fixture(scope="module")
def unhelped(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two recoveries that make the model worse, with and without a cut, and one that helps."""
    home = tmp_path_factory.mktemp("unhelped")
    far = {"learning_rate": 3.0, "save_every": 0}
    stages = [
        {"name": "depth", "cut": {"layers": 3, "calibration_tokens": 512},
         "recover": recover(320, **far)},
        {"name": "more", "recover": recover(128, **far)},
        {"name": "width", "cut": {"ffn": 24, "calibration_tokens": 512}, "recover": recover(128)},
    ]  # fmt: skip
    recipe = finished.changed(("stages", stages))
    said: list[str] = []
    result = go(recipe, home / "run", progress=Progress(say=said.append))
    return Finished(finished.home, recipe, home / "run", result, [], said)


def test_weights_from_before_are_kept_if_a_recovery_does_not_help(unhelped: Finished) -> None:
    done = entries(unhelped.out)
    assert [done[f"{name}/recover"].outputs["kept"] for name in ("depth", "more", "width")] == [
        "before", "before", "trained",
    ]  # fmt: skip
    carved = done["depth/carve"].outputs
    for name in ("depth", "more"):
        assert done[f"{name}/recover"].outputs["fingerprint"] == carved["fingerprint"]
        stage = unhelped.out / "stages" / name
        model, trained = contents(stage / "model"), contents(stage / "trained")
        assert model.keys() == trained.keys()
        assert [file for file in model if model[file] != trained[file]] == [
            "README.md", "model.safetensors", "regrow_history.json",
        ]  # fmt: skip
    assert done["width/recover"].outputs["fingerprint"] != carved["fingerprint"]
    assert not (unhelped.out / "stages/width/trained").exists()


def test_no_model_is_measured_as_worse_than_before_its_recovery(
    unhelped: Finished, finished: Finished
) -> None:
    def mean(entry: Any) -> float:
        losses = [float(loss["bits_per_byte"]) for loss in entry.outputs["heldout"].values()]
        return sum(losses) / len(losses)

    for run in (unhelped, finished):
        done = entries(run.out)
        for stage in summarise(run.out).stages:
            before = done.get(f"{stage.name}/measure-cut") or done["depth/measure"]
            assert mean(done[f"{stage.name}/measure"]) <= mean(before)
    done = entries(unhelped.out)
    assert done["more/measure"].outputs["heldout"] == done["depth/measure-cut"].outputs["heldout"]


def test_it_is_said_which_weights_are_kept(unhelped: Finished) -> None:
    said = "\n".join(unhelped.said)
    for name in ("depth", "more"):
        assert f"{name}: recovery made domain worse: " in said
        assert f"{name}: recovery did not help on average (" in said
        assert f"the trained weights are in {unhelped.out}/stages/{name}/trained" in said
    assert "width: recovery did not help" not in said
    page = (unhelped.out / "report.html").read_text(encoding="utf-8")
    assert page.count("not kept") == 2
    assert "the trained weights are in stages/more/trained" in page


@pytest.mark.parametrize(
    ("stage", "within"),
    [("depth", "keep_untrained"), ("depth", "save_trained"), ("depth", "facts"),
     ("more", "save_trained")],
)  # fmt: skip
def test_stopped_while_the_weights_from_before_are_kept_it_ends_in_the_same_bits(
    unhelped: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, within: str
) -> None:
    out = tmp_path / "run"
    lines_of = (unhelped.out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    out.mkdir()
    before = list(entries(unhelped.out)).index(f"{stage}/recover")
    (out / "ledger.jsonl").write_bytes(b"".join(lines_of[:before]))
    if stage == "more":
        shutil.copytree(unhelped.out / "stages/depth", out / "stages/depth")

    places = {
        "keep_untrained": "regrow.pipeline.run.keep_untrained",
        # As `keep_untrained` finds it; `regrow.training.trainee` writes the trained weights.
        "save_trained": "regrow.checkpoint.trained_weights.save_trained",
        "facts": "regrow.checkpoint.model_directory.ModelDirectory.facts",
    }

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(places[within], stop)
        if within == "facts":  # recording the recipe needs none
            patch.setattr("regrow.pipeline.run.record_inputs", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            go(unhelped.recipe, out)
    assert f"{stage}/recover" not in entries(out)
    assert any((out / f"stages/{stage}/training").iterdir())
    go(unhelped.recipe, out)
    assert_same_result(out, unhelped.out)


def test_killed_while_the_weights_from_before_are_kept_it_ends_in_the_same_bits(
    unhelped: Finished, forks: Any, tmp_path: Path
) -> None:
    recipe, out = written(unhelped, tmp_path), tmp_path / "run"
    assert killed(forks, recipe, out, (out / "stages/depth/trained").exists)
    go(unhelped.recipe, out)
    assert_same_result(out, unhelped.out)


def test_a_recovery_that_helps_after_all_leaves_nothing_of_the_other(
    unhelped: Finished, tmp_path: Path
) -> None:
    out, stages = unhelped.copied(tmp_path / "run"), copy.deepcopy(unhelped.recipe["stages"])
    stages[0]["recover"]["learning_rate"] = 0.01
    go({**unhelped.recipe, "stages": stages}, out, redo=True)
    assert entries(out)["depth/recover"].outputs["kept"] == "trained"
    assert not (out / "stages/depth/trained").exists()


def test_other_heldout_texts_change_no_weights_that_were_kept(
    unhelped: Finished, tmp_path: Path
) -> None:
    out = unhelped.copied(tmp_path / "run")
    text = str(unhelped.home / "more.jsonl")
    go(unhelped.changed(("data.heldout.other", text)), out, redo=True)
    before, after = entries(unhelped.out), entries(out)
    assert after["more/recover"] == before["more/recover"]
    other = {name: after[name].outputs["heldout"]["other"] for name in after if "/measure" in name}
    assert other["more/measure"] == other["depth/measure"] == other["depth/measure-cut"]
    assert other["more/measure"] != before["more/measure"].outputs["heldout"]["other"]
    assert other["width/measure"] != other["width/measure-cut"]
    outcome = summarise(out).stages[1].outcome
    assert outcome is not None
    assert list(outcome.texts) == ["domain"]


# Encoder-decoders and comparisons


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An OpenBA in two cuts and a recovery without a cut, beside both comparisons."""
    home = tmp_path_factory.mktemp("seq2seq")
    write_seq2seq(home / "m", OPENBA)
    write_text(home / "train.jsonl", sentences(40))
    text = sentences(4, seed=1)
    write_text(home / "heldout.jsonl", [*text, " ".join(text)])
    cut = {"calibration_tokens": 512}
    recipe: Recipe = {
        "name": "tiny", "model": str(home / "m"), "seed": 3, "threads": 1,
        "data": {"train": str(home / "train.jsonl"),
                 "heldout": {"domain": str(home / "heldout.jsonl")}},
        "prompts": ["The river"], "answer_tokens": 3,
        "stages": [
            {"name": "depth", "cut": {"layers": {"encoder": 2, "decoder": 3}, **cut},
             "recover": recover(320, evaluate_every=128)},
            {"name": "width", "cut": {"ffn": 256, "hidden": 16, "heads": 2, **cut},
             "recover": recover(128)},
            {"name": "longer", "recover": recover(128)},
        ],
    }  # fmt: skip
    result = go(recipe, home / "run", compare=["control", "at-once"])
    return Finished(home, recipe, home / "run", result, [], [])


def test_an_encoder_decoder_is_cut_and_recovered(filled: Finished) -> None:
    done = entries(filled.out)
    assert list(done)[5:] == [
        "depth/carve", "depth/measure-cut", "depth/recover", "depth/measure", "depth/answers",
        "width/carve", "width/measure-cut", "width/recover", "width/measure", "width/answers",
        "longer/recover", "longer/measure", "longer/answers",
        "control/recover", "control/measure",
        "at-once/carve", "at-once/measure-cut", "at-once/recover", "at-once/measure", "speed",
    ]  # fmt: skip
    for name in ("depth/measure", "width/measure", "longer/measure", "at-once/measure"):
        domain = done[name].outputs["heldout"]["domain"]
        assert 0 < domain["bits_per_byte"] < 20
        assert 0 < domain["loss_per_token"] < 20
    config = json.loads((filled.result.model / "config.json").read_text())
    assert (config["num_layers"], config["num_decoder_layers"]) == (2, 3)
    assert config["auto_map"]["AutoConfig"] == "configuration_openba.OpenBAConfig"
    assert regrow.verify(filled.result.model).ok
    assert regrow.generate(filled.result.model, "The river", max_new_tokens=2) is not None


def test_the_comparisons_have_the_same_sizes_and_tokens(filled: Finished) -> None:
    summary = summarise(filled.out)
    rows = {row.name: row for row in summary.models}
    assert [row.role for row in summary.models] == ["original", *["stage"] * 3, *["comparison"] * 2]
    assert rows["at-once"].parameters == rows["longer"].parameters
    assert rows["control"].parameters == rows["original"].parameters
    assert rows["at-once"].after_cut.keys() == rows["at-once"].after_recovery.keys() == {"domain"}
    done = entries(filled.out)
    budget = sum(done[f"{name}/recover"].outputs["tokens"] for name in ("depth", "width", "longer"))
    for name in ("control", "at-once"):
        assert done[f"{name}/recover"].outputs["tokens"] == pytest.approx(budget, abs=128)
    stages = {stage.name: stage for stage in summary.stages}
    assert list(stages) == ["depth", "width", "longer"]
    assert stages["longer"].cut == ""
    assert stages["longer"].done
    page = (filled.out / "report.html").read_text(encoding="utf-8")
    assert "all cuts made in one" in page
    assert "what is taken out of the text" in page


@pytest.mark.parametrize("within", ["longer", "control", "at-once"])
def test_killed_within_a_comparison_it_ends_in_the_same_bits(
    filled: Finished, forks: Any, tmp_path: Path, within: str
) -> None:
    """From what stood before that training, killed after its first step."""
    out, whole = tmp_path / "run", list(entries(filled.out))
    lines_of = (filled.out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    before = whole.index(f"{within}/recover")
    out.mkdir()
    (out / "ledger.jsonl").write_bytes(b"".join(lines_of[:before]))
    for name in {step.partition("/")[0] for step in whole[:before]} - {within, *SAME}:
        shutil.copytree(filled.out / "stages" / name, out / "stages" / name)
    recipe = filled.changed(("stages.longer.recover.save_every", 0))
    path = written(filled, tmp_path, recipe)
    training = out / "stages" / within / "training"
    compare = ("control", "at-once") if within != "longer" else ()
    assert killed(forks, path, out, saved_after(training, 0), compare)
    assert f"{within}/recover" not in entries(out)
    regrow.run(path, out, compare=compare)
    result = f"stages/{within}/model/model.safetensors"
    assert (out / result).read_bytes() == (filled.out / result).read_bytes()


def test_comparisons_that_a_change_invalidates_are_named(filled: Finished, tmp_path: Path) -> None:
    out = filled.copied(tmp_path / "run")
    longer = filled.changed(("stages.longer.recover.learning_rate", 0.02))
    with pytest.raises(UserError, match=r"longer, control \(dropped\), at-once \(dro"):
        go(longer, out)
    with pytest.raises(UserError, match=r"longer, control \(dropped\), at-once;"):
        go(longer, out, compare=["at-once"])
    said: list[str] = []
    go(longer, out, compare=["at-once"], redo=True, progress=Progress(say=said.append))
    assert any("control (dropped)" in line for line in said)
    assert "at-once/measure" in entries(out)
    assert "control/recover" not in entries(out)


def test_a_half_done_training_is_not_lost_when_its_stage_is_renamed(
    filled: Finished, forks: Any, tmp_path: Path
) -> None:
    lines_of = (filled.out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    out = tmp_path / "run"
    for name in ("depth", "width"):
        shutil.copytree(filled.out / "stages" / name, out / "stages" / name)
    (out / "ledger.jsonl").write_bytes(b"".join(lines_of[:15]))
    recipe = filled.changed(("stages.longer.recover.save_every", 0))
    training = out / "stages/longer/training"
    assert killed(forks, written(filled, tmp_path, recipe), out, saved_after(training, 0))
    recipe["stages"][2]["name"] = "long"
    with pytest.raises(UserError, match=r"longer is no longer there.*invalidates longer"):
        go(recipe, out)
    assert any(training.iterdir())
    go(recipe, out, redo=True)
    assert not training.exists()


@pytest.mark.parametrize(
    ("stages", "compare", "message"),
    [
        ([{"name": "a", "cut": {"layers": 3}, "recover": recover(64)}], "at-once",
         "compare.at-once: the recipe makes fewer than two cuts"),
        ([{"name": "a", "cut": {"layers": 4}, "recover": recover(64)},
          {"name": "b", "cut": {"ffn": 48}}], "at-once", "stages: a: cut.layers 4: nothing is cut"),
        ([{"name": "a", "cut": {"layers": 3}}], "control", "compare.control: the recipe recov"),
    ],
)  # fmt: skip
def test_a_comparison_with_nothing_to_compare_is_refused(
    finished: Finished, tmp_path: Path, stages: list[Any], compare: str, message: str
) -> None:
    recipe = finished.changed(("stages", stages), ("prompts", []))
    with pytest.raises(UserError, match=message):
        go(recipe, tmp_path / "new", compare=[compare])
    assert not (tmp_path / "new").exists()


def test_too_few_sentinels_are_said_before_work(filled: Finished, tmp_path: Path) -> None:
    recipe = filled.changed(
        ("stages.longer.recover", recover(400, row_length=400, batch_tokens=400))
    )
    with pytest.raises(
        UserError, match=r"stages: longer: recover: 400 tokens .* 8 sent.* at most \d+ tokens"
    ):
        go(recipe, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_original_as_published_is_trained_with_its_code(filled: Finished) -> None:
    control = filled.out / "stages/control/model"
    assert (control / "modeling_openba.py").is_file()
    assert json.loads((control / "config.json").read_text())["auto_map"]


# The report


def test_a_run_can_be_reported_after_every_step(finished: Finished, tmp_path: Path) -> None:
    whole = (finished.out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(1, len(whole) + 1):
        (tmp_path / "ledger.jsonl").write_bytes(b"".join(whole[:count]) + b'{"torn')
        page = regrow.write_report(tmp_path)
        assert page.stat().st_size > 5_000
        summary = summarise(tmp_path)
        done = [stage.name for stage in summary.stages if stage.done]
        assert done == [n for n in ("depth", "width", "vocabulary")
                        if f"{n}/measure" in ALL[:count]]  # fmt: skip
        assert len(summary.models) == 1 + len(summary.stages)
    (tmp_path / "ledger.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="no run was begun here"):
        summarise(tmp_path)


def test_a_run_without_recovery(finished: Finished, tmp_path: Path) -> None:
    stages = [{"name": "depth", "cut": {"drop_layers": "1-2"}}]
    result = go(finished.changed(("stages", stages), ("prompts", [])), tmp_path / "run")
    assert result.model.resolve() == (tmp_path / "run/stages/depth/model").resolve()
    config = json.loads((result.model / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    (stage,) = summarise(result.directory).stages
    assert (stage.done, stage.recovery, stage.curve) == (True, "", ())
    original, row = summarise(result.directory).models
    assert row.after_cut.keys() == original.after_recovery.keys()
    assert row.after_recovery == {}
    assert row.speed is not None
    go(finished.changed(("stages", stages), ("prompts", [])), tmp_path / "run")
    assert "control/recover" not in entries(tmp_path / "run")


def test_layers_that_a_cut_trains_are_told(finished: Finished, tmp_path: Path) -> None:
    cut: dict[str, Any] = {"drop_layers": "1-2", "calibration_tokens": 2_048}
    work: list[float] = []
    for passes in (0, 6):
        stages = [{"name": "depth", "cut": {**cut, "refit_passes": passes}}]
        recipe = finished.changed(("stages", stages), ("prompts", []))
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        plan = plan_run(load_recipe(tmp_path / "r.yaml"), tmp_path / "o", RunOptions(), QUIET)
        (carving,) = (each for each in step_work(plan) if each.step == "depth/carve")
        work.append(carving.amount)
    trained = 6 * 2_048 * 4 * plan.stages["depth"].parameters
    assert work[1] == pytest.approx(work[0] + trained)
    result = go(recipe, tmp_path / "run")
    (stage,) = summarise(result.directory).stages
    carved = entries(tmp_path / "run")["depth/carve"].outputs["refitted"]
    assert stage.layers_trained == sum(each["trained"] for each in carved) > 0
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert f"{stage.layers_trained} layers trained alone" in page


def test_a_refit_that_rounds_differently_on_another_machine_is_recorded_anew(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut is needed again for a changed recovery, and its files are gone."""
    out = finished.copied(tmp_path / "run")
    recorded = entries(out)["depth/carve"]
    assert recorded.outputs["refitted"]
    # On the machine of the first run, the sums of the refit were of another precision.
    lines = (out / "ledger.jsonl").read_text()
    (out / "ledger.jsonl").write_text(
        lines.replace(recorded.outputs["fingerprint"], "sha256:" + "0" * 64)
    )
    changed = finished.changed(("stages.depth.recover.tokens", 192))
    go(changed, out, redo=True)
    again = entries(out)
    assert again["depth/carve"].outputs["fingerprint"] == recorded.outputs["fingerprint"]
    assert again["depth/measure-cut"].started > recorded.started
