"""Training in two processes on one machine, compared with one process: losses and time.

A small random Llama is trained on packed prose, on the same rows in the same steps: in one process,
and in two processes that torchrun starts (FSDP2, over Gloo on CPUs or NCCL on two GPUs). On CPUs,
two processes together have as many threads as the one. So the ratio of the times shows what
communication and sharded layers cost; without any overhead it would be 1.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from common import Goal, Result, parser, say, show

from regrow.corpus.packing import pack
from regrow.corpus.text import read_documents
from regrow.models.loading import load_tokenizer
from regrow.objectives.losses.causal import Causal
from regrow.training.loop import train
from regrow.training.settings import RecoverySettings
from regrow.training.task import Hooks, StepReport, TrainingTask

LENGTH = 256
SIZES = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
         "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64}  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tokenizer", type=Path, required=True, help="directory of a tokenizer")
    options.add_argument("--steps", type=int, help="measured steps [default: 8, quick: 3]")
    options.add_argument("--turns", type=int, help="turns of each [default: 3, quick: 1]")
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    arguments.steps = arguments.steps or (3 if arguments.quick else 8)
    if arguments.work:
        learn(arguments)
        return
    threads = os.cpu_count() or 2
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for turn in range(arguments.turns or (1 if arguments.quick else 3)):
        for count in found:
            say(f"{count} {'process' if count == 1 else 'processes'}, turn {turn + 1}")
            found[count].append(start(count, max(1, threads // count)))
    one, two = (statistics.median(each["seconds"] for each in found[count]) for count in (1, 2))
    apart = max(
        abs(a - b) / a for a, b in zip(found[1][0]["losses"], found[2][0]["losses"], strict=True)
    )
    name = f"Llama of {found[1][0]['parameters'] / 1e6:.0f}M parameters"
    show(
        [
            Result(f"{name}: losses apart by", apart, "of the loss", "one process",
                   goal=Goal("value", "<=", 1e-4)),
            Result(f"{name}: time of two processes", two, "s a step", "one process", one),
        ],
        as_json=arguments.json,
    )  # fmt: skip


def start(count: int, threads: int) -> dict[str, Any]:
    """Losses, and seconds per step, of a training in `count` processes."""
    with tempfile.TemporaryDirectory() as work:
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        subprocess.run(
            [sys.executable, *run, *sys.argv, "--work", work],
            check=True, stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        found: dict[str, Any] = json.loads((Path(work) / "found.json").read_text())
        return found


def learn(arguments: argparse.Namespace) -> None:
    """What each process does; the first writes what was found."""
    tokenizer = load_tokenizer(arguments.tokenizer)
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **SIZES)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if torch.cuda.is_available():
        model = model.to(torch.device("cuda", int(os.environ["LOCAL_RANK"])))
    prose = Path(__file__).parent.parent / "recipes" / "prose.txt"
    samples = pack([*read_documents(prose)], tokenizer, LENGTH)
    steps = arguments.steps + 1
    settings = RecoverySettings(
        tokens=8 * LENGTH * (steps + 1), row_length=LENGTH, batch_tokens=8 * LENGTH, micro_batch=4,
        precision="fp32", save_every=1e9, spike=1e9,
    )  # fmt: skip
    times: list[float] = []
    losses: list[float] = []

    def on_step(report: StepReport) -> None:
        times.append(time.perf_counter())
        losses.append(report.loss)

    train(
        model, TrainingTask(samples, Causal(), 0), settings,
        directory=arguments.work / "training", hooks=Hooks(on_step=on_step),
    )  # fmt: skip
    if losses:
        found = {
            "losses": losses,
            "seconds": (times[steps - 1] - times[0]) / (steps - 1),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        (arguments.work / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
