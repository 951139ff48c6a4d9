"""No command runs code of a model's directory, asks whether to run it, or passes it on."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regrow.cli import app
from tests.tiny import sentences, write_model, write_text

AUTO_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
TRAIN = "train M OUT --text text.jsonl --heldout heldout.jsonl --set tokens=512 --set row_length=64"
COMMANDS = [
    "inspect M",
    "plan M --params 50%",
    "plan recipe.yaml",
    "prune M OUT --layers 3 --calibration text.jsonl --refit",
    "prune M OUT --vocab-size 300 --calibration text.jsonl",
    "score M OUT --by activation --calibration text.jsonl --calibration-tokens 64",
    "generate M river --max-new-tokens 2",
    "corpus write M OUT.jsonl --tokens 8",
    "vocab grow M OUT --corpus text.jsonl --tokens 2",
    f"{TRAIN}",
    f"{TRAIN} --from-scratch",
]
"""Not verify, which tests/checkpoint/test_verify.py tests; nor run and corpus tokenise, which load
as train and vocab grow do."""
RECIPE = """name: small
model: M
data: {train: text.jsonl, heldout: {domain: heldout.jsonl}}
stages:
  - {name: depth, cut: {layers: 3}, recover: {tokens: 512, row_length: 64}}
"""


def add_code(directory: Path, marker: Path, model_type: str | None) -> None:
    """Give a model a module that leaves a file when it is imported, and name it in all configs."""
    code = f"open({str(marker)!r}, 'w').close()\nclass Own: pass\ndef generate(**_): pass\n"
    for name in (
        "own.py",
        "custom_generate/generate.py",
        "tokenizer_own.py",
        "tokenizer.pkl",
        "own/__init__.py",
    ):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(code)
    auto_map: dict[str, Any] = dict.fromkeys(AUTO_CLASSES, "own.Own")
    auto_map["AutoTokenizer"] = ["own.Own", "own.Own"]
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        path = directory / name
        values = json.loads(path.read_text()) | {"auto_map": auto_map}
        if model_type is not None and name == "config.json":
            values |= {"model_type": model_type, "architectures": ["Own"]}
        if model_type is not None and name == "tokenizer_config.json":
            values["tokenizer_class"] = "OwnTokenizer"
        path.write_text(json.dumps(values))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with code: of a class that transformers has, and of one that it lacks."""
    place = tmp_path_factory.mktemp("models")
    for name, model_type in (("known", None), ("unknown", "own"), ("other", "clip_text_model")):
        add_code(write_model(place / name), place / "ran", model_type)
    write_text(place / "text.jsonl", sentences(120))
    write_text(place / "heldout.jsonl", sentences(9, seed=1))
    (place / "recipe.yaml").write_text(RECIPE)
    return place


@pytest.mark.parametrize("kind", ["known", "unknown", "other"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_code_runs_and_nothing_asks(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, kind: str
) -> None:
    asked: list[str] = []
    shutil.copytree(models / kind, tmp_path / "M")
    for name in ("text.jsonl", "heldout.jsonl", "recipe.yaml"):
        shutil.copy(models / name, tmp_path)
    monkeypatch.chdir(tmp_path)

    def answer(text: str = "") -> str:
        asked.append(text)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    result = CliRunner().invoke(app.app, command.split(), input="y\n" * 9)
    assert not (models / "ran").exists()
    assert asked == []
    assert "[y/N]" not in result.output
    if kind == "known":
        assert result.exit_code == 0, result.output
        for path in (tmp_path / "OUT").rglob("*"):
            assert path.suffix not in (".py", ".pkl"), path
            if path.name.endswith("config.json"):
                assert "auto_map" not in path.read_text(), path
    else:
        assert result.exit_code in (1, 2), result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
    assert not [name for name in sys.modules if name.startswith("transformers_modules.M")]
