"""A search by measured costs: what costs nothing is cut, and nothing is measured twice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import QUIET, Progress, Update
from regrow.scoring.score import FREE
from regrow.surgery.budget import parameter_budget
from regrow.surgery.search.measure import CalibrationDraw, Measurement
from regrow.surgery.search.measured_cuts import FILE, MeasuredSpeed
from regrow.surgery.search.search import SearchRequest, search_sizes
from tests.surgery.search.planted import trained_model
from tests.tiny import sentences, write_model, write_text

SPEEDS = Measurement.speeds
WHOLE = {"hidden": 32, "head": 4, "kv_head": 2}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    documents = [" ".join(sentences(6, seed=number)) for number in range(24)]
    return write_text(tmp_path / "text.jsonl", documents)


def request_for(model: ModelDirectory, text: Path, share: float, **changes: Any) -> SearchRequest:
    budget = parameter_budget(model.layout, int(model.layout.parameters() * share))
    options: dict[str, Any] = {
        "budget": budget, "tokens_per_second": None, "text": [text],
        "calibration": CalibrationDraw(512, 0), "candidates": 2,
    }  # fmt: skip
    return SearchRequest(**{**options, **changes})


# With real cuts


def test_what_adds_nothing_is_cut(tmp_path: Path, text: Path) -> None:
    """15 of 48 neurons do something, and 3 of 4 layers."""
    model = ModelDirectory(trained_model(tmp_path / "m"))
    sizes = {"ffn": 15, "layer": 3}
    budget = parameter_budget(model.layout, model.layout.parameters(sizes))
    request = request_for(model, text, 0.5, budget=budget, candidates=1, least=WHOLE)
    found = search_sizes(model, request, QUIET)
    assert found.candidates[0].sizes == sizes
    assert found.candidates[0].parameters == budget.limit
    assert found.candidates[0].measured == pytest.approx(found.original, abs=2e-3)
    assert found.candidates[0].predicted == pytest.approx(found.original, abs=2e-3)
    # Its fewest layers cost something, so the measure tells the two apart.
    layer = next(axis for axis in found.axes if axis.axis == "layer")
    assert [cut.size for cut in layer.cuts] == [3, 2]
    assert layer.cuts[1].bits_per_byte > found.original + 0.01
    assert layer.cuts[1].parameters == model.layout.parameters({"layer": 2})
    assert sorted(path.name for path in found.directory.iterdir()) == [
        "held-back.jsonl", "lock", FILE, "scores.json",
    ]  # fmt: skip


# With losses that are made up


class Fake:
    """Stands for cutting and measuring: the loss is made up from the sizes."""

    def __init__(self, layout: Layout, weights: Mapping[str, float]) -> None:
        self.layout, self.weights = layout, weights
        self.measured: list[dict[str, int]] = []
        self.stop_after = 10**6

    def cut(self, _: Measurement, sizes: Mapping[str, int], *__: Any, **___: Any) -> Any:
        if len(self.measured) == self.stop_after:
            raise KeyboardInterrupt
        return dict(sizes)

    def bits(self, _: Measurement, sizes: Any) -> float:
        cut: dict[str, int] = sizes if isinstance(sizes, dict) else {}
        self.measured.append(cut)
        shares = {name: 1 - size / self.layout.sizes[name] for name, size in cut.items()}
        return 1.0 + sum(self.weights.get(name, 1.0) * share**2 for name, share in shares.items())

    def speeds(self, _: Measurement, cuts: Sequence[Mapping[str, int]]) -> list[MeasuredSpeed]:
        """Twice as fast if half of the parameters are left; the machine is as slow as it likes."""
        whole = self.layout.parameters()
        return [
            MeasuredSpeed(sizes, "fake", slow, slow * self.layout.parameters(sizes) / whole)
            for slow, sizes in zip([0.1, 0.2, 0.1, 0.1, 0.3, 0.1], cuts, strict=False)
        ]


@pytest.fixture
def model(tmp_path: Path) -> ModelDirectory:
    return ModelDirectory(write_model(tmp_path / "m"))


@pytest.fixture
def fake(model: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake(model.layout, {"ffn": 0.1, "hidden": 3.0})
    monkeypatch.setattr(Measurement, "_cut", lambda *a, **k: made.cut(*a, **k))
    monkeypatch.setattr(Measurement, "_bits_per_byte", lambda *a: made.bits(*a))
    monkeypatch.setattr(Measurement, "speeds", lambda *a: made.speeds(*a))
    return made


def test_key_value_heads_go_with_their_query_heads(
    model: ModelDirectory, fake: Fake, text: Path
) -> None:
    found = search_sizes(model, request_for(model, text, 0.6), QUIET)
    (axis,) = [axis for axis in found.axes if axis.axis == "kv_head"]
    assert [cut.size for cut in axis.cuts] == [1]
    assert axis.cuts[0].parameters == model.layout.parameters({"kv_head": 1, "head": 2})


def test_the_best_measured_is_first(model: ModelDirectory, fake: Fake, text: Path) -> None:
    found = search_sizes(model, request_for(model, text, 0.6, candidates=3), QUIET)
    assert found.original == 1
    measured = [each.measured for each in found.candidates]
    assert measured == sorted(measured)
    assert [each.fixed_costs for each in found.candidates].count(True) == 1
    for each in found.candidates:
        assert each.parameters == model.layout.parameters(each.sizes)
        assert each.parameters <= 0.6 * model.layout.parameters()
        assert each.nbytes == 4 * each.parameters  # float32
    costs = {axis.axis: axis.cuts[-1].bits_per_byte for axis in found.axes}
    assert costs["ffn"] < costs["layer"] < costs["hidden"]
    assert found.measured_now == len(fake.measured)


def test_a_second_search_measures_nothing(model: ModelDirectory, fake: Fake, text: Path) -> None:
    first = search_sizes(model, request_for(model, text, 0.6), QUIET)
    count = len(fake.measured)
    again = search_sizes(model, request_for(model, text, 0.6), QUIET)
    assert (len(fake.measured), again.measured_now) == (count, 0)
    assert (again.candidates, again.axes) == (first.candidates, first.axes)
    # Another budget measures its candidates alone.
    other = search_sizes(model, request_for(model, text, 0.8), QUIET)
    assert other.measured_now == len(fake.measured) - count <= 3


def test_another_text_or_calibration_is_measured_anew(
    model: ModelDirectory, fake: Fake, text: Path, tmp_path: Path
) -> None:
    request = request_for(model, text, 0.6)
    first = search_sizes(model, request, QUIET)
    longer = request_for(model, text, 0.6, calibration=CalibrationDraw(1_024, 0))
    assert search_sizes(model, longer, QUIET).measured_now == first.measured_now
    other = write_text(tmp_path / "other.jsonl", [" ".join(sentences(9, seed=99))] * 8)
    assert search_sizes(model, request_for(model, other, 0.6), QUIET).measured_now > 0


def test_a_stopped_search_continues(model: ModelDirectory, fake: Fake, text: Path) -> None:
    fake.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        search_sizes(model, request_for(model, text, 0.6), QUIET)
    assert len(fake.measured) == 4
    fake.stop_after = 10**6
    said: list[str] = []
    found = search_sizes(model, request_for(model, text, 0.6), Progress(say=said.append))
    assert "each (4 of them are known), then" in said[0]
    assert found.measured_now == len(fake.measured) - 4
    assert len({str(sizes) for sizes in fake.measured}) == len(fake.measured)


def test_what_will_be_done_is_said_before(model: ModelDirectory, fake: Fake, text: Path) -> None:
    said: list[str] = []
    updates: list[Update] = []
    progress = Progress(say=said.append, update=updates.append)
    found = search_sizes(model, request_for(model, text, 0.6), progress)
    cuts = 1 + sum(len(axis.cuts) for axis in found.axes)
    assert said[0] == (
        f"measuring the original and {cuts - 1} cuts of one axis each, then the best candidates "
        f"(2); results are kept in {found.directory}"
    )
    assert said[1].startswith("measuring the best candidates (")
    assert [update.share for update in updates[:cuts]] == [done / cuts for done in range(cuts)]
    assert updates[0].doing == f"the original, 1 of {cuts}"
    lefts = [update.seconds_left for update in updates]
    assert lefts[0] is None  # nothing is measured yet
    assert all(left is not None and left >= 0 for left in lefts[2:])


def test_a_speed_is_searched_too(model: ModelDirectory, fake: Fake, text: Path) -> None:
    request = request_for(model, text, 0.6, budget=None, tokens_per_second=15.0)
    found = search_sizes(model, request, QUIET)
    assert found.tokens_per_second == pytest.approx(10, rel=0.01)
    for each in found.candidates:
        assert each.tokens_per_second is not None
        assert each.predicted_tokens_per_second is not None
        assert each.tokens_per_second >= 15
        assert each.tokens_per_second == pytest.approx(each.predicted_tokens_per_second, rel=0.2)


def test_a_speed_that_the_model_has(model: ModelDirectory, fake: Fake, text: Path) -> None:
    request = request_for(model, text, 0.6, budget=None, tokens_per_second=5.0)
    with pytest.raises(UserError, match=r"^tokens_per_second 5\.0: the model has 10\.\d tokens/s"):
        search_sizes(model, request, QUIET)


def test_a_speed_that_is_predicted_and_not_reached(
    model: ModelDirectory, fake: Fake, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates turn out slower than predicted; then faster ones are searched."""
    plain, factor = fake.speeds, 1.2
    calls: list[int] = []

    def slower(measurement: Measurement, cuts: Sequence[Mapping[str, int]]) -> list[MeasuredSpeed]:
        found = plain(measurement, cuts)
        calls.append(len(cuts))
        if len(calls) == 1:  # of the smallest cut of each axis, for the prediction
            return found
        return [MeasuredSpeed(e.sizes, "fake", e.original, e.cut * factor) for e in found]

    monkeypatch.setattr(fake, "speeds", slower)
    found = search_sizes(
        model, request_for(model, text, 0.6, budget=None, tokens_per_second=13.0), QUIET
    )
    assert all((each.tokens_per_second or 0) >= 13 for each in found.candidates)
    assert len(calls) > 2  # a second round of candidates
    calls.clear()
    factor = 9.0
    with pytest.raises(UserError, match=r"^tokens_per_second 13\.0: the fastest of the measured"):
        search_sizes(
            model, request_for(model, text, 0.6, budget=None, tokens_per_second=13.0), QUIET
        )


def test_a_model_of_which_nothing_can_be_cut(
    model: ModelDirectory, fake: Fake, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.surgery.search.search.search_axes", lambda *_: [])
    with pytest.raises(UserError, match="nothing of this model can be cut"):
        search_sizes(model, request_for(model, text, 0.6), QUIET)
    assert fake.measured == []


def test_a_budget_that_cannot_be_met(model: ModelDirectory, fake: Fake, text: Path) -> None:
    with pytest.raises(UserError, match="too few for this model; the least that keeps a share of"):
        search_sizes(model, request_for(model, text, 0.05), QUIET)
    assert fake.measured == []


@pytest.mark.parametrize(
    ("speed", "precision", "bytes_each"),
    [(None, "fp32", 4), (None, "bf16", 6), (15.0, "fp32", 8), (15.0, "bf16", 8)],
)
def test_a_model_that_does_not_fit_in_memory(
    model: ModelDirectory,
    fake: Fake,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    speed: float | None,
    precision: str,
    bytes_each: int,
) -> None:
    """A loss keeps narrow copies of the weights. A speed needs a cut beside the original."""
    wanted: dict[str, Any] = {} if speed is None else {"budget": None, "tokens_per_second": speed}
    request = request_for(model, text, 0.6, **wanted)
    available = int(bytes_each * model.layout.parameters() / (1 - FREE))
    monkeypatch.setattr("regrow.scoring.score.resolve_precision", lambda *_: precision)
    monkeypatch.setattr("regrow.scoring.score.available_memory", lambda: available - 2)
    message = r"GB of float32 weights.* do not fit in .* GB of free memory, and .*; use a larger"
    with pytest.raises(UserError, match=message) as error:
        search_sizes(model, request, QUIET)
    assert ("plan by parameters or bytes" in str(error.value)) == (speed is not None)
    assert fake.measured == []
    assert not (text.parent / "cache").exists()
    monkeypatch.setattr("regrow.scoring.score.available_memory", lambda: available + 2)
    search_sizes(model, request, QUIET)


def test_a_refit_that_does_not_fit_in_memory_is_said_before(
    model: ModelDirectory, fake: Fake, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.surgery.refitting.memory.available_memory", lambda: 1 << 10)
    with pytest.raises(UserError, match=r"GB of states must be in memory.* use a larger machine$"):
        search_sizes(model, request_for(model, text, 0.6), QUIET)
    assert fake.measured == []
    assert not (text.parent / "cache").exists()


def test_what_is_known_needs_no_memory(
    model: ModelDirectory, fake: Fake, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search_sizes(model, request_for(model, text, 0.6), QUIET)
    count = len(fake.measured)
    monkeypatch.setattr("regrow.scoring.score.available_memory", lambda: 0)
    assert search_sizes(model, request_for(model, text, 0.6), QUIET).candidates == first.candidates
    # The candidates of another budget are not known.
    with pytest.raises(UserError, match=r"do not fit in .* and cuts are measured in memory"):
        search_sizes(model, request_for(model, text, 0.8), QUIET)
    assert len(fake.measured) == count


def test_known_speeds_need_no_memory(
    model: ModelDirectory, fake: Fake, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(loaded: Any, *_: Any, **__: Any) -> list[list[float]]:
        timed.append(loaded[1])
        return [[0.1], [0.1 * model.layout.parameters(loaded[1]) / model.layout.parameters()]]

    timed: list[dict[str, int]] = []
    monkeypatch.setattr(Measurement, "speeds", SPEEDS)
    monkeypatch.setattr("regrow.surgery.search.measure.loaded_once", lambda each: each)
    monkeypatch.setattr("regrow.surgery.search.measure.seconds_in_turns", seconds)
    search_sizes(model, request_for(model, text, 0.6), QUIET)  # so the losses of axes are known
    request = request_for(model, text, 0.6, budget=None, tokens_per_second=15.0)
    memory = 0
    monkeypatch.setattr("regrow.scoring.score.available_memory", lambda: memory)
    with pytest.raises(UserError, match="plan by parameters or bytes"):
        search_sizes(model, request, QUIET)
    assert timed == []
    memory = 1 << 40
    first, count = search_sizes(model, request, QUIET), len(timed)
    memory = 0
    again = search_sizes(model, request, QUIET)
    assert (again.candidates, len(timed)) == (first.candidates, count)
    assert count > 0
