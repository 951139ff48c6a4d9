"""Cuts from Python: what the command line takes as text is taken here too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regrow
from regrow.api.arguments import calibration_documents
from regrow.corpus import turns
from regrow.scoring.calibration import CalibrationText
from tests.tiny import sentences, write_model, write_text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("api") / "m")


@pytest.mark.parametrize("dropped", ["1-2", [1, 2], (1, 2), range(1, 3), ["1", 2]])
def test_layers_to_drop(model: Path, tmp_path: Path, dropped: Any) -> None:
    found = regrow.prune(model, tmp_path / "out", drop_layers=dropped, dry_run=True)
    assert found.cut.words() == regrow.prune(
        model, tmp_path / "out", drop_layers="1,2", dry_run=True
    ).cut.words()  # fmt: skip


def test_sizes_as_text(model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"by": "magnitude", "dry_run": True, "max_shard_bytes": "1MB"}
    found = regrow.prune(model, tmp_path / "out", ffn="10", **options)
    assert found.parameters == regrow.prune(model, tmp_path / "out", ffn=10, **options).parameters
    plan, whole = regrow.plan(model, params="30K"), regrow.inspect(model).parameters
    assert plan.parameters <= 30_000 < whole
    assert regrow.plan(model, bytes="100kB").nbytes <= 100_000
    assert regrow.plan(model, params="60%").parameters <= 0.6 * whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_layers": "9"}, "drop_layers 9: "),
        ({"drop_layers": [True]}, "drop_layers: text is wanted"),
        ({"layers": "many"}, "layers: a whole number is wanted, not 'many'"),
        ({"ffn": {"encoder": 3}}, "ffn encoder=3: "),
        ({"vocab": {"siz": 9}}, "vocab.siz: unknown"),
        ({"layers": 2, "max_shard_bytes": "big"}, "max_shard_bytes"),
        ({"layers": 2, "calibration": "none.txt"}, "calibration: none.txt: no such file"),
    ],
)
def test_errors_name_arguments(
    model: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(regrow.UserError) as error:
        regrow.prune(model, tmp_path / "out", **options)
    assert message in str(error.value)
    assert "--" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_axes_of_scores(model: Path, tmp_path: Path) -> None:
    one = regrow.score(model, tmp_path / "a.json", by="magnitude", axes="ffn, head")
    other = regrow.score(model, tmp_path / "b.json", by="magnitude", axes=["ffn", "head"])
    assert list(one.scores) == list(other.scores) == ["ffn", "head"]


def test_the_files_of_a_calibration_directory_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN", 10)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name * 25)
    documents = calibration_documents(tmp_path)
    assert documents is not None
    assert [*CalibrationText(documents).read()] == ["a" * 10, "b" * 10] * 2 + ["a" * 5, "b" * 5]
    assert [*documents()] == ["a" * 25, "b" * 25]


def test_names_of_special_tokens_may_be_tokens(model: Path, tmp_path: Path) -> None:
    """They change what is scored, and what is refitted on."""
    texts = ["<bos>".join(sentences(6, seed=number)) for number in range(12)]
    options: dict[str, Any] = {
        "calibration": write_text(tmp_path / "a.jsonl", texts), "calibration_tokens": 256,
    }  # fmt: skip
    plain = regrow.score(model, tmp_path / "plain.json", axes="ffn", **options)
    meant = regrow.score(model, tmp_path / "meant.json", axes="ffn", special_tokens=True, **options)
    assert not np.array_equal(plain.scores["ffn"], meant.scores["ffn"])
    weights = []
    for name, given in (("one", False), ("two", True)):
        regrow.prune(model, tmp_path / name, drop_layers="1", special_tokens=given, **options)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] != weights[1]
    with pytest.raises(regrow.UserError, match="special_tokens: no text is read; give a calibrat"):
        regrow.score(model, tmp_path / "c.json", by="magnitude", special_tokens=True)
