"""`regrow eval` and `regrow compare`: what they print, and one line for what is wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regrow.cli import app
from tests.evaluation.tasks.files import write_all
from tests.tiny import write_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two models and questions, which no test changes."""
    directory = tmp_path_factory.mktemp("eval")
    write_model(directory / "m", max_position_embeddings=1024)
    write_model(directory / "small", max_position_embeddings=1024, num_hidden_layers=2)
    write_all(directory / "data")
    return directory


@pytest.fixture
def regrow(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in the directory, with its questions and its cache."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))

    def run(*arguments: str) -> Any:
        given = [*arguments, "--data", "data", "--precision", "fp32"]
        return CliRunner().invoke(app.app, given, env={"COLUMNS": "100"})

    return run


def test_the_table_of_an_evaluation(regrow: Any, tmp_path: Path) -> None:
    done = regrow("eval", "m", "--tasks", "piqa, mmlu_anatomy", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("written"))
    assert re.match(r"m: [\d,]+ parameters, fp32", lines[0])
    assert lines[1].split()[:3] == ["task", "questions", "shots"]
    (piqa,) = (line for line in lines if line.startswith("piqa"))
    assert re.fullmatch(r"piqa +5 +0 +[\d.]+ +[\d.]+ ±[\d.]+ +50\.0 +(?:[AB] \d+ ?)+ *", piqa)
    results = json.loads((tmp_path / "out/m/results.json").read_text())
    assert results["results"]["piqa"]["acc,none"] * 100 == pytest.approx(float(piqa.split()[3]))
    samples = (tmp_path / "out/m/samples_mmlu_anatomy.jsonl").read_text().splitlines()
    assert len(samples) == 5


def test_the_table_and_the_page_of_a_comparison(regrow: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = regrow(
        "compare", "m", "small", "--tasks", "piqa,mmlu_anatomy", "--speed", "--page", str(page)
    )
    assert done.exit_code == 0, done.output
    assert re.search(r"weights +quality kept", done.stdout)
    assert re.search(r"tokens/s +times +first token, ms +loaded weights +keys, values", done.stdout)
    assert re.search(r"Measured on .*, in float32\.", done.stdout)
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    assert "small against m" in done.stdout
    assert len(re.findall(r"^(?:piqa|mmlu_anatomy) .* to ", done.stdout, re.MULTILINE)) == 2
    assert "small against m" in page.read_text()
    assert page.read_text().count("mmlu_anatomy") == 1


def test_sizes_and_speed_are_compared_without_tasks(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # it is not needed

    def run(*more: str) -> Any:
        given = ["compare", "m", "small", "--speed", *more]
        done = CliRunner().invoke(app.app, given, env={"COLUMNS": "80"})
        assert done.exit_code == 0, done.output
        return done

    page = tmp_path / "page.html"
    lines = run("--page", str(page)).stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("page"))
    assert lines[0].split() == ["model", "parameters", "weights"]
    assert [line.split()[0] for line in lines if line.startswith(("m ", "small "))] == [
        "m", "small", "m", "small",
    ]  # fmt: skip
    assert not [line for line in lines if "bootstrap" in line or "against" in line]
    text = page.read_text()
    assert re.findall("<h2[^>]*>(.*)</h2>", text) == ["Models", "Generation"]
    assert "questions" not in text
    found = json.loads(run("--json").stdout)
    assert [model["tasks"] for model in found["models"]] == [[], []]
    first, second = found["speeds"]
    assert first["memory"]["weights"] > second["memory"]["weights"] > 0
    assert first["memory"]["cache"] == 2 * second["memory"]["cache"] > 0
    assert first["memory"]["peak"] is None
    assert (first["ratio"], first["dtype"]) == (1, "float32")
    assert len(second["first_token_seconds"]) == len(second["tokens_per_second"]) > 0
    assert second["first_token"] > 0


def test_json_holds_what_the_tables_show(regrow: Any) -> None:
    done = regrow("compare", "m", "small", "--tasks", "piqa", "--json")
    found = json.loads(done.stdout)
    assert [model["name"] for model in found["models"]] == ["m", "small"]
    assert "results" not in found["models"][0]
    (one,) = found["compared"][0]["differences"]
    assert one["difference"] == pytest.approx(one["second"] - one["first"])
    assert one["test"]["questions"] == 5
    assert found["speeds"] is None
    done = regrow("eval", "m", "--tasks", "piqa", "--limit", "2", "--json")
    (model,) = json.loads(done.stdout)
    assert model["tasks"][0]["questions"] == 2
    assert model["tasks"][0]["metrics"]["acc"]["value"] in (0, 0.5, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("eval none --tasks piqa", "none: no such directory"),
        ("eval m --tasks none.yaml", "--tasks: none.yaml: no such file"),
        ("eval m --tasks ,", "--tasks"),
        ("eval m --tasks piqa --mode words", "--mode: letter or likelihood is wanted"),
        ("eval m --tasks piqa --shots -1", "--shots: at least 0 is wanted"),
        ("eval m --tasks sciq --shots 2", "--shots: sciq: has no demonstrations"),
        ("eval m --tasks sciq --shots sciq=2", "--shots: sciq: has no demonstrations"),
        ("eval m --tasks sciq --shots piqa=2", "--shots piqa: none of the tasks has this name"),
        ("eval m --tasks sciq --shots sciq=2,3", "--shots sciq=2,3: give one number, or NAME=K"),
        ("eval m --tasks mmlu_virology", "virology_test.csv: no such file"),
        ("eval m --tasks wikitext", "is not read from local files; evaluate it without --data"),
        ("eval m --tasks piqa --prompt openba", "--prompt: only an encoder-decoder reads"),
        ("eval m --tasks piqa --limit x", "--limit x: not a number"),
        ("eval m --tasks piqa --out data/piqa/val.csv", "is a file; give a directory"),
        ("compare m small --tasks piqa --page data", "data: is a directory; name a file"),
        ("compare m --tasks piqa", "a comparison needs two different models"),
        ("compare m small", "--tasks: name tasks, or give --speed to compare sizes and speed"),
        ("compare m small --speed", "--data: is for tasks; give --tasks too"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: str, message: str, regrow: Any) -> None:
    done = regrow(*arguments.split(" "))
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2  # a note on what is being read may be first


def test_help_imports_neither_torch_nor_lm_eval() -> None:
    code = (
        "import sys\nfrom regrow.cli.app import main\nsys.argv = ['regrow', 'eval', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'lm_eval', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("set()")
    assert "--tasks" in done.stdout
