"""docs/paper.md is what benchmarks/paper.py writes, and its verdicts follow from the numbers."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import sentences, write_model, write_text

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def findings() -> Iterator[ModuleType]:
    return importlib.import_module("openba_v2.findings")


@pytest.fixture(scope="module")
def values() -> Any:
    return json.loads((ROOT / "docs/paper.json").read_text(encoding="utf-8"))


def test_the_page_is_up_to_date(values: Any) -> None:
    page = importlib.import_module("openba_v2.page")
    written = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    assert written == page.page_text(values), "run: python benchmarks/paper.py --only page"


def test_every_figure_on_the_page_is_there() -> None:
    page = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    figures = [part.partition(")")[0] for part in page.split("](figures/")[1:]]
    assert len(figures) >= 4
    assert [name for name in figures if not (ROOT / "docs/figures" / name).is_file()] == []


def judged(findings: ModuleType, part: str, words: str, values: Any) -> Any:
    """The verdict of the finding with these words on some values."""
    (finding,) = (f for f in findings.FINDINGS if f.part == part and words in f.words)
    return finding.verdict({part: {"openba": {"values": values}}}, "openba")


def lines(depth: list[float], width: list[float]) -> dict[str, Any]:
    """Bits per byte with a tenth, two tenths, ... of 100 parameters gone."""
    return {
        "original": 1.0,
        "parameters": 100,
        "lines": [
            {"name": kind, "kind": kind, "cuts": [
                {"sizes": {}, "parameters": 90 - 10 * number, "bits": bits}
                for number, bits in enumerate(found)
            ]}
            for kind, found in (("depth", depth), ("width", width))
        ],
    }  # fmt: skip


CHEAP, DEAR = [1.0, 1.1, 1.2, 1.3], [1.0, 1.1, 1.5, 2.5]


def test_depth_and_width_are_compared_at_the_same_share(findings: ModuleType) -> None:
    verdict = judged(findings, "cuts", "Depth costs less", lines(CHEAP, DEAR))
    assert verdict.agrees
    assert verdict.words == (
        "with 20% gone depth costs +0.10 bits, width +0.10; "
        "with 40% gone depth costs +0.30 bits, width +1.50"
    )
    assert not judged(findings, "cuts", "Depth costs less", lines(DEAR, CHEAP)).agrees
    # At 20% both cost the same, however much more width costs later.
    assert not judged(findings, "cuts", "Depth costs less", lines(CHEAP[:2], DEAR)).agrees


def test_a_perplexity_explodes_only_if_it_does_on_all_lines(findings: ModuleType) -> None:
    found = judged(findings, "cuts", "explodes", lines(DEAR, DEAR))
    assert found.agrees
    assert found.words.startswith("depth, 1.3 times at 20%, 64.0 times at 40%")
    assert not judged(findings, "cuts", "explodes", lines(CHEAP, DEAR)).agrees
    assert judged(findings, "cuts", "explodes", lines(CHEAP[:3], CHEAP[:3])) is None


def test_a_vocabulary_is_free_if_it_is_for_all_texts(findings: ModuleType) -> None:
    def costs(english: float, chinese: float) -> Any:
        return {
            name: [{"size": 100, "bits_per_character": 1.0}, {"size": 50, "bits_per_character": b}]
            for name, b in (("English", english), ("Chinese", chinese))
        }

    assert judged(findings, "vocabulary", "Half", costs(1.001, 0.9)).agrees
    assert not judged(findings, "vocabulary", "Half", costs(1.001, 1.2)).agrees
    assert judged(findings, "vocabulary", "English", costs(1.5, 1.2)).agrees
    assert not judged(findings, "vocabulary", "English", costs(1.5, 1.3)).agrees


def test_what_was_not_measured_has_no_verdict(findings: ModuleType) -> None:
    assert [f for f in findings.FINDINGS if f.verdict({}, "openba") is not None] == []


def test_scores_above_chance(findings: ModuleType) -> None:
    """A task on which the original guesses has nothing to keep."""
    chances = {"a": 25.0, "b": 50.0, "guessed": 25.0}
    whole = {"a": 65.0, "b": 70.0, "guessed": 25.0}
    assert findings.above_chance(whole, whole, chances) == 1
    assert findings.above_chance({"a": 45.0, "b": 60.0, "guessed": 99.0}, whole, chances) == 0.5
    assert findings.above_chance(whole, chances, chances) is None


def test_what_is_kept_is_said_only_of_scores_above_chance(findings: ModuleType) -> None:
    def model(values: list[float], questions: int) -> Any:
        names = ("SciQ", "PIQA", "BoolQ", "MMLU")
        return {
            "parameters": 100,
            "scores": {
                name: {"value": value, "chance": 25.0, "error": None, "questions": questions}
                for name, value in zip(names, values, strict=True)
            },
        }

    def verdict(questions: int, values: list[float]) -> Any:
        found = [model([65.0, 65.0, 65.0, 26.0], questions), model(values, questions)]
        return judged(findings, "questions", "keeps", {"models": found})

    assert verdict(10, [65.0, 65.0, 65.0, 26.0]).agrees is not None
    assert verdict(5, [65.0, 65.0, 65.0, 26.0]).agrees is None
    found = findings.kept(model([45.0, 25.0, 65.0, 99.0], 10)["scores"],
                          model([65.0, 65.0, 65.0, 26.0], 10)["scores"])  # fmt: skip
    assert found == 0.5


@given(st.integers(4, 80))
def test_layers_are_chosen_in_four_ways(layers: int) -> None:
    cuts = importlib.import_module("openba_v2.cuts")
    found = cuts.choices(layers)
    count = max(2, layers // 4)
    for chosen in found.values():
        assert len(set(chosen)) == count
        assert chosen == sorted(chosen)
        assert chosen[0] >= 0
        assert chosen[-1] < layers


def test_the_loss_without_layers_is_measured(tmp_path: Path) -> None:
    cuts = importlib.import_module("openba_v2.cuts")
    model = write_model(tmp_path / "m", num_hidden_layers=8)
    text = write_text(tmp_path / "text.jsonl", sentences(4))
    found = cuts.layer_choices(model, {"text": text})
    assert found["layers"] == 8
    assert found["dropped"]["the last"]["layers"] == "6,7"
    losses = [found["original"], *(each["bits"] for each in found["dropped"].values())]
    assert len(set(losses)) == 5  # five different models


def test_a_part_is_kept_as_soon_as_it_is_measured(tmp_path: Path) -> None:
    kept = importlib.import_module("openba_v2.values")
    path = tmp_path / "values.json"
    kept.measure(path, "cuts", "openba", {"points": 2}, lambda: {"bits": 1.5})

    def fails() -> Any:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        kept.measure(path, "layers", "openba", {}, fails)
    found = kept.read_values(path)
    assert list(found) == ["cuts"]
    record = found["cuts"]["openba"]
    assert (record["settings"], record["values"]) == ({"points": 2}, {"bits": 1.5})


def test_a_model_that_finds_no_entities_says_nothing_about_its_cut(findings: ModuleType) -> None:
    def verdict(*scores: float) -> Any:
        models = [{"name": "x", "sets": {"movie": {"report": score}}} for score in scores]
        return judged(findings, "entities", "finds entities", {"models": models})

    assert verdict(0.0, 0.0).agrees is None
    assert verdict(0.0, 60.0).agrees is None
    assert verdict(50.0, 60.0).agrees
    assert not verdict(50.0, 40.0).agrees
    assert verdict(50.0) is None
