"""`regrow analyse`: options, tables and JSON; the measuring is tested below it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from regrow import UserError, api
from regrow.cli import app
from regrow.surgery.analysis import analysis as module
from tests.report.test_analysis_page import ANALYSIS
from tests.tiny import sentences, write_model, write_text


def run(*words: str) -> Result:
    return CliRunner().invoke(app.app, ["analyse", *words])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command asked for; it gets a canned analysis."""
    calls: list[Any] = []

    def canned(model: str, **options: Any) -> Any:
        del options["progress"]
        calls.append((model, options))
        return ANALYSIS

    monkeypatch.setattr(api, "analyse", canned)
    return calls


def test_options_reach_the_api(asked: list[Any]) -> None:
    done = run("m", "--text", "a.jsonl", "b.txt", "--points", "3", "--calibration-tokens", "8K",
               "--seed", "2", "--page", "p.html", "--special-tokens")  # fmt: skip
    assert done.exit_code == 0, done.output
    texts = [Path("a.jsonl"), Path("b.txt")]
    how = {"points": 3, "calibration_tokens": 8_000, "seed": 2, "special_tokens": True}
    assert asked == [("m", {"text": texts, "page": Path("p.html"), **how})]


def test_tables_are_printed(asked: list[Any]) -> None:
    lines = run("m", "--text", "a.jsonl", "--page", "p.html").output
    for text in ("llama, 134,515,008 parameters", "embedding", "refit gives", "hidden, 576",
                 "over 14.9 kB of text that was held back",
                 "different ones", "a note about <less>", "page    p.html"):  # fmt: skip
        assert text in " ".join(lines.split()) or text in lines, text


def test_json_holds_all_that_was_measured(asked: list[Any]) -> None:
    found = json.loads(run("m", "--text", "a.jsonl", "--json").stdout)
    assert found["original"] == 0.951
    assert found["lines"][0]["cuts"][0]["sizes"] == {"layer": 26}
    assert found["layers"][0]["without"][2] == 2.49
    assert found["vocabulary"]["not_covered"][0] == [300, 0.4]


def test_without_text_nothing_is_measured(asked: list[Any]) -> None:
    done = run("m")
    assert done.exit_code == 2
    assert "analyse: give --text" in done.output
    assert asked == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", "0"], "--points"),
        (["--calibration-tokens", "many"], "--calibration-tokens"),
        (["--page", "/"], "is a directory; name a file"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    text = write_text(tmp_path / "t.jsonl", sentences(4))
    done = run(str(write_model(tmp_path / "m")), "--text", str(text), *words)
    assert done.exit_code == 2
    assert message in done.output


def test_the_api_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(*given: Any) -> Any:
        asked.append(given)
        return ANALYSIS

    monkeypatch.setattr(module, "analyse_model", measured)
    model = write_model(tmp_path / "m")
    found = api.analyse(model, text="t.jsonl", page=tmp_path / "p.html", points=2)
    assert found is ANALYSIS
    assert "&lt;smol&gt;, analysis" in (tmp_path / "p.html").read_text()
    directory, name, texts, spec, _ = asked[0]
    assert (directory.path, name, texts, spec.points) == (model, str(model), [Path("t.jsonl")], 2)
    with pytest.raises(UserError, match=r"^text: the losses are measured on text"):
        api.analyse(model, text=[])
    with pytest.raises(TypeError, match="point"):
        api.analyse(model, text="t.jsonl", point=2)
