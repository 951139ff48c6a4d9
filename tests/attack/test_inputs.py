"""Spoiled files of each kind are read, or refused in one line: a sample of the benchmark."""

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KINDS = (
    "recipe", "ledger", "training.json", "state.json", "plan", "scores", "cut", "counts",
    "store notes", "store index", "text.txt", "text.jsonl", "text.jsonl.gz", "text.jsonl.zst",
    "text.parquet", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "weights",
    "weights index", "chat_template.jinja", "GGUF",
)  # fmt: skip
EACH = 12
"""Spoiled files of a kind; templates need more time, as some fill the memory."""


@pytest.fixture(scope="module")
def inputs() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import attack_inputs
    finally:
        sys.path.remove(str(BENCHMARKS))
    return attack_inputs


@pytest.fixture(scope="module")
def kinds(inputs: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return inputs.make_kinds(tmp_path_factory.mktemp("attack") / "files")


def test_sound_files_are_read(kinds: Any) -> None:
    for kind in kinds.values():
        kind.read(kind.directory)


def test_spoiled_files_are_read_or_refused_in_one_line(inputs: Any, kinds: Any) -> None:
    drawn = inputs.draw_inputs(KINDS, EACH * len(KINDS))
    outcomes = list(inputs.attack(kinds, drawn))
    assert [outcome for outcome in outcomes if outcome.is_finding] == []
    words = [outcome.word for outcome in outcomes]
    assert len(outcomes) == len(drawn)
    assert words.count("refused") > len(words) // 2


def refuse(message: str) -> None:
    from regrow.common.errors import UserError

    raise UserError(message)


@pytest.mark.parametrize(
    ("read", "word"),
    [
        (lambda _: None, "read"),
        (lambda _: refuse("one line"), "refused"),
        (lambda _: refuse("two\nlines"), "no line"),
        (lambda _: [][9], "IndexError"),
        (lambda _: bytearray(1 << 40), "memory"),
        (lambda _: sys.exit(3), "SystemExit"),
        (lambda _: __import__("os").abort(), "crash"),
        (lambda _: __import__("time").sleep(60), "time"),
        (lambda _: sum(range(10**12)), "hang"),
    ],
)
def test_each_outcome_is_seen(
    inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Any, word: str
) -> None:
    monkeypatch.setattr(inputs, "_SECONDS", 0.3)
    (tmp_path / "a").write_bytes(b"abc 1")
    kind = inputs.Kind(tmp_path, "a", read, (lambda data, _: data + b"x",))
    outcomes = list(inputs.attack({"a": kind}, [("a", 0), ("a", 1)]))
    assert [(outcome.number, outcome.word) for outcome in outcomes] == [(0, word), (1, word)]
    assert (tmp_path / "a").read_bytes() == b"abc 1"
