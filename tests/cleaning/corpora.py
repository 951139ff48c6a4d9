"""Small raw text and a step of cleaning, for tests of corpora."""

import json
from pathlib import Path
from typing import Any

from regrow.cleaning.built import BuiltCorpus
from regrow.cleaning.config import CorpusConfig
from tests.tiny import sentences

QUESTION = "Which of the following birds can be seen on the bridge in the early winter morning"


def write_raw(directory: Path) -> None:
    """Raw text of two sources, with duplicates, a question, and damaged parts."""
    directory.mkdir()
    web = [f"{one}\n{two}" for one, two in zip(sentences(40, 1), sentences(40, 2), strict=True)]
    web[7] = web[3]
    web[9] = web[3].upper() + " \n"
    long = " ".join(sentences(20, 3))
    web += [long, long.replace("river", "rivers", 1), f"Before. {QUESTION}? After.", web[0]]
    web.append("A new line.\n" + web[1].split("\n")[0] + "\nAnother new line.")
    rows = [json.dumps({"text": text}) for text in web]
    rows[5:5] = ["no JSON", json.dumps({"text": "  "}), json.dumps({"other": 1})]
    (directory / "web.jsonl").write_text("\n".join(rows) + "\n")
    for number, text in enumerate(sentences(6, 4)):
        (directory / f"book-{number}.txt").write_text(text * 3)
    (directory / "questions.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "no"}))


def config(directory: Path, out: Path, **changes: Any) -> CorpusConfig:
    """A configuration with all kinds of duplicates."""
    values: dict[str, Any] = {
        "out": out,
        "sources": [
            {"name": "web", "path": directory / "web.jsonl"},
            {"name": "books", "path": directory / "book-*.txt"},
        ],
        "steps": ["squeeze"],
        "duplicates": {"paragraphs": {"least": 20}, "sentences": 3},
        "contamination": {"against": directory / "questions.jsonl"},
        **changes,
    }
    return CorpusConfig.model_validate(values)


def documents(built: BuiltCorpus) -> list[dict[str, Any]]:
    """The documents in the files of a corpus that are not packed."""
    lines = [line for path in built.files for line in path.read_text().split("\n")]
    return [json.loads(line) for line in lines if line]


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
