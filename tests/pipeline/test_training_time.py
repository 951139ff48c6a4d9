"""What a plan, a preview and a run say about time."""

from pathlib import Path

import pytest
import yaml

import regrow
from regrow.architectures import Layout, bind
from regrow.architectures.flops import SampleShape, forward_flops, training_flops
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.vocabulary_blueprint import vocabulary_blueprint
from regrow.cli.preview_tables import total_words
from regrow.pipeline import training_time
from regrow.pipeline.proposed_training import OwnText, own_text, tokens_of_recovery
from regrow.pipeline.training_time import StageTime, StageTraining, TrainingTime, time_of
from regrow.surgery.plan import Plan
from regrow.training.settings import RecoverySettings
from regrow.training.speed import Speed
from tests.tiny import sentences, write_model, write_text, write_tiny

RECIPE = """
name: small
model: m
data: {train: train.txt, heldout: {other: heldout.txt}}
stages:
  - {name: a, cut: {layers: 3, by: random, refit: false}, recover: {tokens: 256, row_length: 64}}
  - name: b
    cut: {ffn: 32, by: magnitude, refit: false}
    recover: {tokens: 128, row_length: 64, distill: {from: original}}
"""
RATE = 1e6
TURNED = 1.25
"""The time of a layer whose updates follow the directions of its inputs."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and a recipe, on a machine with a known speed."""
    write_model(tmp_path / "m")
    write_text(tmp_path / "train.txt", sentences(40))
    write_text(tmp_path / "heldout.txt", sentences(3, seed=1))
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.setattr(training_time, "_LEAST_FLOPS", 0.0)
    monkeypatch.setattr(training_time, "measure_speed", lambda *_, **__: Speed(RATE, RATE))
    return tmp_path


def hours(tokens: int, seconds: float, *, tried: bool, alone: float = 0.0) -> TrainingTime:
    return TrainingTime(tokens, (StageTime(seconds, alone),), tried)


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (hours(4_200_000, 10_000.0, tried=True), "about 2.8 h on this machine, at 420 tokens/s"),
        (hours(10**9, 10**8, tried=False),
         "at least 3.2 years on this machine, at most 10.0 tokens/s"),
        (hours(4_200, 10.0, tried=True, alone=600.0),
         "about 10 s on this machine, at 420 tokens/s; about 10 min in which cuts train single "
         "layers"),
        (hours(0, 0.0, tried=False, alone=600.0),
         "at least 10 min in which cuts train single layers"),
    ],
)  # fmt: skip
def test_words(time: TrainingTime, words: str) -> None:
    assert time.words().replace("\u00a0", " ") == words


def test_layers_are_trained_alone_at_the_speed_of_the_cpu(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut uses no GPU."""
    before, said = regrow.plan(home / "m", params="60%"), list[str]()
    monkeypatch.setattr(training_time, "_has_gpu", lambda: True)
    monkeypatch.setattr(
        training_time, "measure_speed",
        lambda *_, on_cpu: Speed(RATE, RATE) if on_cpu else Speed(9 * RATE, 9 * RATE),
    )  # fmt: skip
    layout = ModelDirectory(home / "m").layout
    forward = forward_flops(layout, SampleShape(512, decoder=512))
    alone = [StageTraining(layout, alone_tokens=512), StageTraining(layout, alone_tokens=1_024)]
    found = time_of(layout, alone, notify=said.append)
    assert found is not None
    assert said == ["trying how fast this machine trains on its CPU"]
    settings = RecoverySettings(tokens=512)
    recovery = StageTraining(layout, settings)
    both = time_of(layout, [*alone, recovery], notify=said.append)
    assert both is not None
    assert both.stages[:2] == found.stages
    assert both.seconds == pytest.approx(3 * forward.total / (9 * RATE))
    assert said[1:] == ["trying how fast this machine trains", said[0]]
    first = TURNED * 3 * (forward.total - forward.head) / RATE
    assert [stage.alone for stage in found.stages] == [pytest.approx(first * n) for n in (1, 2)]
    assert found.alone == pytest.approx(3 * first)
    monkeypatch.setattr("regrow.surgery.refitting.layer_training.STEP_TOKENS", 1)
    wide = time_of(layout, alone, notify=said.append)
    assert wide is not None
    assert wide.alone == pytest.approx(3 * first / TURNED)
    after = regrow.plan(home / "m", params="60%")
    assert [9 * each for each in after.recovery_seconds] == pytest.approx(before.recovery_seconds)


def test_a_training_of_a_model_without_a_blueprint_takes_time(home: Path) -> None:
    """Such a layout has no hidden size."""
    checkpoint = ModelDirectory(home / "m").checkpoint
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    layout = bind(vocabulary_blueprint(checkpoint.config, shapes), checkpoint.config, shapes)
    training = StageTraining(layout, RecoverySettings(tokens=512))
    found = time_of(layout, [training])
    assert found is not None
    assert found.seconds == pytest.approx(training.flops / RATE)
    assert found.alone == 0


def test_a_preview_says_how_long_it_takes(home: Path) -> None:
    found = regrow.preview(home / "r.yaml")
    assert found.time is not None
    assert found.time.tokens == 384
    assert found.time.seconds == pytest.approx(found.flops / RATE)
    trainings = [stage.training for stage in found.stages]
    assert [t and t.seconds for t in trainings] == [
        pytest.approx(t.flops / RATE) for t in trainings if t
    ]
    assert f"time: {found.time.words()}" in list(total_words(found))


def test_what_takes_seconds_is_not_timed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_time, "_LEAST_FLOPS", 1e12)
    found = regrow.preview(home / "r.yaml")
    assert found.time is None
    assert not any(line.startswith("time:") for line in total_words(found))
    assert regrow.plan(home / "m", params="60%").recovery_seconds == ()


def test_a_run_says_how_long_its_trainings_take(home: Path) -> None:
    time, said = regrow.preview(home / "r.yaml").time, list[str]()
    assert time is not None
    regrow.run(home / "r.yaml", home / "out", progress=regrow.Progress(say=said.append))
    words = [line for line in said if line.startswith("training: ")]
    assert words == [f"training: 384 tokens, {time.words()}"]
    said.clear()  # nothing is left to train
    regrow.run(home / "r.yaml", home / "out", progress=regrow.Progress(say=said.append))
    assert not any(line.startswith("training: ") for line in said)


@pytest.mark.parametrize("recovers", [True, False])
def test_layers_that_cuts_train_alone_take_time(home: Path, recovers: bool) -> None:
    recover = {"recover": {"tokens": 256, "row_length": 64}} if recovers else {}
    cut = {"drop_layers": "1-2", "refit_passes": 3, "calibration_tokens": 4_096}
    recipe = yaml.safe_load(RECIPE) | {"stages": [{"name": "a", "cut": cut, **recover}]}
    (home / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    write_text(home / "train.txt", sentences(300))
    layout = ModelDirectory(home / "m").layout.resized({"layer": 2})
    forward = forward_flops(layout, SampleShape(512, decoder=512))
    alone = TURNED * 3 * (forward.total - forward.head) / RATE * 3 * 4_096 / 512
    found = regrow.preview(home / "r.yaml")
    assert found.time is not None
    assert found.time.alone == pytest.approx(alone)
    assert found.time.tokens == 256 * recovers
    assert f"time: {found.time.words()}" in list(total_words(found))
    said = list[str]()
    regrow.run(home / "r.yaml", home / "out", progress=regrow.Progress(say=said.append))
    of = "256 tokens, " if recovers else ""
    assert f"training: {of}{found.time.words()}" in said


def test_a_plan_says_how_long_it_takes(home: Path) -> None:
    plan = regrow.plan(home / "m", params="60%")
    assert plan.recovery_tokens == (50_000,) * len(plan.stages)
    layout_flops = [
        training_flops(layout, SampleShape(512, decoder=512), 50_000)
        for layout in _layouts(home / "m", plan)
    ]
    assert plan.recovery_seconds == tuple(pytest.approx(f / RATE) for f in layout_flops)
    assert plan.recipe.count("on the machine that planned this") == len(plan.stages)
    (note,) = [note for note in plan.notes if note.startswith("recovery: ")]
    assert "on this machine" in note


def _layouts(model: Path, plan: Plan) -> list[Layout]:
    layout = ModelDirectory(model).layout
    found = []
    for stage in plan.stages:
        layout = layout.resized(stage.sizes)
        found.append(layout)
    return found


@pytest.mark.parametrize(
    ("parameters", "tokens"),
    [(40_000, 50_000), (67_000_000, 670_000), (1_234_567_890, 12_000_000), (15e9, 150_000_000)],
)
def test_tokens_are_in_proportion_to_the_model(parameters: int, tokens: int) -> None:
    assert tokens_of_recovery(int(parameters)) == tokens


@pytest.mark.parametrize(
    ("recovery", "own"),
    [(50_000, OwnText(12_000, 3)), (670_000, OwnText(170_000, 3)),
     (1_800_000, OwnText(200_000, 4)), (10**7, OwnText(200_000, 24))],
)  # fmt: skip
def test_the_original_writes_a_quarter_if_it_can(
    tmp_path: Path, recovery: int, own: OwnText
) -> None:
    """At most 200,000 tokens, and no recovery reads them more than twice."""
    assert own_text(ModelDirectory(write_model(tmp_path / "m")), recovery) == own
    assert recovery / (1 + own.rest) <= 2 * own.tokens
    write_tiny(T5, tmp_path / "t5")
    assert own_text(ModelDirectory(tmp_path / "t5"), recovery) == OwnText(0)


def test_text_that_would_be_nothing_beside_the_rest_is_not_written(tmp_path: Path) -> None:
    model = ModelDirectory(write_model(tmp_path / "m"))
    assert own_text(model, 400_000_000) == OwnText(200_000, 999)
    found = own_text(model, 402_000_000)
    assert (found.tokens, found.problem) == (0, "it would be less than one token in 1,000")


def test_a_plan_says_why_the_original_writes_no_text(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    plan = regrow.plan(model, params="60%")
    assert "original" not in plan.recipe
    assert any(
        note.startswith("the original writes no text: ") and "the chat template" in note
        for note in plan.notes
    )
