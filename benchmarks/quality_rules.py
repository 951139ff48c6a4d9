"""Documents that the step `quality` keeps, against the filters of datatrove.

    python benchmarks/quality_rules.py FILE [FILE ...]

Each FILE (.jsonl, .jsonl.gz or .txt) is good text, so what is dropped of it is dropped wrongly, or
is no prose. A .txt file is read as documents of whole lines of at least 2,000 characters. The peer
is datatrove's filters of FineWeb in their order: Gopher's repetition, C4's without the rule that
lines must end in a full stop, Gopher's quality, FineWeb's quality; for Chinese text too, as many
pipelines use them. They need spaCy (pip install spacy). Speed is in characters a second of this
process.

Spoiled documents must be dropped. Of every tenth document of at least 500 characters four are made:
its words in alphabetical order with commas; its words, five on a line; its beginning, repeated; and
its words with numbers in place of every second one.
"""

import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common import Goal, Result, parser, say, show

from regrow.cleaning.document import Document
from regrow.cleaning.scripts import is_spaceless, units
from regrow.cleaning.steps.quality import Quality

PEER = "datatrove"
ENOUGH = 2_000
EVERY = 10
"""With --quick, one document of so many is read."""


def texts(path: Path) -> list[str]:
    """The documents of a file."""
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().split("\n")
    if path.suffix == ".txt":
        return list(_joined(lines))
    return [json.loads(line)["text"] for line in lines if line.strip()]


def _joined(lines: Sequence[str]) -> Iterator[str]:
    held = ""
    for line in lines:
        held += line + "\n"
        if len(held) >= ENOUGH:
            yield held
            held = ""


def spoiled(text: str) -> Iterator[str]:
    """Documents that nobody wants, made of a document."""
    words = units(text)
    gap = "" if is_spaceless(text) else " "
    yield ", ".join(sorted(set(words)))
    yield "\n".join(gap.join(words[at : at + 5]) for at in range(0, len(words), 5))
    yield gap.join(words[:15] * (len(words) // 15))
    yield " ".join(word if at % 2 else str(7 * at) for at, word in enumerate(words))


def _ours() -> Callable[[str], str | None]:
    step = Quality()

    def reason(text: str) -> str | None:
        outcome = step.apply(Document(text, "id", "source"))
        return None if outcome.document is not None else outcome.findings[-1].reason

    return reason


def _theirs() -> Callable[[str], str | None]:
    from datatrove.data import Document as PeerDocument
    from datatrove.pipeline import filters

    chain: list[Any] = [
        filters.GopherRepetitionFilter(), filters.C4QualityFilter(filter_no_terminal_punct=False),
        filters.GopherQualityFilter(), filters.FineWebQualityFilter(),
    ]  # fmt: skip

    def reason(text: str) -> str | None:
        document = PeerDocument(text, "id")
        for each in chain:
            kept = each.filter(document)
            if kept is not True:
                return str(kept[1]) if isinstance(kept, tuple) else type(each).__name__
        return None

    return reason


def _measured(judge: Callable[[str], str | None], documents: Sequence[str]) -> tuple[float, float]:
    """The share that is kept, and the characters a second."""
    judge(documents[0])
    began = time.process_time()
    reasons = Counter(map(judge, documents))
    seconds = time.process_time() - began
    say(f"  {', '.join(f'{reason}: {n}' for reason, n in reasons.most_common(6))}")
    return reasons[None] / len(documents), sum(map(len, documents)) / seconds


def _results(options: argparse.Namespace) -> list[Result]:
    results = []
    ours, theirs = _ours(), _theirs()
    for path in options.files:
        documents = texts(path)[:: EVERY if options.quick else 1]
        say(f"{path.name}: {len(documents)} documents")
        (kept, speed), (peer_kept, peer_speed) = (
            _measured(judge, documents) for judge in (ours, theirs)
        )
        results += [
            Result(f"{path.name}: kept", 100 * kept, "%", PEER, 100 * peer_kept,
                   Goal("value", ">=", 100 * peer_kept)),
            Result(f"{path.name}: speed", speed / 1e6, "M characters/s", PEER, peer_speed / 1e6,
                   Goal("ratio", ">=", 1)),
        ]  # fmt: skip
        bad = [each for text in documents[::EVERY] if len(text) >= 500 for each in spoiled(text)]
        dropped, peer_dropped = (100 * (1 - _measured(judge, bad)[0]) for judge in (ours, theirs))
        goal = Goal("value", ">=", 95)
        name = f"{path.name}: spoiled documents dropped"
        results.append(Result(name, dropped, "%", PEER, peer_dropped, goal))
    return results


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("files", type=Path, nargs="+", help=".jsonl, .jsonl.gz or .txt")
    chosen = made.parse_args()
    show(_results(chosen), as_json=chosen.json)
