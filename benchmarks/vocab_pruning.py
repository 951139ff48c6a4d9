"""Pruning a vocabulary: `regrow vocab prune` against a tool that loads the model.

    python benchmarks/vocab_pruning.py MODEL --work DIR

MODEL is a directory with a tokenizer.json. The script writes a Llama with random bfloat16 weights
for this tokenizer: 2.1 GB with SmolLM2's 49,152 tokens. A quarter of the tokens is kept, by random
counts. The peer does what such scripts usually do: from_pretrained, index_select on the embedding,
and save_pretrained. It is given the tokens to keep, and does not change the tokenizer. Both run as
separate commands, alternating, with their input in the page cache. Times are medians; memory is the
largest.

The resident set includes pages of mapped files, which the system could take back. So the private
pages are also listed separately, and so is the short-lived process in which regrow builds the class
on the meta device to check the result.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import Goal, Result, parser, say, show
from surgery import REGROW, Model, warm, write_model

from regrow.checkpoint.companions import companion_files
from regrow.checkpoint.reader import open_checkpoint, read_bytes
from regrow.tokenizers.encoding import id_count, open_tokenizer
from regrow.vocabulary.token_counting import fingerprint
from regrow.vocabulary.token_counts import Group, TokenCounts

LARGE = Model(2048, 8192, 32, 8, 0, {}, layers=16, head_dim=64)
SMALL = replace(LARGE, layers=2)
POLLED_EVERY = 0.01
PEER = """
import json, sys
import torch
from transformers import AutoModelForCausalLM

source, kept_file, out = sys.argv[1:]
kept = torch.tensor(json.load(open(kept_file)))
model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
rows = model.get_input_embeddings().weight.index_select(0, kept)
model.resize_token_embeddings(len(kept), mean_resizing=False)
with torch.no_grad():
    model.get_input_embeddings().weight.copy_(rows)
model.save_pretrained(out)
"""


@dataclass(frozen=True)
class Run:
    """Wall and processor seconds of a command, and its peaks of memory in bytes."""

    seconds: float
    processor: float
    resident: int
    private: int


def write_case(tokenizer: Path, model: Model, work: Path) -> tuple[Path, Path, int]:
    """Write the model and counts of its tokens. Returns both paths, and how many tokens to keep."""
    found = open_tokenizer(tokenizer)
    ids = id_count(found)
    source = work / "model"
    write_model(replace(model, vocab=ids), source)
    for name, file in companion_files(tokenizer).items():
        if name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "added")):
            shutil.copyfile(file, source / name)
    generator = np.random.default_rng(0)
    counts = generator.zipf(1.3, ids).clip(max=10**9).astype(np.int64)[None]
    group = Group("made up", "none", 1, int(counts.sum()), int(counts.sum()))
    path = work / "counts"
    TokenCounts(fingerprint(found), (group,), counts, ()).save(path)
    return source, path, ids // 4


def timed(command: Sequence[str | Path], source: Path) -> Run:
    """Run a command and watch its memory."""
    warm(source)
    began, before = time.perf_counter(), _processor()
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    resident = private = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        resident = max(resident, kib(status, "VmHWM"))
        private = max(private, kib(status, "RssAnon"))
        time.sleep(POLLED_EVERY)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"failed:\n{errors[-2000:]}")
    seconds = time.perf_counter() - began
    return Run(seconds, _processor() - before, 1024 * resident, 1024 * private)


def _processor() -> float:
    """Processor seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def kib(status: str, name: str) -> int:
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith(name)), 0)


def check_same(ours: Path, theirs: Path) -> None:
    """Exit if the tensors of two models are not equal to the bit."""
    first, second = open_checkpoint(ours), open_checkpoint(theirs)
    if first.tensors.keys() != second.tensors.keys():
        raise SystemExit(f"tensors differ: {first.tensors.keys() ^ second.tensors.keys()}")
    for name, info in first.tensors.items():
        other = second.tensors[name]
        rows = info.shape[0] if info.shape else 1
        same = info.shape == other.shape and all(
            read_bytes(info, start, min(1024, rows - start))
            == read_bytes(other, start, min(1024, rows - start))
            for start in range(0, rows, 1024)
        )
        if not same:
            raise SystemExit(f"{name} differs")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path, metavar="MODEL")
    arguments.add_argument("--work", type=Path, required=True, help="a directory for 7 GB")
    options: argparse.Namespace = arguments.parse_args()
    model, repeats = (SMALL, 1) if options.quick else (LARGE, 3)
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vocab-pruning-", dir=options.work) as name:
        work = Path(name).resolve()
        say("writing the model")
        source, counts, size = write_case(options.model.resolve(), model, work)
        out, theirs, peaks, kept = work / "out", work / "theirs", work / "peaks", work / "kept"
        prune: list[str | Path] = [
            sys.executable, "-c", REGROW, peaks, "vocab", "prune", source, out,
            "--counts", counts, "--size", str(size),
        ]  # fmt: skip
        ours: list[Run] = []
        peers: list[Run] = []
        checks: list[int] = []
        for number in range(repeats):
            ours.append(timed(prune, source))
            checks.append(1024 * int(peaks.read_text().split()[1]))
            tokens = json.loads((out / "regrow_vocabulary.json").read_text())["tokens"]
            kept.write_text(json.dumps([token[0] for token in tokens]))
            peers.append(timed([sys.executable, "-c", PEER, source, kept, theirs], source))
            say(f"  regrow {ours[-1].seconds:.1f} s, transformers {peers[-1].seconds:.1f} s")
            if number == 0:
                check_same(out, theirs)
            shutil.rmtree(out)
            shutil.rmtree(theirs)
        gigabytes = sum(p.stat().st_size for p in source.glob("*.safetensors")) / 1e9
    what = f"{gigabytes:.1f} GB"
    peer = "transformers, index_select"
    less = Goal("ratio", "<=", 0.2) if not options.quick else None
    show(
        [
            Result(
                f"{what}: whole command", statistics.median(r.seconds for r in ours), "s", peer,
                statistics.median(r.seconds for r in peers),
            ),
            Result(
                f"{what}: peak memory", max(r.resident for r in ours) / 1e6, "MB", peer,
                max(r.resident for r in peers) / 1e6, less,
            ),
            Result(
                f"{what}: peak of private pages", max(r.private for r in ours) / 1e6, "MB", peer,
                max(r.private for r in peers) / 1e6,
            ),
            Result(f"{what}: peak memory of the check", max(checks) / 1e6, "MB"),
        ],
        as_json=options.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()
