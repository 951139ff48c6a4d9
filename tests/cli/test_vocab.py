import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regrow.cli import app
from regrow.vocabulary.sizing import unseen_share
from regrow.vocabulary.token_counts import TokenCounts
from tests.threads import use_threads
from tests.tiny import sentences, write_model, write_text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("vocab") / "model")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    use_threads(monkeypatch)


def regrow(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app.app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


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


@pytest.fixture(scope="module")
def counted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("counted")
    texts = [
        f"{name}={write_text(place / f'{name}.jsonl', documents)}"
        for name, documents in (("en", sentences(60)), ("up", ["THE RIVER"] * 9))
    ]
    with pytest.MonkeyPatch.context() as patch:
        use_threads(patch)
        regrow("vocab", "count", model, place / "counts", "--corpus", *texts)
    return place / "counts"


def test_plan_shows_and_writes(
    model: Path, counted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, page = tmp_path / "plan.json", tmp_path / "plan.html"
    asked = ["vocab", "plan", model, counted, "--coverage", "95%", "--minimum", 3]
    told = regrow(*asked, "--out", out, "--page", page)
    assert "asked for" in told
    assert max(map(len, told.splitlines()[:12])) <= 80
    assert page.read_text().count("<svg") == 2
    kept = json.loads(out.read_text(encoding="utf-8"))["tokens"]
    why = {token[3] for token in kept}
    assert why <= {"special", "config", "byte", "count", "merge ancestor", "language"}
    found = json.loads(regrow(*asked, "--json"))
    assert found["chosen"] == len(kept) < 320
    assert found["sizes"][0]["size"] == 320
    assert sum(found["reasons"].values()) == len(kept)


def test_a_corpus_that_is_too_small_is_named(model: Path, tmp_path: Path) -> None:
    for name, documents, small in (("a", sentences(1), True), ("b", sentences(60), False)):
        text = write_text(tmp_path / f"{name}.jsonl", documents)
        regrow("vocab", "count", model, tmp_path / name, "--corpus", text)
        told = regrow("vocab", "plan", model, tmp_path / name)
        assert ("the corpus is small for this choice: about " in " ".join(told.split())) == small
        found = json.loads(regrow("vocab", "plan", model, tmp_path / name, "--json"))
        assert found["text_too_small"] == small
    total = TokenCounts.load(tmp_path / "a").total
    assert unseen_share(total) == (total == 1).sum() / total.sum() > 0


def test_what_plan_refuses_is_one_line(model: Path, counted: Path, tmp_path: Path) -> None:
    keep = tmp_path / "keep.txt"
    keep.write_text("nonesuch\n")
    for arguments, said in (
        ([model, counted, "--size", 100], "the least is 259, since these must stay:"),
        ([model, counted, "--size", 400], "above the 320 tokens"),
        ([model, counted, "--size", 300, "--coverage", 0.9], "give one"),
        ([model, counted, "--coverage", 2], "--coverage 2: not a share"),
        ([model, counted, "--keep", keep], "no token 'nonesuch'"),
        ([model, counted, "--only", "de"], "'de' was not counted"),
        ([model, tmp_path / "none"], "no such file"),
        ([model, counted, "--out", keep / "plan.json"], "is not a directory"),
        ([model, counted, "--out", keep], "exists; choose another file"),
        ([model, counted, "--page", tmp_path], "is a directory; name a file"),
        ([model, counted, "--page", keep], "exists and is no page; choose another file"),
        ([model, counted, "--page", model / "page.html"], "lies inside the model"),
    ):
        out = [] if "--out" in arguments else ["--out", tmp_path / "p.json"]
        told = regrow("vocab", "plan", *arguments, *out, code=2)
        assert said in told
        assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]


def test_prune_by_a_plan_and_by_counts(model: Path, counted: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    regrow("vocab", "plan", model, counted, "--size", 300, "--out", plan)
    for name, arguments in {
        "plan": ["vocab", "prune", model, "--plan", plan],
        "counts": ["vocab", "prune", model, "--counts", counted, "--size", 300],
        "both": ["prune", model, "--vocab-plan", plan, "--drop-layers", 2],
    }.items():
        told = regrow(*arguments, tmp_path / name)
        assert "vocabulary 320 -> 300" in told
    kept = [
        (tmp_path / name / "regrow_vocabulary.json").read_bytes()
        for name in ("plan", "counts", "both")
    ]
    assert kept[0] == kept[1] == kept[2]
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("plan", "counts")]
    assert weights[0] == weights[1]


def test_what_prune_refuses_is_one_line(model: Path, counted: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ([], "give --plan, or --counts with --size or --coverage"),
        (["--counts", counted], "the number of tokens to keep is missing"),
        (["--counts", counted, "--size", 10], "the least is 259"),
        (["--plan", counted], "not JSON"),
    ):
        told = regrow("vocab", "prune", model, tmp_path / "out", *arguments, code=2)
        assert said in told
        assert told.strip().count("\n") == 0
        assert not list(tmp_path.iterdir())


def test_grow_adds_words_and_refuses_in_one_line(model: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "domain.jsonl", ["use kubectl get", "then kubectl"] * 10)
    asked = ["vocab", "grow", model, tmp_path / "out"]
    told = regrow(*asked, "--corpus", text, "--tokens", 8, "--dry-run")
    assert "7 more tokens: " in told
    why = "7 of the 8 tokens: no other two stand beside each other 20 times in the words"
    assert why in told
    assert "--least" in told
    assert why not in regrow(*asked, "--corpus", text, "--tokens", 7, "--dry-run")
    assert "vocabulary 320 -> 327" in told
    for arguments, said in (
        ([], "--corpus: name at least one file"),
        (["--corpus", text, "--least", 99], "no two tokens stand beside each other 99 times"),
        (["--corpus", text, "--tokens", "few"], "--tokens few: not a number"),
    ):
        told = regrow(*asked, *arguments, code=2)
        assert said in told
        assert [path.name for path in tmp_path.iterdir()] == ["domain.jsonl"]
    assert json.loads(regrow(*asked, "--corpus", text, "--json"))["size"] == 327
    assert (tmp_path / "out/model.safetensors").exists()
