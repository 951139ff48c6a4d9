"""Counts are those of the obvious loop, whatever is done to the counting."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.corpus import parallel
from regrow.corpus.named_files import NamedFile
from regrow.corpus.parallel import Workers
from regrow.corpus.text import Block
from regrow.tokenizers.encoding import id_count, open_tokenizer
from regrow.vocabulary import token_counting
from regrow.vocabulary.scripts import SCRIPTS, scripts_of
from regrow.vocabulary.token_counting import count_files, plan_counts, write_counts
from regrow.vocabulary.token_counts import TokenCounts
from regrow.vocabulary.word_cache import TokenCounter
from tests.corpus.test_text_formats import NAMES, write
from tests.tiny import add_tokenizer

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=8)
MIXED = ["river stone", "水和光", "свет", "12 + 3", "The water of the garden.", ""]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_tokenizer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def here(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process can count, as those of a pool can."""
    ids = id_count(open_tokenizer(model))
    counter = OneAtATime(token_counting.make_counter(model))
    monkeypatch.setattr(token_counting, "_worker", (counter, ids), raising=False)


class OneAtATime:
    """A counter for several threads: each process of a pool has its own, and threads share one."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter, self._lock = counter, Lock()

    def count(self, texts: list[str]) -> NDArray[np.int64]:
        with self._lock:
            return self._counter.count(texts)


def named(*paths: Path) -> list[NamedFile]:
    return [NamedFile(path.parent.name, path) for path in paths]


def count_here(
    model: Path, out: Path, files: Sequence[NamedFile], *, threads: int = 1, size: int = 1 << 20,
    ahead: int = 2,
) -> TokenCounts:  # fmt: skip
    job, _ = plan_counts(model, out, files, [])
    with ThreadPoolExecutor(threads) as executor:
        return write_counts(job, out, files, Workers(executor, ahead=ahead, block_bytes=size))[0]


def plain_counts(model: Path, texts: Sequence[str]) -> Counter[tuple[str, int]]:
    """The obvious loop."""
    tokenizer = open_tokenizer(model)
    found: Counter[tuple[str, int]] = Counter()
    for text in texts:
        script = SCRIPTS[scripts_of([text])[0]]
        for token in tokenizer.encode(text, add_special_tokens=False).ids:
            found[script, token] += 1
    return found


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(
    texts=st.lists(TEXTS.map(lambda texts: ["é", *texts]), min_size=1, max_size=4),
    names=st.permutations(NAMES),
    threads=st.integers(1, 4),
    size=st.integers(1, 20_000),
    ahead=st.integers(0, 5),
)
def test_counts_are_those_of_a_loop_by_source_and_script(
    here: None, model: Path, tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]],
    names: list[str], threads: int, size: int, ahead: int,
) -> None:  # fmt: skip
    place = tmp_path_factory.mktemp("any")
    files = []
    for number, (group, name) in enumerate(zip(texts, names, strict=False)):
        (place / f"s{number % 2}").mkdir(exist_ok=True)
        files.append(place / f"s{number % 2}" / f"{number}{name}")
        write(files[-1], group)
    counts = count_here(
        model, place / "out", named(*files), threads=threads, size=size, ahead=ahead
    )
    saved = TokenCounts.load(place / "out")
    np.testing.assert_array_equal(saved.counts, counts.counts)
    assert (saved.groups, saved.files) == (counts.groups, counts.files)
    assert list(place.glob(".out*")) == []

    for source in {path.parent.name for path in files}:
        own = [t for p, g in zip(files, texts, strict=False) if p.parent.name == source for t in g]
        rows = [(g, row) for g, row in zip(counts.groups, counts.counts, strict=True)
                if g.source == source]  # fmt: skip
        found = {
            (group.script, int(token)): int(row[token])
            for group, row in rows
            for token in np.flatnonzero(row)
        }
        assert found == plain_counts(model, own)
        written = [text for text in own if text]
        assert sum(group.documents for group, _ in rows) == len(written)
        assert sum(group.characters for group, _ in rows) == len("".join(written))
        assert sum(group.bytes for group, _ in rows) == len("".join(written).encode())


SCRIPT = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from regrow.corpus import parallel
from regrow.corpus.named_files import NamedFile
from regrow.vocabulary import token_counting

parallel.CHECKPOINT_SECONDS = 0
def progress(done, total):
    if done > 0.4 * total:
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    model, out, *files = map(Path, sys.argv[1:])
    files = [NamedFile(path.parent.name, path) for path in files]
    job, _ = token_counting.plan_counts(model, out, files, [])
    with parallel.pool(2, token_counting._start, job) as workers:
        workers = replace(workers, ahead=3, block_bytes=300)
        token_counting.write_counts(job, out, files, workers, progress=progress)
"""


def test_a_killed_count_goes_on_to_the_same_file(
    here: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in NAMES]
    for number, path in enumerate(paths):
        write(path, [f"text {number} {line} {MIXED[line % 6]}" for line in range(50)])
    count_here(model, tmp_path / "whole", named(*paths), size=300)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(model), str(tmp_path / "out"), *map(str, paths)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "out").exists()

    with pytest.raises(UserError, match="left by a run that was stopped, with other files"):
        count_here(model, tmp_path / "out", named(*paths[:2]))
    with pytest.raises(UserError, match="with other names of sources"):
        count_here(model, tmp_path / "out", [NamedFile("x", path) for path in paths])
    seen: list[Block] = []
    real = token_counting._count
    monkeypatch.setattr(token_counting, "_count", lambda block: seen.append(block) or real(block))  # type: ignore[func-returns-value]
    count_here(model, tmp_path / "out", named(*paths), size=300)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert seen
    assert paths[0] not in {block.path for block in seen}
    assert not list(tmp_path.glob(".out*"))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None
)
@given(stops=st.lists(st.integers(1, 12), min_size=1, max_size=5), size=st.integers(1, 120))
def test_stopped_anywhere_it_goes_on_to_the_same_file(
    here: None, model: Path, tmp_path_factory: pytest.TempPathFactory, stops: list[int], size: int
) -> None:
    place = tmp_path_factory.mktemp("stopped")
    paths = [place / "a.jsonl.gz", place / "b.parquet", place / "c.txt"]
    for path in paths[:2]:
        write(path, [f"{path.name} {line} {MIXED[line % 6]}" for line in range(8)])
    paths[2].write_text("\n".join(MIXED))
    files = named(*paths)
    count_here(model, place / "whole", files, size=size)
    job, _ = plan_counts(model, place / "out", files, [])

    class StoppedError(Exception):
        pass

    def attempt(stop: int | None) -> None:
        calls = 0

        def progress(_done: int, _total: int) -> None:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise StoppedError

        with ThreadPoolExecutor(2) as executor:
            write_counts(
                job,
                place / "out",
                files,
                Workers(executor, ahead=1, block_bytes=size),
                progress=progress,
            )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "CHECKPOINT_SECONDS", 0)
        for stop in stops:
            try:
                attempt(stop)
            except StoppedError:
                continue
            break
        else:
            attempt(None)
    assert (place / "out").read_bytes() == (place / "whole").read_bytes()


def test_processes_give_what_threads_give_and_parts_what_the_whole_gives(
    here: None, model: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        write(path, [f"{path.name} {line} {MIXED[line % 6]}" for line in range(200)])
    files = named(*paths)
    told: list[tuple[int, int]] = []
    result = count_files(
        model, tmp_path / "two", files, workers=2, progress=lambda *pair: told.append(pair)
    )
    count_here(model, tmp_path / "one", files)
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
    assert told[-1] == (sum(path.stat().st_size for path in paths),) * 2
    assert result.taken_up == 0

    for file, name in zip(files, "ab", strict=True):
        count_here(model, tmp_path / name, [file])
    parts = [tmp_path / "a", tmp_path / "b"]
    count_files(model, tmp_path / "merged", [], workers=1, more=parts)
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "one").read_bytes()
    with pytest.raises(UserError, match=r"holds the counts of a\.jsonl, whose text .*two has too"):
        count_files(model, tmp_path / "x", [], workers=1, more=[tmp_path / "two", parts[0]])


def test_a_tokenizer_of_unknown_kind_is_refused_before_any_work(
    model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    write(path, MIXED)
    contents = json.loads((model / "tokenizer.json").read_text())
    contents["model"] = {"type": "WordLevel", "vocab": {"<pad>": 0, "a": 1}, "unk_token": "<pad>"}
    contents |= {"added_tokens": [], "post_processor": None}
    (tmp_path / "m").mkdir()
    (tmp_path / "m/tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(UserError, match=r"the tokenizer is WordLevel; what can be pruned is byte"):
        plan_counts(tmp_path / "m", tmp_path / "out", named(path), [])


def test_a_file_that_a_part_holds_is_refused_before_any_work(
    here: None, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    write(path, MIXED)
    count_here(model, tmp_path / "part", named(path))
    twice = r"part: holds the counts of .*a\.jsonl, whose text .*a\.jsonl has too"
    with pytest.raises(UserError, match=twice):
        plan_counts(model, tmp_path / "all", named(path), [tmp_path / "part"])
    # Another text of the same name and size, as shards of two corpora may be.
    other = tmp_path / "more/a.jsonl"
    other.parent.mkdir()
    write(other, [text.swapcase() for text in MIXED])
    other.write_bytes(other.read_bytes().ljust(path.stat().st_size, b"\n"))
    assert other.stat().st_size == path.stat().st_size
    plan_counts(model, tmp_path / "all", named(other), [tmp_path / "part"])


def test_a_long_text_is_counted_in_pieces(here: None, model: Path, tmp_path: Path) -> None:
    lines = [f"The river {number}\n" for number in range(200)]
    path = tmp_path / "a.txt"
    path.write_text("".join(lines))
    counts = count_here(model, tmp_path / "out", named(path), size=500)
    assert 1 < counts.groups[0].documents < 20
    # A line break before text is a token of its own here, so nothing changes where it is cut.
    whole = sum(plain_counts(model, ["".join(lines)]).values())
    assert counts.total.sum() == whole


def test_what_cannot_be_counted_leaves_nothing(here: None, model: Path, tmp_path: Path) -> None:
    empty, blank, bad, text = (tmp_path / f"{name}.jsonl" for name in ("a", "b", "c", "d"))
    empty.touch()
    blank.write_text('{"text": ""}\n\n')
    bad.write_text('{"text": "x"}\n{"body": "y"}\n')
    write(text, MIXED)
    out = tmp_path / "out"

    def refused(match: str, *paths: Path, target: Path = out) -> None:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError, match=match):
            count_here(model, target, named(*paths))
        assert sorted(tmp_path.iterdir()) == before

    refused(r"corpus: no text in .*a\.jsonl, .*b\.jsonl; give text to count", empty, blank)
    refused(r"c\.jsonl: line 2 has no key 'text'", text, bad)
    refused("named twice", text, text)
    refused("name at least one file")
    refused("exists; choose another file", text, target=blank)
    refused("is not a directory", text, target=text / "out")
    han = tmp_path / "Han/a.jsonl"
    han.parent.mkdir()
    write(han, MIXED)
    refused(r"a\.jsonl: its source would be called as the script Han is", han)
    refused(r"e\.jsonl: no such file", tmp_path / "e.jsonl")
    # A file without text is no error beside one that has some.
    assert count_here(model, out, named(empty, text)).total.sum() > 0


def test_counts_of_another_tokenizer_are_not_added(here: None, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, MIXED)
    count_here(model, tmp_path / "counts", named(path))
    other = add_tokenizer(tmp_path / "other", size=300)
    with pytest.raises(UserError, match="counts: counted with another tokenizer than that of"):
        count_files(other, tmp_path / "x", [], workers=1, more=[tmp_path / "counts"])


def test_the_hash_is_that_of_a_token_store(model: Path) -> None:
    from transformers import AutoTokenizer

    from regrow.corpus.tokenizer_hash import tokenizer_sha256

    expected = tokenizer_sha256(AutoTokenizer.from_pretrained(model))
    assert token_counting.fingerprint(open_tokenizer(model)) == expected
    contents = json.loads((model / "tokenizer.json").read_text())
    assert contents["model"]["vocab"]
    assert os.environ.get("TOKENIZERS_PARALLELISM") != "true"
