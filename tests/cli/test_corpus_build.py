"""`regrow corpus build` from the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from regrow.cli import app
from tests.cleaning.corpora import write_raw
from tests.threads import use_threads
from tests.tiny import write_model

pytest.importorskip("rensa")
CONFIG = """out: ../out
sources: [{name: web, path: web.jsonl}, {name: books, path: [book-*.txt]}]
steps: [squeeze]
duplicates: {paragraphs: {least: 20}}
contamination: {against: questions.jsonl}
"""


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_raw(tmp_path / "raw")
    (tmp_path / "raw/corpus.yaml").write_text(CONFIG)
    use_threads(monkeypatch)
    return tmp_path / "raw"


def build(*words: object) -> Result:
    return CliRunner().invoke(app.app, ["corpus", "build", *map(str, words)])


def test_tables_files_and_page(raw: Path) -> None:
    done = build(raw / "corpus.yaml", "--workers", 1, "--tokenise", write_model(raw / "m"))
    assert done.exit_code == 0, done.output
    out = raw.parent / "out"
    assert {path.name for path in out.iterdir()} == {
        "documents-00000.jsonl", "contamination.jsonl", "report.json", "report.html", "tokens",
    }  # fmt: skip
    said = " ".join(done.output.split())
    for words in ("equal documents", "not JSON 1", "books 6", "46 documents", "tokens, of 54"):
        assert words in said
    assert "<h1>out</h1>" in (out / "report.html").read_text()
    again = build(raw / "corpus.yaml")
    assert again.exit_code == 2
    assert "already holds something" in again.output


def test_json(raw: Path) -> None:
    done = build(raw / "corpus.yaml", "--json")
    found = json.loads(done.stdout)
    assert found["documents"] == 46
    assert found["steps"][0]["name"] == "read"
    report = json.loads((raw.parent / "out/report.json").read_text())
    assert found == {"out": str(raw / "../out"), **report}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RAW/none.yaml"], "none.yaml: no such file"),
        (["RAW/corpus.yaml", "--workers", "0"], "--workers 0: give at least 1"),
        (["RAW/corpus.yaml", "--tokenise", "RAW/nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(raw: Path, words: list[str], message: str) -> None:
    done = build(*(word.replace("RAW", str(raw)) for word in words))
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert len([line for line in done.output.splitlines() if "regrow: " in line]) == 1
    assert not (raw.parent / "out").exists()
