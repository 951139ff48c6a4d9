"""A corpus is what its inputs and settings say, for any number of processes and after any kill."""

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regrow.cleaning import shards, unique_pass
from regrow.cleaning.build import build
from regrow.cleaning.reading import blocks
from regrow.common.errors import UserError
from regrow.common.publishing import durable
from regrow.corpus import parallel
from tests.cleaning.corpora import QUESTION, config, contents, documents, write_raw
from tests.threads import use_threads
from tests.tiny import sentences, write_model

pytest.importorskip("rensa")


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_threads(monkeypatch)
    with durable(False):
        yield


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_raw(tmp_path / "raw")
    return tmp_path / "raw"


def test_each_step_says_what_it_did(raw: Path, tmp_path: Path) -> None:
    built = build(config(raw, tmp_path / "out"), workers=1)
    steps = {step.name: step.tally for step in built.steps}
    assert [*steps] == [
        "read", "squeeze", "benchmark questions", "equal documents", "similar documents",
        "repeated paragraphs", "repeated sentences",
    ]  # fmt: skip
    assert {name: tally.documents for name, tally in steps["read"].reasons.items()} == {
        "not JSON": 1, "empty text": 1, "no key 'text'": 1,
    }  # fmt: skip
    assert steps["read"].reasons["not JSON"].examples[0].document.endswith("web.jsonl: line 6")
    dropped = {name: tally.dropped for name, tally in steps.items() if tally.dropped}
    assert dropped == {
        "read": 3, "benchmark questions": 1, "equal documents": 3, "similar documents": 1,
    }  # fmt: skip
    like = steps["equal documents"].reasons["stands before"].examples
    assert [(each.document, each.words) for each in like] == [
        ("web/web.jsonl#11", "as web/web.jsonl#4"), ("web/web.jsonl#13", "as web/web.jsonl#4"),
        ("web/web.jsonl#47", "as web/web.jsonl#1"),
    ]  # fmt: skip
    for before, after in zip(built.steps, built.steps[1:], strict=False):
        assert after.tally.read == before.tally.read - before.tally.dropped
        assert after.tally.characters_read == before.tally.characters_kept
    found = documents(built)
    assert len(found) == built.documents == 54 - 8
    assert sum(len(each["text"]) for each in found) == built.characters
    assert built.characters == built.steps[-1].tally.characters_kept
    last = next(each for each in found if each["id"] == "web/web.jsonl#48")
    assert last["text"] == "A new line.\nAnother new line."
    assert not any(QUESTION in each["text"] for each in found)
    hits = [json.loads(line) for line in (tmp_path / "out/contamination.jsonl").open()]
    assert [(hit["document"], hit["question"]) for hit in hits] == [
        ("web/web.jsonl#46", f"{raw}/questions.jsonl:1")
    ]
    assert json.loads((tmp_path / "out/report.json").read_text()) == json.loads(
        json.dumps(built.to_json())
    )
    assert {each["source"] for each in found} == {"web", "books"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_without_steps_and_duplicates_nothing_changes(raw: Path, tmp_path: Path) -> None:
    wanted = config(
        raw, tmp_path / "out", steps=[], contamination=None,
        duplicates={"exact": False, "near": False},
    )  # fmt: skip
    found = documents(build(wanted, workers=1))
    lines = [line for line in (raw / "web.jsonl").read_text().split("\n")[:-1] if "text" in line]
    texts = [text for line in lines if (text := json.loads(line)["text"]).strip()]
    texts += [(raw / f"book-{number}.txt").read_text() for number in range(6)]
    assert [each["text"] for each in found] == texts


def test_blocks_and_packing_change_no_document(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = documents(build(config(raw, tmp_path / "a"), workers=1))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 200)
    monkeypatch.setattr(unique_pass, "_BLOCK_BYTES", 300)
    monkeypatch.setattr(unique_pass, "_MOST_DOCUMENTS", 3)
    monkeypatch.setattr(shards, "_CHUNK", 5)
    pytest.importorskip("zstandard")
    for number, compress in enumerate([None, "gz", "zst"]):
        out = tmp_path / f"b{number}"
        built = build(config(raw, out, shards=4, compress=compress), workers=1)
        assert len(built.files) == 4
        if compress is None:
            assert documents(built) == whole
            sizes = [path.stat().st_size for path in built.files]
            assert max(sizes) < 2.5 * min(sizes)
        elif compress == "gz":
            texts = [gzip.decompress(path.read_bytes()) for path in built.files]
            assert [json.loads(line) for text in texts for line in text.splitlines()] == whole
        else:
            import zstandard

            texts = [zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
                     for path in built.files]  # fmt: skip
            assert [json.loads(line) for text in texts for line in text.splitlines()] == whole


def test_code_and_numbers_and_list_items_are_no_repeats(tmp_path: Path) -> None:
    code = "```\nfor each_of_the_lines in the_whole_file:\n    pass\n```\n| 1 | 2 | 3 | 4 | 5 |\n"
    names = ["Mr. Smith went home", "Mr. Jones stayed here", "Mr. Baker sang a song"]
    for number, one in enumerate(sentences(3, 4)):
        text = f"{one}\n{code}1. {one}\n2. {names[number]}.\n{code}"
        (tmp_path / f"{number}.txt").write_text(text)
    wanted = config(
        tmp_path, tmp_path / "out", contamination=None, steps=[],
        duplicates={"near": False, "paragraphs": {"least": 1}, "sentences": 1},
        sources=[{"name": "a", "path": tmp_path / "*.txt"}],
    )  # fmt: skip
    for number, found in enumerate(documents(build(wanted, workers=1))):
        assert found["text"].count("    pass\n") == found["text"].count("| 5 |\n") == 2
        assert f"2. {names[number]}.\n" in found["text"]


def test_half_a_surrogate_pair_costs_no_document(tmp_path: Path) -> None:
    text = sentences(1, 4)[0]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": f"{text} \ud83d {text} \ud83d\ude00"}))
    sources = [{"name": "a", "path": tmp_path / "a.jsonl"}]
    wanted = config(tmp_path, tmp_path / "out", contamination=None, sources=sources)
    built = build(wanted, workers=1)
    assert [each["text"] for each in documents(built)] == [f"{text} \ufffd {text} \U0001f600"]
    assert {k: v.count for k, v in built.steps[0].tally.reasons.items()} == {
        "half a surrogate pair": 1
    }
    assert built.steps[0].tally.dropped == 0


def test_a_document_that_would_be_too_long_to_read_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As JSON, in which quotes are two bytes."""
    monkeypatch.setattr("regrow.cleaning.cleaner.LONGEST", 400)
    texts = ['"' * 200, "'" * 200]
    lines = [json.dumps({"text": each}) + "\n" for each in texts]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    sources = [{"name": "a", "path": tmp_path / "a.jsonl"}]
    wanted = config(tmp_path, tmp_path / "out", contamination=None, steps=[], sources=sources)
    built = build(wanted, workers=1)
    assert [each["text"] for each in documents(built)] == texts[1:]
    assert {k: v.count for k, v in built.steps[0].tally.reasons.items()} == {"longer than 64 MB": 1}
    assert built.steps[0].tally.dropped == 1


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/a.txt").write_text("a river")
    Path(os.fsdecode(bytes(tmp_path / "a") + b"/\xc4\xe3.txt")).write_text("a storm")
    sources = [{"name": "a", "path": tmp_path / "a"}]
    wanted = config(tmp_path, tmp_path / "out", contamination=None, sources=sources)
    with pytest.raises(UserError, match=r"\\udcc4\\udce3.txt': the name is not UTF-8; rename it"):
        build(wanted, workers=1)


def test_of_equal_documents_that_stay_some_can_be_taken(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text((json.dumps({"text": sentences(1)[0]}) + "\n") * 100)
    wanted = config(
        tmp_path, tmp_path / "out", contamination=None, steps=[], documents=10,
        sources=[{"name": "a", "path": tmp_path / "a.jsonl"}],
        duplicates={"exact": False, "near": False},
    )  # fmt: skip
    assert len(documents(build(wanted, workers=1))) == 10


def test_files_that_no_reader_knows_are_counted(raw: Path, tmp_path: Path) -> None:
    for name in ("a.pdf", "b.PDF", "c.docx", "d", ".hidden.pdf"):
        (raw / name).write_text("x")
    (raw / "questions.jsonl").unlink()
    sources = [{"name": "a", "path": raw}]
    built = build(config(raw, tmp_path / "out", sources=sources, contamination=None), workers=1)
    assert built.notes == (
        "Files in directories whose suffix no reader knows, not read: "
        "1 .docx, 2 .pdf, 1 without suffix.",
    )


def test_a_size_below_each_document_is_named(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"characters: .*smaller than each of the 46 documents"):
        build(config(raw, tmp_path / "out", characters=1), workers=1)


def test_the_reason_why_nothing_could_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    sources = [{"name": "a", "path": tmp_path / "a.jsonl.gz"}]
    wanted = config(tmp_path, tmp_path / "out", sources=sources, contamination=None)
    with pytest.raises(UserError, match=r"none could be read: damaged gzip \(.*a.jsonl.gz: byte 0"):
        build(wanted, workers=1)


def test_a_copy_of_a_similar_document_is_equal(tmp_path: Path) -> None:
    text = " ".join(sentences(20, 3))
    like = text.replace("river", "rivers", 1)
    lines = [json.dumps({"text": each}) for each in (text, like, like)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    sources = [{"name": "a", "path": tmp_path / "a.jsonl"}]
    wanted = config(tmp_path, tmp_path / "out", sources=sources, contamination=None)
    dropped = {step.name: step.tally.dropped for step in build(wanted, workers=1).steps}
    assert (dropped["equal documents"], dropped["similar documents"]) == (1, 1)


def test_there_are_no_more_shards_than_documents(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    for number, text in enumerate(sentences(3, 4)):
        (tmp_path / f"{number}.txt").write_text(text)
    wanted = config(
        tmp_path, tmp_path / "out", shards=7, tokenise=str(model), contamination=None,
        sources=[{"name": "a", "path": tmp_path / "*.txt"}],
    )  # fmt: skip
    built = build(wanted, workers=1, tokenizer=model)
    assert [path.name for path in built.files] == [f"documents-0000{n}.jsonl" for n in range(3)]
    assert len(documents(built)) == 3


class _KilledError(BaseException):
    """In place of a kill: nothing that handles errors may catch it."""


@pytest.mark.parametrize("every", [1, 3])
def test_killed_at_any_checkpoint_it_ends_in_the_same_bytes(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 700)
    monkeypatch.setattr(unique_pass, "_BLOCK_BYTES", 900)
    monkeypatch.setattr(parallel, "CHECKPOINT_SECONDS", 0)
    changes: dict[str, Any] = {"shards": 2, "compress": "gz"}
    build(config(raw, tmp_path / "true/out", **changes), workers=1)
    wanted = config(raw, tmp_path / "killed/out", **changes)
    kills, done = 0, False
    while not done:
        with monkeypatch.context() as patch:
            patch.setattr("regrow.cleaning.work_files.json.dumps", _killing(4 + kills // every))
            try:
                build(wanted, workers=1)
                done = True
            except _KilledError:
                kills += 1
        assert kills < 200
    assert kills > 3
    assert contents(tmp_path / "killed") == contents(tmp_path / "true")


def _killing(after: int) -> Any:
    """`json.dumps` that raises at a call with the facts of a checkpoint."""
    calls = 0

    def dumps(value: Any, **options: Any) -> str:
        nonlocal calls
        if isinstance(value, dict) and "lengths" in value:
            calls += 1
            if calls >= after:
                raise _KilledError
        return _REAL_DUMPS(value, **options)

    return dumps


_REAL_DUMPS = json.dumps


def test_other_work_is_not_gone_on_with(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("regrow.cleaning.work_files.json.dumps", _killing(1))
        with pytest.raises(_KilledError):
            build(config(raw, out), workers=1)
    with pytest.raises(UserError, match=r"unfinished: left by .* with other settings; delete"):
        build(config(raw, out, steps=[]), workers=1)
    (raw / "book-0.txt").write_text("changed")
    with pytest.raises(UserError, match="with other files; delete"):
        build(config(raw, out), workers=1)
    shutil.rmtree(tmp_path / ".out.unfinished")
    build(config(raw, out), workers=1)


def test_two_processes_write_the_same_bytes(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(config(raw, tmp_path / "a/out"), workers=1)
    monkeypatch.undo()
    build(config(raw, tmp_path / "b/out"), workers=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_token_store_of_the_corpus(raw: Path, tmp_path: Path) -> None:
    from regrow.corpus.token_store import open_store

    model = write_model(tmp_path / "model")
    wanted = config(raw, tmp_path / "out", tokenise=str(model), tokens=600)
    built = build(wanted, workers=1, tokenizer=model)
    store = open_store(tmp_path / "out/tokens")
    assert built.tokens == len(store.tokens) == sum(1 for _ in store.tokens)
    assert built.mixture.unit == "tokens"
    assert sum(row.have for row in built.mixture.rows) > 600
    assert abs(built.tokens - built.documents - 600) < 60  # each document has an end token
    facts = json.loads((tmp_path / "out/tokens/tokens.json").read_text())
    assert [source["path"] for source in facts["sources"]] == [str(path) for path in built.files]


def test_shares_and_repeats_are_said(raw: Path, tmp_path: Path) -> None:
    sources = [
        {"name": "web", "path": raw / "web.jsonl", "share": "50%"},
        {"name": "books", "path": raw / "book-*.txt", "share": 0.5},
    ]
    built = build(config(raw, tmp_path / "out", sources=sources, characters=15_000), workers=1)
    found = documents(built)
    taken = {
        name: sum(len(each["text"]) for each in found if each["source"] == name)
        for name in ("web", "books")
    }
    web, books = built.mixture.rows
    assert abs(taken["web"] - 7_500) < 2_000
    assert abs(taken["books"] - 7_500) < 250
    assert (web.want, books.want) == (7_500, 7_500)
    assert books.taken == taken["books"]
    assert books.times == books.taken / books.have > 4
    assert "each document of books stands" in built.mixture.notes[0]
    ids = [each["id"] for each in found if each["source"] == "books"]
    assert ids[:6] == [f"books/book-{number}.txt" for number in range(6)]
    assert {ids.count(each) for each in ids} <= {int(books.times), int(books.times) + 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": [{"name": "a", "path": "RAW/none.jsonl"}]}, r"sources.0.path: .*no such file"),
        ({"sources": [{"name": "a", "path": "RAW/*.warc"}]}, "no file fits the pattern"),
        ({"sources": [{"name": "a", "path": "RAW/a.bin"}]}, "its suffix does not say how"),
        ({"sources": [{"name": "a", "path": ["RAW/web.jsonl", "RAW/web.jsonl"]}]}, "named twice"),
        ({"sources": [{"name": "a", "path": "RAW/web.jsonl", "text": "body"}]},
         r"sources.0.text: .*no key 'body' in any of its first 48 lines"),
        ({"contamination": {"against": "RAW/none.json"}}, "contamination.against: .*no such file"),
        ({"contamination": {"against": "RAW/bad.jsonl"}}, "line 1 is not JSON"),
        ({"contamination": {"against": "RAW/short.txt"}}, "no text of at least 8 words"),
        ({"steps": ["squeeze", "squeeze"]}, "steps: squeeze stands twice"),
        ({"sources": [{"name": "a", "path": "RAW"}], "out": "RAW/sub/out"}, "out: .*is in .*/raw"),
        ({"sources": [{"name": "a", "dataset": "RAW"}]}, "no data set that datasets can open"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_before_the_work(
    raw: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (raw / "a.bin").write_text("x")
    (raw / "bad.jsonl").write_text("x")
    (raw / "short.txt").write_text("Too short.\n")
    changes = json.loads(json.dumps(changes).replace("RAW", str(raw)))
    with pytest.raises(UserError, match=message):
        build(config(raw, **{"out": tmp_path / "out", **changes}), workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/web.jsonl").write_text("x\n" * 5)
    wanted = config(
        tmp_path / "raw", tmp_path / "out", contamination=None,
        sources=[{"name": "web", "path": tmp_path / "raw/web.jsonl"}],
    )  # fmt: skip
    with pytest.raises(UserError, match=r"no document is left; read dropped 5 of 5 \(not JSON\)"):
        build(wanted, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_pages_of_html_become_text(tmp_path: Path) -> None:
    pytest.importorskip("resiliparse")
    (tmp_path / "pages").mkdir()
    text = " ".join(sentences(4))
    (tmp_path / "pages/a.html").write_text(
        f"<!doctype html><html><body><nav>menu</nav><main><p>{text}</p></main></body></html>"
    )
    wanted = config(
        tmp_path, tmp_path / "out", contamination=None, steps=[],
        sources=[{"name": "web", "path": tmp_path / "pages"}],
    )  # fmt: skip
    (found,) = documents(build(wanted, workers=1))
    assert found["text"] == text
    assert found["id"] == "web/a.html"
