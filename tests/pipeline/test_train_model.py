"""regrow train: one training, from options or a recipe, alone or under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from regrow import UserError, api
from regrow.checkpoint.history import read_history
from regrow.cli import app
from regrow.common.progress import Progress, Update
from regrow.corpus.text import read_documents
from regrow.models.loading import load_model, load_tokenizer
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.recipe import Recipe
from regrow.pipeline.run_plan import RunOptions
from regrow.pipeline.train_model import _alone, train_model, training_recipe
from tests.tiny import sentences, write_model, write_text

torch.set_num_threads(1)
FILES = {"model", "stages", "ledger.jsonl", "lock", "report.html", "finished.json"}
SETTINGS: dict[str, Any] = {
    "tokens": 1200, "row_length": 32, "batch_tokens": 128, "learning_rate": 0.01,
    "precision": "fp32", "export_every": 500,
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "tiny")
    write_text(home / "text.jsonl", sentences(60))
    write_text(home / "heldout.jsonl", sentences(6, seed=5))
    return home


def recipe(home: Path, seed: int = 3, **changes: Any) -> Recipe:
    return training_recipe(
        str(home / "tiny"), [home / "text.jsonl"], home / "heldout.jsonl", SETTINGS | changes, seed
    )


def options(home: Path) -> list[str]:
    """The same on the command line."""
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    texts = [f"--text={home / 'text.jsonl'}", f"--heldout={home / 'heldout.jsonl'}"]
    return [str(home / "tiny"), *texts, *settings, "--seed=3"]


@pytest.fixture(scope="module")
def trained(home: Path) -> Path:
    result = CliRunner().invoke(app.app, ["train", *options(home), str(home / "out"), "--json"])
    assert result.exit_code == 0, result.output
    return home / "out"


def test_names_of_special_tokens_are_tokens_if_the_recipe_says_so(
    home: Path, tmp_path: Path
) -> None:
    """In training text and held-out text, and then it is another training."""
    text = write_text(tmp_path / "text.jsonl", [f"{each}<eos>" for each in sentences(20)])
    heldout = write_text(tmp_path / "heldout.jsonl", ["A river.<eos>A road."])
    tokenizer = load_tokenizer(home / "tiny")
    tiny = {"tokens": 32, "row_length": 32, "batch_tokens": 32, "evaluate_every": 16}

    def train(*, special_tokens: bool) -> None:
        given = training_recipe(
            str(home / "tiny"), [text], heldout, tiny, special_tokens=special_tokens
        )
        train_model(given, tmp_path / "out", options=RunOptions())

    train(special_tokens=True)
    found = read_entries(tmp_path / "out/ledger.jsonl")
    wanted = [
        sum(len(tokenizer(each, add_special_tokens=False)["input_ids"]) for each in documents)
        for documents in (read_documents(text), read_documents(heldout))
    ]
    assert [each["tokens"] for each in found["texts"].outputs["texts"]] == wanted
    measured = found["train/measure"].outputs["heldout"]["heldout"]
    assert measured["tokens"] == wanted[1]
    (_, during), *_ = found["train/recover"].outputs["heldout_curve"]
    assert during["heldout"] == pytest.approx(measured["loss_per_token"], rel=1e-3)
    with pytest.raises(UserError, match="the recipe changed"):
        train(special_tokens=False)


def outputs(out: Path, kind: str = "recover", stage: str = "train") -> Any:
    """What the ledger says of a step."""
    return read_entries(out / "ledger.jsonl")[f"{stage}/{kind}".rstrip("/")].outputs


def test_a_model_is_trained_and_plain(home: Path, trained: Path) -> None:
    known = outputs(trained)
    losses = [loss for _, loss in known["curve"]]
    assert losses[-1] < losses[0] - 0.3
    assert known["tokens"] >= 1200
    heldout = outputs(trained, "measure")["heldout"]["heldout"]["loss_per_token"]
    before = outputs(trained, "measure", "original")["heldout"]["heldout"]["loss_per_token"]
    assert heldout < before - 0.3
    load_tokenizer(trained / "model")
    ours, theirs = load_model(trained / "model").state_dict(), load_model(home / "tiny")
    assert ours.keys() == theirs.state_dict().keys()
    assert {path.name for path in trained.iterdir()} == FILES
    stage = trained / "stages/train"
    assert {path.name for path in stage.iterdir()} == {"model", "exports", "tensorboard"}
    assert (trained / "model").readlink() == Path("stages/train/model")
    assert "held out" in (trained / "report.html").read_text()


def test_exports_are_models_on_the_way(home: Path, trained: Path) -> None:
    paths = sorted((trained / "stages/train/exports").iterdir())
    assert [path.name for path in paths] == ["step-00000004", "step-00000008"]
    one, other, last = (load_model(path).lm_head.weight for path in (*paths, trained / "model"))
    assert not torch.equal(one, other)
    assert not torch.equal(other, last)
    trained_on = [
        read_history(path / "regrow_history.json").steps[0].words.partition(";")[0]
        for path in (*paths, trained / "model")
    ]
    assert trained_on[:2] == ["512 tokens, objective causal", "1,024 tokens, objective causal"]
    assert trained_on[2].startswith("1,2")


def test_an_export_says_how_many_tokens_were_trained(home: Path, tmp_path: Path) -> None:
    """A step of at most 100 tokens has three rows of 32."""
    changed = recipe(home, batch_tokens=100, tokens=400, export_every=300)
    api.train(changed, tmp_path / "out")
    (path,) = (tmp_path / "out/stages/train/exports").iterdir()
    words = read_history(path / "regrow_history.json").steps[0].words
    assert (path.name, words.partition(";")[0]) == (
        "step-00000004", "384 tokens, objective causal"
    )  # fmt: skip


def test_a_training_that_is_done_is_not_done_again(home: Path, trained: Path) -> None:
    said: list[str] = []
    before = (trained / "ledger.jsonl").read_bytes()
    result = api.train(recipe(home), trained, progress=Progress(say=said.append))
    assert len(said) == 1
    assert said[0].startswith(f"finished already: {trained / 'model'}, {trained / 'report.html'}")
    assert (trained / "ledger.jsonl").read_bytes() == before
    assert result.model == trained / "model"
    assert result.tokens >= 1200
    assert result.heldout[-1][0] == result.tokens


def test_another_training_is_not_mixed_with_it(home: Path, trained: Path) -> None:
    changed = recipe(home, learning_rate=0.1)
    with pytest.raises(UserError, match=r"changed \(train.recover.learning_rate: 0.01 -> 0.1\)"):
        api.train(changed, trained)
    with pytest.raises(UserError, match="so it is no run"):
        api.train(recipe(home), home)


def test_a_changed_training_is_done_again_where_that_is_asked_for(
    home: Path, tmp_path: Path
) -> None:
    api.train(recipe(home), tmp_path / "out")
    result = api.train(recipe(home, tokens=256), tmp_path / "out", redo=True)
    assert result.tokens == 256


def drawn(out: Path) -> list[tuple[int, float]]:
    """The losses that TensorBoard draws."""
    events = EventAccumulator(str(out / "stages/train/tensorboard"))
    events.Reload()
    assert events.Scalars("speed/tflops_per_device")[0].value > 0
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def approximately(curve: list[list[float]]) -> list[tuple[int, Any]]:
    return [(step, pytest.approx(loss, rel=1e-4)) for step, (_, loss) in enumerate(curve, start=1)]


class StopError(Exception):
    pass


def test_a_training_that_was_stopped_goes_on(home: Path, trained: Path, tmp_path: Path) -> None:
    steps: list[str] = []

    def note(update: Update) -> None:
        if update.doing.startswith("step"):
            steps.append(update.doing)

    def stop(update: Update) -> None:
        note(update)
        if len(steps) == 5:
            raise StopError

    settings = {"save_every": 0}
    with pytest.raises(StopError):
        api.train(recipe(home, **settings), tmp_path / "out", progress=Progress(update=stop))
    result = api.train(recipe(home, **settings), tmp_path / "out", progress=Progress(update=note))
    assert steps == [f"step {number} of 10" for number in range(1, 11)]
    whole = outputs(trained)
    assert [list(point) for point in result.curve] == whole["curve"]
    assert drawn(tmp_path / "out") == drawn(trained) == approximately(whole["curve"])
    for one, other in zip(
        load_model(result.model).parameters(), load_model(trained / "model").parameters(),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(one, other)


def test_pre_training_needs_no_weights(home: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in (home / "tiny").iterdir():
        if path.suffix != ".safetensors":
            (bare / path.name).write_bytes(path.read_bytes())
    made = [
        api.train(
            recipe(home, seed).model_copy(update={"model": str(bare)}), tmp_path / name,
            from_scratch=True,
        )
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]  # fmt: skip
    assert made[0].curve == made[1].curve
    assert made[0].curve != made[2].curve
    assert made[0].curve[-1][1] < made[0].curve[0][1]
    assert load_tokenizer(made[0].model).eos_token_id == 2
    # Another architecture in the same directory is not the model of before.
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    other = recipe(home).model_copy(update={"model": str(bare)})
    with pytest.raises(UserError, match="the recipe changed"):
        api.train(other, tmp_path / "a", from_scratch=True)
    again = api.train(other, tmp_path / "a", from_scratch=True, redo=True)
    assert load_model(again.model).config.num_hidden_layers == 1


def test_a_renamed_heldout_text_has_no_earlier_losses(home: Path, tmp_path: Path) -> None:
    first = recipe(home, evaluate_every=400)
    before = api.train(first, tmp_path / "out")
    assert len(before.heldout) > 2
    assert len({tokens for tokens, _ in before.heldout}) == len(before.heldout)
    data = first.data.model_copy(update={"heldout": {"renamed": home / "heldout.jsonl"}})
    renamed = first.model_copy(update={"data": data})
    after = api.train(renamed, tmp_path / "out", redo=True)
    assert after.heldout == [before.heldout[0], before.heldout[-1]]


def test_exports_of_an_earlier_training_go(home: Path, tmp_path: Path) -> None:
    api.train(recipe(home), tmp_path / "out")
    exports = tmp_path / "out/stages/train/exports"
    assert exports.is_dir()
    api.train(recipe(home, export_every=None, learning_rate=0.02), tmp_path / "out", redo=True)
    assert not exports.exists()


def test_the_recipe_is_in_the_report(home: Path, tmp_path: Path) -> None:
    text = {
        "name": "known-by-this-name", "model": str(home / "tiny"),
        "data": {
            "train": [str(home / "text.jsonl")], "heldout": {"h": str(home / "heldout.jsonl")},
        },
        "stages": [{"name": "only", "recover": {**SETTINGS, "tokens": 128}}],
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(text))
    done = CliRunner().invoke(app.app, ["train", str(path), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "name: known-by-this-name" in (tmp_path / "out/report.html").read_text()
    text["data"]["heldout"] = {"heldout": "none.txt"}  # type: ignore[index]
    path.write_text(yaml.safe_dump(text))
    done = CliRunner().invoke(app.app, ["train", str(path), str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "data.heldout.heldout: " in done.output


def test_a_recipe_with_a_stage_that_only_trains(home: Path, tmp_path: Path) -> None:
    text = {
        "name": "small", "model": "tiny", "seed": 3,
        "data": {"train": "text.jsonl", "heldout": {"domain": "heldout.jsonl"}},
        "stages": [
            {"name": "cut", "cut": {"layers": 2}, "recover": SETTINGS},
            {"name": "more", "recover": SETTINGS},
        ],
    }  # fmt: skip
    path = home / "recipe.yaml"
    path.write_text(yaml.safe_dump(text))
    with pytest.raises(UserError, match=r"stage: which of them.* cut, more"):
        api.train(path, tmp_path / "out")
    with pytest.raises(UserError, match="stages: cut: cuts; regrow run does"):
        api.train(path, tmp_path / "out", stage="cut")
    result = api.train(path, tmp_path / "out", stage="more")
    assert len(result.curve) == 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--set", "tokns=5"], "--set tokns: unknown"),
        (["--set", "tokens=many"], "--set tokens: a whole number is wanted, not 'many'"),
        (["--set", "tokens"], "--set tokens: not KEY=VALUE"),
        (["--set", "tokens=["], "--set tokens=[: not a value"),
        (["--set", "track=wandbb"], "--set track: tensorboard, wandb or trackio is wanted"),
        (["--set", "tokens=9", "--set", "tokens.b=1"], "--set tokens.b=1: another --set gives"),
        (["--set", "replicas=2"], "--set replicas 2: one process has nobody"),
        (["--text", "none.txt"], "--text: none.txt:"),
        (["--heldout", "none.txt"], "--heldout: none.txt:"),
        (["--stage", "x"], "--stage: only a recipe has stages"),
        (["--set", "row_length=9000", "--set", "batch_tokens=9000"], "regrow: --text: 1,"),
        (["--set", "domains=dynamic"], "regrow: --set domains: data.train has no shares"),
    ],
)
def test_what_is_wrong_is_said(home: Path, tmp_path: Path, given: list[str], message: str) -> None:
    result = CliRunner().invoke(app.app, ["train", *options(home), *given, str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out" / "model").exists()


def test_under_torchrun_one_process_speaks_and_writes(home: Path, trained: Path) -> None:
    out = home / "together"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            "-m", "regrow", "train", *options(home), str(out),
        ],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model ") == 1
    ours, alone = outputs(out), outputs(trained)
    assert [tokens for tokens, _ in ours["curve"]] == [tokens for tokens, _ in alone["curve"]]
    losses = [loss for _, loss in ours["curve"]]
    assert losses == pytest.approx([loss for _, loss in alone["curve"]], rel=1e-4)
    heldout = [
        outputs(directory, "measure")["heldout"]["heldout"]["loss_per_token"]
        for directory in (out, trained)
    ]
    assert heldout[0] == pytest.approx(heldout[1], rel=1e-4)
    assert {path.name for path in out.iterdir()} == FILES
    assert drawn(out) == approximately(alone["curve"])
    load_model(out / "stages/train/exports/step-00000004")


def test_a_training_that_does_not_help_is_said(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "out"
    given = [f"--{name}={home / file}" for name, file in
             (("text", "text.jsonl"), ("heldout", "heldout.jsonl"))]  # fmt: skip
    settings = [f"--set={key}={value}" for key, value in (SETTINGS | {"tokens": 256}).items()]
    command = ["train", str(home / "tiny"), *given, *settings, "--set=learning_rate=3.0", str(path)]
    result = CliRunner().invoke(app.app, command)
    assert result.exit_code == 0, result.output
    assert "training made heldout worse: " in result.output
    assert (
        "training did not help, so the model has the weights from before; the trained weights are "
        f"in {path}/stages/train/trained" in result.output
    )
    recorded = outputs(path)
    assert recorded["fingerprint"] == outputs(path, "", "original")["fingerprint"]
    bits = recorded["trained"]["heldout"]["heldout"]["bits_per_byte"]
    assert f"-> {bits:.4f} bits per byte" in result.output


def test_a_stage_with_conversations_of_its_own_lets_nothing_be_written() -> None:
    written = {"name": "own", "model": "original", "tokens": 900}
    answers = {
        "name": "chat", "data": {"train": "chat.jsonl"},
        "recover": {"objective": "instructions", "tokens": 96, "row_length": 48},
    }  # fmt: skip
    recipe = Recipe.model_validate(
        {
            "name": "two", "model": "m", "data": {"train": ["a.txt", written]},
            "stages": [{"name": "text", "recover": {"tokens": 96, "row_length": 48}}, answers],
        }
    )  # fmt: skip
    text, chat = recipe.stages
    assert _alone(recipe, text).data.written is not None
    alone = _alone(recipe, chat)
    assert alone.data.written is None
    assert alone.data.train_paths == recipe.data.train_paths
    assert alone.stages == [chat]
