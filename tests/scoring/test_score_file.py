"""A file of scores gives the cuts that the scores themselves give, and only to their model."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import regrow
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.corpus.text import documents_sha256
from regrow.pipeline.recipe import Recipe
from regrow.pipeline.stage_layouts import layouts_by_stage
from regrow.pipeline.steps import TextHashes, plan_steps
from regrow.scoring.score_file import SavedScores, TextFacts, load_scores
from tests.tiny import sentences, write_model, write_seq2seq, write_text

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("scores")
    write_model(home / "m")
    write_text(home / "text.jsonl", sentences(60))
    return home


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["hidden", "ffn", "encoder.layer"]),
        arrays(np.float64, array_shapes(max_dims=2), elements=FINITE),
    )
)
def test_the_same_to_the_bit(tmp_path_factory: Any, scores: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("file") / "scores.json"
    saved = SavedScores("sha256:m", dict.fromkeys(scores, "random"), 3, TextFacts("a", 9), scores)
    saved.save(path)
    read = load_scores(path)
    assert (read.model, read.by, read.seed, read.text) == ("sha256:m", saved.by, 3, saved.text)
    assert read.scores.keys() == scores.keys()
    for name, values in scores.items():
        assert read.scores[name].tobytes() == values.tobytes()
        assert read.scores[name].shape == values.shape


@pytest.mark.parametrize(
    ("by", "sizes"),
    [
        (None, {"layers": 3, "ffn": 24, "heads": 2, "hidden": 16}),
        ("angular", {"layers": 2}),
        ("loss", {"layers": 2}),
        ("wanda", {"kv_heads": 1, "ffn": 24}),
        ("random", {"layers": 3, "ffn": 24}),
    ],
)
def test_the_cut_is_the_same_without_the_text(
    home: Path, tmp_path: Path, by: str | None, sizes: dict[str, int]
) -> None:
    path, text = tmp_path / "scores.json", home / "text.jsonl"
    saved = regrow.score(home / "m", path, by=by, calibration=text, calibration_tokens=400, seed=1)
    assert saved.text == TextFacts(documents_sha256(iter(sentences(60))), 400)
    options: Any = {"dry_run": True, **sizes}
    direct = regrow.prune(
        home / "m", tmp_path / "o", by=by, calibration=text, calibration_tokens=400, seed=1,
        **options,
    )  # fmt: skip
    assert regrow.prune(home / "m", tmp_path / "o", scores=path, **options).cut == direct.cut


def test_stacks_and_axes(tmp_path: Path) -> None:
    model = write_seq2seq(tmp_path / "t5", T5)
    saved = regrow.score(model, tmp_path / "s.json", by="random", axes=["encoder.layer"])
    assert saved.by == {"encoder.layer": "random"}
    with pytest.raises(UserError) as caught:
        regrow.prune(model, tmp_path / "o", layers={"decoder": 2}, scores=tmp_path / "s.json")
    assert str(caught.value) == (
        f"scores: {tmp_path / 's.json'}: holds no scores of decoder.layer, but of encoder.layer; "
        "score decoder.layer too"
    )


def test_of_another_model(home: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", intermediate_size=40)
    regrow.score(other, tmp_path / "s.json", by="random")
    with pytest.raises(UserError, match=r"made for model sha256:.*, this one is sha256:.*; score"):
        regrow.prune(home / "m", tmp_path / "o", ffn=24, scores=tmp_path / "s.json")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"model": ..., "text": {"sha256": "a"}},
        {"scores": {"ffn": [[1.0], [1.0, 2.0]]}},
        {"scores": {"ffn": [1.0, None]}},
        {"scores": {"ffn": "high"}},
        {"scores": {"ffn": 3.0}},
        {"scores": [1.0]},
        {"by": "random"},
    ],
)
def test_no_file_of_scores(home: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "s.json"
    regrow.score(home / "m", path, by="random", axes=["ffn"])
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}, default=str))
    with pytest.raises(UserError, match=re.escape(f"{path}: no scores; name a file that regrow")):
        regrow.prune(home / "m", tmp_path / "o", ffn=24, scores=path)


def test_text_is_no_file_of_scores(home: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^scores: .*: not JSON: .*; name a file that regrow score"
    ):
        regrow.prune(home / "m", tmp_path / "o", ffn=24, scores=home / "text.jsonl")


def recipe(home: Path, *cuts: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r", "model": str(home / "m"),
            "data": {"train": str(home / "text.jsonl"), "heldout": {"h": str(home / "text.jsonl")}},
            "stages": [{"name": f"s{number}", "cut": cut} for number, cut in enumerate(cuts)],
        }
    )  # fmt: skip


def test_another_file_invalidates_the_cut(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.json"

    def key(**cut: Any) -> str:
        steps = plan_steps(recipe(home, {"ffn": 24, **cut}), {}, TextHashes("train", {}), "text")
        return steps["s0/carve"].key

    keys = [key()]
    for seed in (0, 1):
        path.unlink(missing_ok=True)
        regrow.score(home / "m", path, by="random", axes=["ffn"], seed=seed)
        keys.append(key(scores=str(path)))
    moved = path.rename(tmp_path / "moved.json")
    assert key(scores=str(moved)) == keys[-1]
    assert len(set(keys)) == 3


def test_a_recipe_is_refused_before_it_runs(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    regrow.score(home / "m", path, by="random", axes=["ffn", "layer"])
    original = ModelDirectory(home / "m")
    assert layouts_by_stage(recipe(home, {"ffn": 24, "scores": path}).stages, original)
    for cuts, message in (
        ([{"heads": 2, "scores": path}], "stages: s0: cut.scores: .*holds no scores of head, but"),
        (
            [{"layers": 3}, {"ffn": 24, "scores": path}],
            r"stages: s1: cut.scores: .*ffn: scores of shape \[4, 48\] do not fit the 48 of this",
        ),
        ([{"ffn": 24, "scores": "/none.json"}], "stages: s0: .*/none.json: no such file"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            layouts_by_stage(recipe(home, *cuts).stages, original)
        assert "\n" not in str(caught.value)
