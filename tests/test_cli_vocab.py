import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regrow import cli
from regrow.corpus import parallel
from regrow.vocabulary import counting
from regrow.vocabulary.counts import TokenCounts
from tests.tiny import sentences, write_model, write_text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("vocab") / "model")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads in place of processes, which take seconds to begin."""
    from concurrent.futures import ThreadPoolExecutor

    def started(workers: int, start: object, job: counting.Job) -> ThreadPoolExecutor:
        worker = counting.counter(job.model), job.ids
        monkeypatch.setattr(counting, "_worker", worker, raising=False)
        return ThreadPoolExecutor(1)

    monkeypatch.setattr(parallel, "pool", started)


def regrow(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def test_count_many_files_and_merge(model: Path, tmp_path: Path) -> None:
    en = write_text(tmp_path / "en-0001.jsonl", sentences(30))
    more = write_text(tmp_path / "en-0002.jsonl", sentences(20, seed=1))
    zh = write_text(tmp_path / "x.jsonl", ["水和光", "石头"])
    out = tmp_path / "counts"
    told = regrow("vocab", "count", model, out, "--corpus", en, more, f"zh={zh}")
    assert "counts" in told
    assert [line.split()[:3] for line in told.splitlines()[2:4]] == [
        ["en", "Latin", "50"], ["zh", "Han", "2"],
    ]  # fmt: skip
    whole = TokenCounts.load(out)

    for path, name in ((en, "a"), (more, "b")):
        regrow("vocab", "count", model, tmp_path / name, "--corpus", path)
    parts = ["--merge", tmp_path / "a", "--merge", tmp_path / "b"]
    regrow("vocab", "count", model, tmp_path / "all", "--corpus", f"zh={zh}", *parts)
    merged = TokenCounts.load(tmp_path / "all")
    assert merged.groups == whole.groups
    assert (merged.counts == whole.counts).all()
    found = json.loads(
        regrow("vocab", "count", model, tmp_path / "js", "--corpus", f"zh={zh}", "--json")
    )
    assert found["groups"][0]["tokens"] == whole.counts[1].sum()


def test_what_count_refuses_is_one_line(model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    out = tmp_path / "counts"
    for arguments, said in (
        ([model, out], "--corpus: name at least one file"),
        ([model, out, "--corpus", empty], "no text in"),
        ([model, out, "--merge", empty], "not token counts"),
        ([tmp_path, out, "--corpus", empty], "tokenizer.json"),
    ):
        told = regrow("vocab", "count", *arguments, code=2)
        assert said in told
        assert told.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["empty.jsonl"]
