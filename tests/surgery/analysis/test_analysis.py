"""An analysis measures each kind of cut once, and says what it left out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regrow import UserError, api
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.progress import QUIET, Progress
from regrow.corpus import turns
from regrow.scoring.layer_loss import LayerLosses
from regrow.scoring.score_file import load_scores
from regrow.surgery import allowed_sizes
from regrow.surgery.analysis import analysis as module
from regrow.surgery.analysis.analysis import Analysis, AnalysisSpec, analyse_model
from regrow.surgery.search.measure import Measurement
from regrow.surgery.search.measured_cuts import FILE, MeasuredCut, Sizes
from tests.surgery.search.planted import DEAD_LAYER, trained_model
from tests.surgery.test_vocabulary_families import MODELS, write
from tests.tiny import add_tokenizer, sentences, write_model, write_text, write_tiny

SPEC = AnalysisSpec(calibration_tokens=512, points=2)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def text_in(directory: Path, long: int = 6) -> Path:
    documents = [" ".join(sentences(long, seed=number)) for number in range(24)]
    return write_text(directory / "text.jsonl", documents)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_in(tmp_path)


@dataclass(frozen=True)
class Planted:
    """One layer of the model does nothing, and 33 of its 48 neurons."""

    home: Path
    found: Analysis

    def analyse(self, monkeypatch: pytest.MonkeyPatch) -> Analysis:
        """The same analysis once more, with the same cache."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.home / "cache"))
        return analyse(self.home / "m", self.home / "text.jsonl")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    home = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        return Planted(home, analyse(trained_model(home / "m"), text_in(home)))


def analyse(model: Path, text: Path, progress: Progress = QUIET, **how: Any) -> Analysis:
    spec = SPEC.model_copy(update=how)
    return analyse_model(ModelDirectory(model), "name", [text], spec, progress)


def test_a_vocabulary_that_cannot_be_cut_stays_whole(tmp_path: Path, text: Path) -> None:
    """The tokenizer has 320 tokens, fewer than the smallest size that is tried."""
    found = analyse(write_model(tmp_path / "m", vocab_size=8_192), text)
    assert "vocab" not in [each.axis for each in found.axes]
    assert any(note.startswith("the vocabulary stays whole: ") for note in found.notes)


def test_what_does_nothing_is_worth_nothing(planted: Planted) -> None:
    found = planted.found
    [stack] = found.layers
    assert stack.axis == "layer"
    more = [loss - stack.whole for loss in stack.without]
    assert more[DEAD_LAYER] == pytest.approx(0, abs=1e-3)
    assert min(m for layer, m in enumerate(more) if layer != DEAD_LAYER) > 0.01
    depth = next(line for line in found.lines if line.kind == "depth")
    assert depth.cuts[0].sizes == {"layer": 3}
    assert depth.cuts[0].bits_per_byte == pytest.approx(found.original, abs=2e-3)
    ffn = next(axis for axis in found.axes if axis.axis == "ffn")
    assert ffn.cuts[-1].bits_per_byte == pytest.approx(found.original, abs=0.05)
    assert sum(found.parts.values()) == found.parameters
    for line in found.lines:
        assert all(cut.without_refit is not None for cut in line.cuts)
    widths = next(line for line in found.lines if line.kind == "width")
    assert all((cut.without_refit or 0) > cut.bits_per_byte for cut in widths.cuts)
    scores = load_scores(found.directory / "scores.json").scores
    by_axis = {each.axis: each for each in found.importance}
    assert by_axis.keys() == {"layer", "head"}
    assert np.array_equal(by_axis["head"].rows, scores["head"])
    assert np.array_equal(by_axis["layer"].rows, scores["layer"][None])
    assert by_axis["layer"].by == "influence"


def test_a_second_analysis_measures_nothing(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = planted.found
    assert first.measured_now > 0

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "losses_without_each", refuse)
    monkeypatch.setattr(Measurement, "_bits_per_byte", refuse)
    again = planted.analyse(monkeypatch)
    assert again.measured_now == 0
    assert again.lines == first.lines
    assert again.layers == first.layers


def test_a_plan_on_the_same_text_measures_only_its_candidates(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(planted.home / "cache"))
    text = planted.home / "text.jsonl"
    plan = api.plan(
        planted.home / "m", params="80%", text=text, calibration_tokens=512, candidates=1
    )
    assert plan.search is not None
    assert plan.search.measured_now <= 2


def test_cuts_that_are_known_are_told(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(planted.home / "cache"))
    path = planted.found.directory / FILE
    kept, before = json.loads(path.read_text()), path.read_text()
    total = planted.found.measured_now
    kept["cuts"] = [each for each in kept["cuts"] if each["refit"] or each["sizes"] != {"layer": 3}]
    path.write_text(json.dumps(kept))
    said: list[str] = []
    analyse(planted.home / "m", planted.home / "text.jsonl", Progress(say=said.append))
    assert any(f"{total} in all ({total - 1} of them are known)" in line for line in said)
    path.write_text(before)


def test_it_goes_on_where_it_was_stopped(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "m", num_hidden_layers=1)
    plain, calls = Measurement._bits_per_byte, []

    def stopped(self: Measurement, directory: ModelDirectory) -> float:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(self, directory)

    monkeypatch.setattr(Measurement, "_bits_per_byte", stopped)
    with pytest.raises(KeyboardInterrupt):
        analyse(model, text, points=1)
    total = analyse(model, text, points=1).measured_now + 3
    known = sum(1 for _ in (tmp_path / "cache").rglob(FILE))
    assert (known, total) == (1, len(calls) - 1)


def test_the_stacks_of_an_encoder_decoder_are_measured_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(_: Measurement, cuts: Sequence[Sizes], *, refit: bool = True) -> list[MeasuredCut]:
        return [MeasuredCut(sizes, 1.0, 0.0, refit) for sizes in cuts]

    monkeypatch.setattr(Measurement, "losses", losses)  # each takes seconds
    model = write_tiny(
        T5, tmp_path / "m", vocab_size=320, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0
    )
    add_tokenizer(model)
    found = analyse(model, text_in(tmp_path, long=8), points=1)
    assert [stack.axis for stack in found.layers] == ["encoder.layer", "decoder.layer"]
    assert [line.name for line in found.lines] == ["encoder.layer", "decoder.layer", "widths"]
    assert {each.axis for each in found.importance} >= {"encoder.layer", "decoder.layer"}


def test_a_model_without_a_blueprint_is_measured_by_its_vocabulary(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no axis that can be scored."""
    monkeypatch.setattr(allowed_sizes, "_LEAST_TOKENS", 300)
    write(MODELS["gpt2"], tmp_path / "m")
    found = analyse(tmp_path / "m", text)
    assert [(axis.axis, [cut.size for cut in axis.cuts]) for axis in found.axes] == [
        ("vocab", [384, 320])
    ]
    assert (found.lines, found.layers, found.importance) == ((), (), ())
    assert analyse(tmp_path / "m", text, special_tokens=True).measured_now == 3
    plan = api.plan(tmp_path / "m", params="95%", text=text, calibration_tokens=512, candidates=1)
    assert plan.search is not None
    assert plan.search.candidates[0].sizes == {"vocab": 320}
    assert plan.search.measured_now == 0


def test_a_large_model_is_measured_less_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layout = ModelDirectory(write_model(tmp_path / "m")).layout
    calibration, points, notes = module._amounts(layout, AnalysisSpec())
    assert (calibration.tokens, points, notes) == (4_096, 4, [])
    monkeypatch.setattr(module, "_LARGE", layout.parameters() // 4)
    calibration, points, notes = module._amounts(layout, AnalysisSpec())
    assert (calibration.tokens, points) == (2_048, 3)
    assert "2,048 tokens, 3 cuts of each line" in notes[0]
    asked = AnalysisSpec(calibration_tokens=9_000, points=4)
    calibration, points, notes = module._amounts(layout, asked)
    assert (calibration.tokens, points, notes) == (9_000, 4, [])


def test_of_a_long_text_the_beginning_is_counted(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelDirectory(write_model(tmp_path / "m"))
    notes: list[str] = []
    whole = module._vocabulary(model, [text], notes, QUIET)
    assert whole is not None
    assert notes == []
    monkeypatch.setattr(module, "_COUNTED", 2_000)
    part = module._vocabulary(model, [text], notes, QUIET)
    assert part is not None
    assert 0 < part.tokens < whole.tokens
    assert notes == ["tokens are counted in the first 2,000 characters of the text"]


def test_a_vocabulary_that_cannot_be_cut_is_a_note(tmp_path: Path, text: Path) -> None:
    model = write_model(tmp_path / "m", num_hidden_layers=2)
    notes: list[str] = []
    (model / "tokenizer.json").unlink()
    assert module._vocabulary(ModelDirectory(model), [text], notes, QUIET) is None
    assert notes[0].startswith("no curve of the vocabulary: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no weights", "has a config and no weights, so nothing can be measured"),
        ("short", "^text: the text is 11 characters, too few to hold a part of it back"),
        ("memory", r"do not fit in .* of free memory, and cuts are measured in memory"),
        ("layers", r"layers\.json: not what was measured; delete it to measure again"),
    ],
)
def test_what_cannot_be_measured_is_refused_before(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    model = write_model(tmp_path / "m", num_hidden_layers=2)
    if change == "no weights":
        (model / "model.safetensors").unlink()
    elif change == "short":
        text.write_text('{"text": "hello world"}\n')
    elif change == "memory":
        monkeypatch.setattr("regrow.scoring.score.available_memory", lambda: 1000)
    else:
        losses = [LayerLosses("layer", 1, 1.0, (1.0, 1.0))]
        monkeypatch.setattr(module, "losses_without_each", lambda *_: losses[0])
        monkeypatch.setattr(module, "_cuts", lambda *_: pytest.skip)
        with pytest.raises(TypeError):
            analyse(model, text)
        [path] = (tmp_path / "cache").rglob("layers.json")
        path.write_text("[1]")
    with pytest.raises(UserError, match=message):
        analyse(model, text)


def test_files_take_turns_to_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN", 500)
    monkeypatch.setattr(module, "_COUNTED", 1_900)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name * 9_000)
    notes: list[str] = []
    read = [*module._beginning([tmp_path / "a.txt", tmp_path / "b.txt"], notes)]
    assert read == ["a" * 500, "b" * 500, "a" * 500, "b" * 400]
    assert len(notes) == 1
