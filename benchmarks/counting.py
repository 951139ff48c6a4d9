"""Counting tokens: `regrow vocab count` against simple loops, on files of many short lines.

    python benchmarks/counting.py MODEL [--text FILE ...]

MODEL is a directory with a tokenizer.json. Each line of the text is a document, and lines are
repeated in another order until there are enough of them. Without --text the text is the source code
of Python's standard library. Speeds are in MB of text a second. For regrow they include the whole
command with the start of its processes. The loops are timed after the tokenizer is loaded, and read
every eighth line of the same file. On these lines all must give the same counts. Memory is the peak
of the resident set, of the process that reads and of the largest process that tokenises, for one
file and for another that is four times as long.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import Goal, Result, parser, say, show

from regrow.corpus.text import read_documents
from regrow.vocabulary.token_counts import TokenCounts

EVERY = 8
SHORTEST = 8
"""The fewest characters of a line that is used."""

# The loops that are compared. Each prints its seconds, and writes how often each token occurred.
LOOP = """
import json, sys, time
from collections import Counter
{load}
counts = Counter()
began = time.perf_counter()
with open(sys.argv[2], encoding="utf-8") as lines:
    for line in lines:
        counts.update({encode})
print(time.perf_counter() - began)
json.dump(counts, open(sys.argv[3], "w"))
"""
TRANSFORMERS = LOOP.format(
    load="from transformers import AutoTokenizer\n"
    "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])",
    encode='tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"]',
)
TOKENIZERS = LOOP.format(
    load="from tokenizers import Tokenizer\n"
    "tokenizer = Tokenizer.from_file(sys.argv[1] + '/tokenizer.json')",
    encode='tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids',
)
# Runs the `regrow` command, and writes its seconds and two peaks of memory in KiB to a file.
REGROW = """
import atexit, resource, sys, time
began = time.perf_counter()
def peaks():
    with open("/proc/self/status") as status:
        own = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with open(target, "w") as file:
        file.write(f"{time.perf_counter() - began} {own} {largest}")
if __name__ == "__main__":
    target = sys.argv.pop(1)
    atexit.register(peaks)
    from regrow.cli.app import main
    main()
"""


@dataclass(frozen=True)
class Counted:
    """Seconds, and peaks of memory in bytes.

    `own`: of the process that reads. `largest`: of the largest other process.
    """

    seconds: float
    own: int
    largest: int


def lines_of(paths: Sequence[Path]) -> list[str]:
    """All lines of the texts that have at least `SHORTEST` characters."""
    texts: Iterator[str] = (text for path in paths for text in read_documents(path))
    if not paths:
        library = Path(sysconfig.get_paths()["stdlib"])
        sources = sorted(p for p in library.rglob("*.py") if "site-packages" not in p.parts)
        texts = (path.read_text(encoding="utf-8", errors="ignore") for path in sources)
    return [line for text in texts for line in text.split("\n") if len(line) >= SHORTEST]


def write_lines(lines: Sequence[str], nbytes: int, path: Path, seed: int) -> float:
    """Write about `nbytes` of text as JSONL; return the MB of text written."""
    order = random.Random(seed)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < nbytes:
            for line in order.sample(lines, len(lines)):
                file.write(json.dumps({"text": line}, ensure_ascii=False) + "\n")
                written += len(line.encode())
                if written >= nbytes:
                    break
    return written / 1e6


def write_part(whole: Path, part: Path) -> float:
    """Write every eighth line; return the MB of text written."""
    written = 0
    with whole.open(encoding="utf-8") as lines, part.open("w", encoding="utf-8") as file:
        for number, line in enumerate(lines):
            if number % EVERY == 0:
                file.write(line)
                written += len(json.loads(line)["text"].encode())
    return written / 1e6


def regrow(model: Path, text: Path, work: Path, workers: int) -> tuple[Counted, TokenCounts]:
    script, peaks, out = work / "regrow_script.py", work / "peaks", work / "counts"
    script.write_text(REGROW)  # a file, because the worker processes import the main module
    run(script, peaks, "vocab", "count", model, out, "--corpus", text, "--workers", workers)
    seconds, own, largest = peaks.read_text().split()
    counts = TokenCounts.load(out)
    out.unlink()
    return Counted(float(seconds), 1024 * int(own), 1024 * int(largest)), counts


def loop(code: str, model: Path, text: Path, work: Path) -> tuple[float, dict[int, int]]:
    out = work / "loop.json"
    seconds = float(run("-c", code, model, text, out))
    counts = {int(token): count for token, count in json.loads(out.read_text()).items()}
    return seconds, counts


def run(*arguments: object) -> str:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"failed:\n{done.stderr}")
    return done.stdout


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path, metavar="MODEL")
    arguments.add_argument("--text", type=Path, nargs="+", default=[])
    arguments.add_argument("--work", type=Path, help="a directory for some hundred MB")
    arguments.add_argument("--workers", type=int, default=2)
    options: argparse.Namespace = arguments.parse_args()
    megabytes, repeats = (24, 1) if options.quick else (128, 3)
    lines = lines_of(options.text)
    if not lines:
        raise SystemExit("no line of text is long enough")
    model, workers = options.model.resolve(), options.workers
    with tempfile.TemporaryDirectory(prefix="counting-", dir=options.work) as name:
        work = Path(name)
        long, short, part = work / "long.jsonl", work / "short.jsonl", work / "part.jsonl"
        size = write_lines(lines, megabytes * 10**6, long, 0)
        write_lines(lines, megabytes * 10**6 // 4, short, 1)
        part_size = write_part(long, part)
        mean = statistics.fmean(map(len, lines))
        say(f"{size:.0f} MB of text in lines of {mean:.0f} characters on average")

        ours, theirs, plain = [], [], []
        counted: list[Counted] = []
        for _ in range(repeats):
            once, _ = regrow(model, long, work, workers)
            counted.append(once)
            ours.append(size / once.seconds)
            seconds, found = loop(TRANSFORMERS, model, part, work)
            theirs.append(part_size / seconds)
            seconds, again = loop(TOKENIZERS, model, part, work)
            plain.append(part_size / seconds)
            say(f"  regrow {ours[-1]:.2f} MB/s, loops {theirs[-1]:.2f} and {plain[-1]:.2f}")
        _, checked = regrow(model, part, work, workers)
        total = checked.total
        for counts in (found, again):
            expected = np.zeros(len(total), dtype=np.int64)
            expected[list(counts)] = list(counts.values())
            if (total != expected).any():
                raise SystemExit("the counts differ")
        few, _ = regrow(model, short, work, workers)
    median = statistics.median
    what = f"{workers} processes, {size:.0f} MB of short lines"
    flat = Goal("ratio", "<=", 1.2)
    own, largest = max(c.own for c in counted), max(c.largest for c in counted)
    quarter = f"{size / 4:.0f} MB"
    show(
        [
            Result(
                what, median(ours), "MB/s", "loop over transformers", median(theirs),
                Goal("ratio", ">=", 5),
            ),
            Result(what, median(ours), "MB/s", "loop over tokenizers", median(plain)),
            Result(
                f"{size:.0f} MB: peak memory of the reading process", own / 1e6, "MB", quarter,
                few.own / 1e6, flat,
            ),
            Result(
                f"{size:.0f} MB: peak memory of a counting process", largest / 1e6, "MB", quarter,
                few.largest / 1e6, flat,
            ),
        ],
        as_json=options.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()
