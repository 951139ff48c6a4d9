"""Tiny files of the data sets, in the forms in which their authors give them out."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SUBJECTS = {"mmlu": "anatomy", "ceval": "law", "cmmlu": "agronomy"}
COUNT = 5
"""Questions in each file."""


def lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_all(data: Path) -> Path:
    """One file of each kind; the demonstrations are other questions than the tested ones."""
    numbers = range(COUNT)
    table(
        data / "piqa/val.csv",
        [("goal", "sol1", "sol2", "label"), *((f"goal {n}", "a, b", "c", n % 2) for n in numbers)],
    )
    table(
        data / "piqa/train_part.csv",
        [("goal", "sol1", "sol2", "label"), *((f"train {n}", "x", "y", 1) for n in numbers)],
    )
    for name in ("easy", "challenge"):
        lines(
            data / f"arc/arc_{name}.jsonl",
            [
                {"query": f"Question: {name} {n}?", "choices": ["p", "q", "r"], "gold": n % 3}
                for n in numbers
            ],
        )
    choices = {"text": ["p", "q"], "label": ["1", "2"]}
    lines(
        data / "arc/ARC-Easy-validation.jsonl",
        [{"question": f"shown {n}?", "choices": choices, "answerKey": "2"} for n in numbers],
    )
    wrong = {f"distractor{n}": f"wrong {n}" for n in (1, 2, 3)}
    lines(
        data / "sciq/sciq_validation.jsonl",
        [
            {"question": f"what {n}?", **wrong, "correct_answer": "right", "support": " It is."}
            for n in numbers
        ],
    )
    lines(
        data / "boolq/boolq_validation.jsonl",
        [{"question": f"is it {n}", "passage": "A text.", "answer": n > 1} for n in numbers],
    )
    for name in ("Eval", "Test"):
        (data / "logiqa").mkdir(exist_ok=True)
        blocks = (
            f"\nb\nContext {name} {n}\nWhich?\nA.one\nB.two\nC. three\nD.four\n" for n in numbers
        )
        (data / f"logiqa/{name}.txt").write_text("".join(blocks), encoding="utf-8")
    for split in ("dev", "test"):
        table(
            data / f"mmlu/{split}/anatomy_{split}.csv",
            [(f"{split} bone {n}?", "one", "two", "three", "four", "ABCDA"[n]) for n in numbers],
        )
        table(
            data / f"cmmlu/{split}/agronomy.csv",
            [
                ("", "Question", *"ABCD", "Answer"),
                *((n, f"{split} 麦 {n}", "一", "二", "三", "四", "DCBAD"[n]) for n in numbers),
            ],
        )
    for split in ("dev", "val"):
        table(
            data / f"ceval/{split}/law_{split}.csv",
            [
                ("id", "question", *"ABCD", "answer"),
                *((n, f"{split} 法 {n}", "一", "二", "三", "四", "ABCDB"[n]) for n in numbers),
            ],
        )
    examples = [
        {"input": f"Which {n}?\nOptions:\n(A) yes\n(B) no\n(C) both", "target": "(C)"}
        for n in numbers
    ]
    lines(data / "bbh/snarks.json", [{"canary": "", "examples": examples}])
    return data
