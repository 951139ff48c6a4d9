"""A token store holds every document once, in order, whatever is done to the writing of it."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from regrow.cli import app
from regrow.common.errors import UserError
from regrow.common.files import write_atomically
from regrow.common.publishing import partial_place, unfinished_place
from regrow.corpus import parallel, tokenisation
from regrow.corpus.parallel import Workers
from regrow.corpus.text import Block, Position
from regrow.corpus.token_store import open_store
from regrow.corpus.tokenisation import (
    Tokenised,
    TokenisedFile,
    plan_store,
    tokenise_files,
    write_store,
)
from tests.corpus.test_text_formats import NAMES, write
from tests.threads import use_threads
from tests.training.small import EOS, byte_tokenizer

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=8)
STORE = ("tokens.bin", "tokens.idx", "tokens.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    byte_tokenizer().save_pretrained(directory)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    return directory


@pytest.fixture
def here(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process can tokenise, as those of a pool can."""
    job = tokenisation.Job(model, "", EOS, "uint16")
    monkeypatch.setattr(tokenisation, "_worker", (byte_tokenizer(), job), raising=False)


def ids(text: str) -> list[int]:
    found: list[int] = byte_tokenizer()(text)["input_ids"]
    return found


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_names_of_special_tokens_are_tokens_if_the_job_says_so(
    model: Path, here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = Block(tmp_path / "a.txt", Position(), Position(9, 1), b"one<eos>two", 11)
    plain, _ = tokenisation._encode(block)
    tokenizer, job = tokenisation._worker
    monkeypatch.setattr(tokenisation, "_worker", (tokenizer, replace(job, special_tokens=True)))
    meant, _ = tokenisation._encode(block)
    assert plain.tolist() == [*ids("one<"), *ids("eos>two"), EOS]
    assert meant.tolist() == [*ids("one"), EOS, *ids("two"), EOS]


def run_here(
    model: Path, out: Path, files: list[Path], threads: int = 1, size: int = 1 << 20, ahead: int = 2
) -> Tokenised:
    job = plan_store(model, out, files, eos=True)
    with ThreadPoolExecutor(threads) as executor:
        return write_store(job, out, files, Workers(executor, ahead=ahead, block_bytes=size))


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
def test_every_document_is_there_once_and_in_order(
    here: None, model: Path, tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]],
    names: list[str], threads: int, size: int, ahead: int,
) -> None:  # fmt: skip
    place = tmp_path_factory.mktemp("any")
    files = []
    for number, (group, name) in enumerate(zip(texts, names, strict=False)):
        (place / str(number)).mkdir()
        files.append(place / str(number) / name)
        write(files[-1], group)
    result = run_here(model, place / "any", files, threads, size, ahead)
    run_here(model, place / "one", files)
    assert content(place / "any") == content(place / "one")
    assert set(content(place / "any")) == set(STORE)

    store = open_store(place / "any", tokenizer=byte_tokenizer())
    expected = [[*ids(text), EOS] for group in texts for text in group if text]
    assert [store[number].tolist() for number in range(len(store))] == expected
    assert store.end == EOS
    assert store.tokens.dtype == np.uint16
    counted = [(source["documents"], source["tokens"]) for source in store.facts["sources"]]
    assert counted == [
        (len(written), sum(len(ids(text)) + 1 for text in written))
        for group in texts
        if (written := [text for text in group if text])
    ]
    assert result.documents == store.facts["documents"] == len(expected)
    assert result.tokens == store.facts["tokens"] == sum(map(len, expected))


SCRIPT = """
import multiprocessing, os, signal, sys
from dataclasses import replace
from pathlib import Path
from regrow.corpus import parallel, tokenisation

parallel.CHECKPOINT_SECONDS = 0
def progress(done, total):
    if done > {after} * total:
        print(*multiprocessing.active_children(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    model, out, *files = map(Path, sys.argv[1:])
    job = tokenisation.plan_store(model, out, files, eos=True)
    with tokenisation.pool(job, 2) as workers:
        workers = replace(workers, ahead=3, block_bytes=300)
        tokenisation.write_store(job, out, files, workers, progress=progress)
"""


def test_a_killed_run_goes_on_to_the_same_bytes(
    here: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in NAMES]
    for number, path in enumerate(files):
        write(path, [f"text {number} {line}" for line in range(50)])
    run_here(model, tmp_path / "whole", files)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(after=0.4))
    command = [sys.executable, str(script), str(model), str(tmp_path / "out"), *map(str, files)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "out").exists()

    encoded: list[Block] = []
    real = tokenisation._encode
    monkeypatch.setattr(tokenisation, "_encode", lambda block: encoded.append(block) or real(block))  # type: ignore[func-returns-value]
    with pytest.raises(UserError, match="left by a run that was stopped, with other files"):
        run_here(model, tmp_path / "out", files[:2])
    store = unfinished_place(tmp_path / "out") / "store"
    with (store / "tokens.bin").open("ab") as file:
        file.write(b"what was written after the last note")
    partial_place(store / "tokens.json").write_text("and what was not renamed")
    result = run_here(model, tmp_path / "out", files)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert 50 <= result.taken_up < 200
    assert files[0] not in {block.path for block in encoded}
    assert not list(tmp_path.glob(".out*"))
    _wait_for_end([int(part) for part in _pids(killed.stdout)])


def _run_and_note_all(model: Path, out: Path, files: list[Path], *how: int) -> None:
    parallel.CHECKPOINT_SECONDS = 0
    run_here(model, out, files, *how)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_by_any_number_it_ends_in_the_same_bytes(
    here: None, model: Path, tmp_path: Path, seed: int
) -> None:
    """SIGKILL at random times, each time with other threads, blocks and read-ahead."""
    drawn = random.Random(seed)
    files = [tmp_path / name for name in NAMES]
    for number, path in enumerate(files):
        write(path, [f"text {number} {line}" * drawn.randint(0, 9) for line in range(80)])
    run_here(model, tmp_path / "whole", files)
    out, forks, kills = tmp_path / "out", multiprocessing.get_context("fork"), 0
    while not out.exists():
        how = (drawn.randint(1, 4), drawn.randint(1, 400), drawn.randint(0, 5))
        process = forks.Process(target=_run_and_note_all, args=(model, out, files, *how))
        process.start()
        process.join(drawn.uniform(0, 0.08) if kills < 20 else 60)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills > 0
    assert content(out) == content(tmp_path / "whole")


class FailedError(Exception):
    pass


def _fail(*_: Any, **__: Any) -> None:
    raise FailedError


@pytest.mark.parametrize("what", ["write_index", "write_atomically", "publish_finished"])
def test_it_goes_on_where_it_failed_to_finish(
    here: None, model: Path, tmp_path: Path, what: str
) -> None:
    """At the index, at the facts, and at the name of the directory."""
    file, out = _text(tmp_path), tmp_path / "out"
    run_here(model, tmp_path / "whole", [file])

    def all_but_facts(path: Path, data: bytes) -> None:
        write_atomically(path, data) if path.name != "tokens.json" else _fail()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenisation, what, all_but_facts if what == "write_atomically" else _fail)
        with pytest.raises(FailedError):
            run_here(model, out, [file])
    assert not out.exists()
    assert run_here(model, out, [file]).taken_up == 1
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert content(out) == content(tmp_path / "whole")
    assert len(open_store(out)) == 1


def _pids(listed: str) -> list[str]:
    return [part.split("pid=")[1].split()[0] for part in listed.split("<")[1:]]


def _wait_for_end(pids: list[int]) -> None:
    """The processes of a pool end when what started them is killed."""
    assert len(pids) == 2
    until = time.monotonic() + 20
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(stops=st.lists(st.integers(1, 12), min_size=1, max_size=5), size=st.integers(1, 120))
def test_stopped_anywhere_and_with_other_blocks_it_goes_on(
    here: None, model: Path, tmp_path_factory: pytest.TempPathFactory, stops: list[int], size: int
) -> None:
    place = tmp_path_factory.mktemp("stopped")
    files = [place / "a.jsonl.gz", place / "b.parquet", place / "c.jsonl"]
    for number, path in enumerate(files):
        write(path, [f"{number} {line}" for line in range(8)])
    run_here(model, place / "whole", files)
    job = plan_store(model, place / "out", files, eos=True)

    class StoppedError(Exception):
        pass

    def attempt(stop: int | None, size: int) -> None:
        calls = 0

        def progress(_done: int, _total: int) -> None:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise StoppedError

        with ThreadPoolExecutor(2) as executor:
            write_store(
                job,
                place / "out",
                files,
                Workers(executor, ahead=1, block_bytes=size),
                progress=progress,
            )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "CHECKPOINT_SECONDS", 0)
        for number, stop in enumerate(stops):
            try:
                attempt(stop, size + number)
            except StoppedError:
                continue
            break
        else:
            attempt(None, size)
    assert content(place / "out") == content(place / "whole")


def test_processes_give_what_threads_give(here: None, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    write(file, [f"text {line}" for line in range(300)])
    told: list[tuple[int, int]] = []
    result = tokenise_files(
        model, tmp_path / "two", [file], workers=2, progress=lambda *pair: told.append(pair)
    )
    run_here(model, tmp_path / "here", [file])
    assert content(tmp_path / "two") == content(tmp_path / "here")
    assert told[-1] == (file.stat().st_size,) * 2
    assert (result.documents, result.taken_up) == (300, 0)


def test_without_ends(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    write(file, ["ab", "c"])
    job = plan_store(model, tmp_path / "out", [file], eos=False)
    monkeypatch.setattr(tokenisation, "_worker", (byte_tokenizer(), job), raising=False)
    with ThreadPoolExecutor(1) as executor:
        write_store(job, tmp_path / "out", [file], Workers(executor, ahead=1))
    store = open_store(tmp_path / "out")
    assert [store[0].tolist(), store[1].tolist()] == [ids("ab"), ids("c")]
    assert store.end is None


# What a user can get wrong


def _text(tmp_path: Path, name: str = "a.jsonl") -> Path:
    write(tmp_path / name, ["one"])
    return tmp_path / name


def test_what_is_wrong_is_said_before_any_work(model: Path, tmp_path: Path) -> None:
    file, out = _text(tmp_path), tmp_path / "out"
    (tmp_path / "there").mkdir()
    (tmp_path / "there/x").touch()
    bare = tmp_path / "bare"
    byte_tokenizer(eos=False).save_pretrained(bare)
    (bare / "config.json").write_text('{"model_type": "llama"}')
    cases: list[tuple[Path, Path, list[Path], str]] = [
        (model, out, [], "name at least one file"),
        (model, out, [tmp_path / "b.jsonl"], "no such file"),
        (model, out, [file, tmp_path / "there" / ".." / "a.jsonl"], "named twice"),
        (model, tmp_path / "there", [file], "already holds something"),
        (model, file / "out", [file], "is not a directory; choose another place"),
        (bare, out, [file], "no eos_token"),
        (tmp_path, out, [file], "no tokenizer"),
    ]
    for directory, place, files, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            plan_store(directory, place, files, eos=True)
        assert "\n" not in str(caught.value)
    assert plan_store(bare, out, [file], eos=False).end is None


def test_a_wrong_line_is_named_and_nothing_stays(here: None, model: Path, tmp_path: Path) -> None:
    good, bad = _text(tmp_path), tmp_path / "b.jsonl"
    bad.write_text('{"text": "a"}\n\n{"text": 3}\n')
    for size in (1, 1000):
        with pytest.raises(UserError, match=r"b\.jsonl: line 3, key 'text'"):
            run_here(model, tmp_path / "out", [good, bad], size=size)
    bad.write_text("\n")
    for files in ([good, bad], [bad, good]):
        with pytest.raises(UserError, match=r"b\.jsonl: the file holds no document"):
            run_here(model, tmp_path / "out", files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_a_file_of_a_directory_may_be_empty(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_threads(monkeypatch)
    for name, text in (("a.txt", "one"), ("b.txt", ""), ("z.txt", " ")):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / name).write_text(text)
    made = tokenise_files(model, tmp_path / "out", [tmp_path / "text"], workers=1)
    assert [file.documents for file in made.sources] == [1, 0, 0]
    with pytest.raises(UserError, match=r"a\.txt: named twice"):
        tokenise_files(model, tmp_path / "none", [tmp_path / "text/a.txt"] * 2, workers=1)
    (tmp_path / "text/a.txt").write_text("")
    with pytest.raises(UserError, match="the text files hold no document"):
        tokenise_files(model, tmp_path / "none", [tmp_path / "text"], workers=1)
    assert not (tmp_path / "none").exists()


def test_two_runs_do_not_write_one_store(here: None, model: Path, tmp_path: Path) -> None:
    file = _text(tmp_path)

    class Nested(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **more: Any) -> Any:
            with pytest.raises(UserError, match=r"another process \(\d+\) is writing it"):
                run_here(model, tmp_path / "out", [file])
            return super().submit(*arguments, **more)

    job = plan_store(model, tmp_path / "out", [file], eos=True)
    executor: Executor
    with Nested(1) as executor:
        write_store(job, tmp_path / "out", [file], Workers(executor, ahead=1))
    assert len(open_store(tmp_path / "out")) == 1


def test_the_command(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_threads(monkeypatch)
    one, two = _text(tmp_path, "one.jsonl"), _text(tmp_path, "two.parquet")
    out = tmp_path / "out"

    def call(*arguments: object) -> Any:
        return CliRunner().invoke(app.app, ["corpus", "tokenise", *map(str, arguments)])

    shown = call(model, out, "--text", one, two, "--workers", 1)
    assert shown.exit_code == 0, shown.output
    # The path of a file may take several lines.
    last = [line.split()[-2:] for line in shown.stdout.splitlines()]
    numbers = [words for words in last if "".join(words).isdigit()]
    assert numbers == [["1", "4"], ["1", "4"], ["2", "8"]]
    assert f"8 tokens as uint16 in {out}" in shown.stdout
    again = call(model, out, "--text", one)
    assert again.exit_code == 2
    assert again.stderr.startswith(f"regrow: {out}: already holds something; choose an empty")
    found = json.loads(call(model, tmp_path / "b", "--text", two, "--no-eos", "--json").stdout)
    assert (found["documents"], found["tokens"], found["sources"][0]["path"]) == (1, 3, str(two))
    assert os.listdir(tmp_path / "b")  # noqa: PTH208


@pytest.mark.parametrize(
    "changes",
    [{"sources": []}, {"sources": [{"path": 1}]}, {"source": -1}, {"place": None},
     {"place": {"offset": "0", "record": 0}}, {"source": 9}],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / ".out.unfinished/.progress/state.json"
    path.parent.mkdir(parents=True)
    place = {"offset": 0, "record": 0}
    source = {"path": "a", "bytes": 1, "documents": 0, "tokens": 0}
    state = {"sources": [source], "source": 0, "place": place}
    path.write_text(json.dumps(state))
    assert tokenisation._read_state(path, 1).files == [TokenisedFile(**source)]  # type: ignore[arg-type]
    path.write_text(json.dumps({**state, **changes}))
    with pytest.raises(UserError, match=r"state\.json: damaged; delete .*unfinished to begin"):
        tokenisation._read_state(path, 1)
