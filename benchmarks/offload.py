"""Scores with one layer at a time in memory: peak memory and processor time.

The model is a random Llama of 24 layers, stored in bfloat16 and scored in float32. There are two
peers: the whole model in memory, and accelerate's offload to disk as transformers sets it up, which
reads all weights again for each batch. Each of the three runs in a process of its own. Memory is
the peak of resident pages above what the imports take.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Goal, Result, parser, say, show

LAYERS = 24
WAYS = ("in memory", "accelerate, batch by batch", "one layer at a time")


def write(directory: Path, hidden: int) -> None:
    """A model whose layers hold nearly all of its weights."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=1_024, hidden_size=hidden, intermediate_size=4 * hidden,
        num_hidden_layers=LAYERS, num_attention_heads=hidden // 64, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory)


def measure(way: str, work: Path, tokens: int, batch_tokens: int) -> dict[str, float]:
    """Peak memory in bytes, and CPU seconds, measured in this process."""
    run_once(way, work / "tiny", 1_024, 512)  # loads all code first
    before = peak()
    began = time.process_time()
    size = run_once(way, work / "model", tokens, batch_tokens)
    return {"peak": peak() - before, "seconds": time.process_time() - began, "model": size}


def run_once(way: str, directory: Path, tokens: int, batch_tokens: int) -> int:
    """Load and score a model; return the bytes of its weights in float32."""
    import torch
    import transformers

    from regrow.checkpoint.bind import bind_checkpoint
    from regrow.checkpoint.reader import open_checkpoint
    from regrow.models.loading import load_model
    from regrow.scoring.calibration import Calibration
    from regrow.scoring.observe import Run, observe, one_by_one
    from regrow.scoring.offload import load_offloaded
    from regrow.scoring.registry import DEFAULT, SCORES, FromText

    checkpoint = open_checkpoint(directory)
    layout = bind_checkpoint(checkpoint)
    # Heads are not scored: their score reads a weight that accelerate's hooks have freed by then.
    axes = [a for a in layout.blueprint.axes if a.kind in ("hidden", "ffn", "layer")]
    sources = {a.name: SCORES[DEFAULT[a.kind]].source for a in axes}
    statistics = {
        a.name: source.statistics[a.kind]
        for a in axes
        if isinstance(source := sources[a.name], FromText)
    }
    random = np.random.default_rng(0)
    pieces = tuple(random.integers(0, 1_024, 512) for _ in range(tokens // 512))
    if way == "one layer at a time":
        offloaded = load_offloaded(checkpoint, layout)
        model = offloaded.model
        run: Run = offloaded.run
    elif way == "in memory":
        model, run = load_model(directory), one_by_one
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, device_map={"": "disk"}
        ).eval()
        run = one_by_one
    observe(model, layout, statistics, Calibration(pieces), batch_tokens=batch_tokens, run=run)
    return 4 * layout.parameters()


def peak() -> int:
    """Peak memory of this process so far, in bytes of resident pages."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    values = dict(line.split(":", 1) for line in status)
    return int(values["VmHWM"].split()[0]) * 1024


def results(work: Path, tokens: int, batch_tokens: int) -> list[Result]:
    numbers = ["--tokens", str(tokens), "--batch-tokens", str(batch_tokens)]
    found = {}
    for way in WAYS:
        done = subprocess.run(
            [sys.executable, __file__, "--way", way, "--work", work, *numbers],
            stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        found[way] = json.loads(done.stdout)
        say(f"{way}: {found[way]['peak'] / 1e6:,.0f} MB, {found[way]['seconds']:.1f} CPU s")
    ours = found[WAYS[-1]]
    size = ours["model"]
    compared = [Result("float32 weights of the model", size / 1e6, "MB")]
    for peer in WAYS[:-1]:
        other = found[peer]
        goal = Goal("ratio", "<=", 0.5) if peer == "in memory" else None
        compared += [
            Result("peak memory", ours["peak"] / 1e6, "MB", peer, other["peak"] / 1e6, goal),
            Result("load and score", ours["seconds"], "CPU s", peer, other["seconds"]),
        ]
    return compared


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--tokens", type=int, help=argparse.SUPPRESS)
    arguments.add_argument("--batch-tokens", type=int, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.way:
        found = measure(options.way, options.work, options.tokens, options.batch_tokens)
        print(json.dumps(found))
        return
    hidden, tokens, batch_tokens = (640, 2_048, 512) if options.quick else (1_280, 16_384, 2_048)
    with tempfile.TemporaryDirectory(prefix="offload-") as work:
        write(Path(work) / "tiny", 64)
        write(Path(work) / "model", hidden)
        show(results(Path(work), tokens, batch_tokens), as_json=options.json)


if __name__ == "__main__":
    main()
