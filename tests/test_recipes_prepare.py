"""The script that lays out what the recipes of the small OpenBA read."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from regrow.architectures.openba import OPENBA
from regrow.models.loading import load_model, load_tokenizer
from tests.models.openba_files import PIECES, write_tokenizer
from tests.tiny import write_tiny

SCRIPT = Path(__file__).parents[1] / "recipes/prepare_mini_openba.py"
ENGLISH = [f"The {number} rows of a table are counted from the cursor." for number in range(300)]
CHINESE = [f"表格的{number}行选项设置。" for number in range(300)]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_mini_openba", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path / "here")
    return module


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    model = write_tiny(OPENBA, tmp_path / "model", vocab_size=PIECES + 103)
    write_tokenizer(model)
    (tmp_path / "text").mkdir()
    lines = [json.dumps({"text": text}) for text in (*ENGLISH, *CHINESE, ENGLISH[0])]
    with gzip.open(tmp_path / "text/all.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return ["--model", str(model), "--text", str(tmp_path / "text")]


def laid_out(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> list[set[str]]:
    """Texts to learn, held out in English, held out in Chinese."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    script.main()
    found = []
    for name in ("train", "heldout-en", "heldout-zh"):
        lines = (script.HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        found.append({json.loads(line)["text"] for line in lines})
        assert len(found[-1]) == len(lines) > 0
    return found


def test_model_and_texts(
    script: ModuleType, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, english, chinese = laid_out(script, monkeypatch, *given)
    assert english <= {*ENGLISH}
    assert chinese <= {*CHINESE}
    assert sorted([*train, *english, *chinese]) == sorted([*ENGLISH, *CHINESE])
    tokenizer = load_tokenizer(script.HERE / "model")
    assert load_model(script.HERE / "model").config.vocab_size == len(tokenizer)


def test_a_model_in_several_files(
    script: ModuleType, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    load_model(model).save_pretrained(model, max_shard_size="40KB")
    (model / "model.safetensors").unlink()
    laid_out(script, monkeypatch, *given)
    assert len([*(script.HERE / "model").glob("model-*.safetensors")]) > 1
    load_model(script.HERE / "model")


def test_the_texts_that_ids_name_are_held_out(
    script: ModuleType, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(tmp_path / "model")
    named = [ENGLISH[3], CHINESE[5], CHINESE[8]]
    ids = [token for text in named for token in (*tokenizer(text)["input_ids"],)]
    np.array(ids, dtype=np.uint16).tofile(tmp_path / "ids")
    _, english, chinese = laid_out(
        script, monkeypatch, *given, "--heldout-ids", str(tmp_path / "ids")
    )
    assert english == {ENGLISH[3]}
    assert chinese == {CHINESE[5], CHINESE[8]}
