"""What cannot be run is refused before anything is written."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import regrow
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import Progress, Update
from tests.pipeline.runs import Finished, Recipe, contents, go, recover, written
from tests.tiny import write_tiny


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
    yield "stack", second(ffn={"decoder": 8}), "stages: b: cut.ffn decoder=8: llama has one s"
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
    # The checkpoints of adapters are small.
    stages[0]["recover"] |= {"lora": {"rank": 1}}
    with pytest.raises(UserError, match="full"):
        go(finished.changed(("model", str(source)), ("stages", stages)), tmp_path / "new")
    assert needed[2] == 3 * result + beside


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
