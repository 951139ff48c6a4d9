"""Refit of a Llama of 2 GB: time and peak memory of `regrow prune` with a refit, and without one.

    python benchmarks/refit.py MODEL --text FILE --work DIR

MODEL is a directory with a tokenizer.json. The script writes a Llama with random bfloat16 weights
for this tokenizer, as benchmarks/vocab_pruning.py does: 16 layers, hidden 2,048, ffn 8,192. A cut
drops a quarter of the layers and half of the ffn, by random scores, so that nothing is scored. Of
random weights, only time and memory say something. One thread, unless OMP_NUM_THREADS says more.
The refit runs twice: with both models in memory, and with one layer of each at a time, as it does
by itself on a machine that has too little memory. The peer is the same cut without a refit.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from common import Result, parser, say, show
from vocab_pruning import LARGE, SMALL, timed, write_case

PEER = "without a refit"
REGROW = """
from regrow.cli.app import main
main()
"""
LITTLE_MEMORY = """
from regrow.surgery.refitting import memory
memory.available_memory = lambda: 0
"""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path, metavar="MODEL")
    arguments.add_argument("--text", type=Path, required=True, help="text to calibrate on")
    arguments.add_argument("--work", type=Path, required=True, help="a directory for 10 GB")
    arguments.add_argument("--tokens", type=int, default=4_096, help="of the calibration text")
    options: argparse.Namespace = arguments.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    model = SMALL if options.quick else LARGE
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="refit-", dir=options.work) as name:
        work = Path(name).resolve()
        say("writing the model")
        source, _, _ = write_case(options.model.resolve(), model, work)
        gigabytes = sum(p.stat().st_size for p in source.glob("*.safetensors")) / 1e9
        out = work / "out"
        sizes = ["--layers", str(model.layers * 3 // 4), "--ffn", str(model.ffn // 2)]
        refit = [
            "--refit", "--calibration", options.text, "--calibration-tokens", str(options.tokens),
        ]  # fmt: skip
        ways: dict[str, tuple[str, list[str | Path]]] = {
            PEER: ("", ["--no-refit"]),
            "in memory": ("", refit),
            "one layer at a time": (LITTLE_MEMORY, refit),
        }
        runs = {}
        for way, (first, more) in ways.items():
            runs[way] = timed(
                [sys.executable, "-c", first + REGROW, "prune", source, out, "--by", "random",
                 *sizes, *more],
                source,
            )  # fmt: skip
            say(f"{way}: {runs[way]}")
            shutil.rmtree(out)
    plain = runs.pop(PEER)
    found = []
    for way, fitted in runs.items():
        what = f"{gigabytes:.1f} GB, {options.tokens:,} tokens, {way}"
        found += [
            Result(f"{what}: whole command", fitted.seconds, "s", PEER, plain.seconds),
            Result(f"{what}: processor time", fitted.processor, "s", PEER, plain.processor),
            Result(f"{what}: peak memory", fitted.resident / 1e6, "MB", PEER, plain.resident / 1e6),
        ]
    show(found, as_json=options.json)


if __name__ == "__main__":
    main()
