"""Questions per second of `regrow eval`, compared with lm-eval's own `hf` model.

Both get the same requests of the same tasks, and their answers must agree: log-likelihoods to
rounding, and the chosen option of each question. They take turns, and the fastest time of each
counts. The peer runs with the batch size that is its fastest, or that of --batch, and for an
encoder-decoder also with a batch of one request, lm-eval's default. Weights and products are
float32.

--model is a decoder, such as SmolLM2-135M. --seq2seq is an encoder-decoder; prompts are plain
there, since the peer has no form of OpenBA. With --t5, a T5 of small size with random weights is
built with the tokenizer of --seq2seq, and measured too. --data is as for `regrow eval`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Goal, Result, parser, say, show
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from regrow.evaluation.harness.language_model import RegrowModel
from regrow.evaluation.tasks.find import find_tasks, quiet
from regrow.models.networks import register

TASKS = ("piqa", "arc_easy", "sciq")
BATCHES = (1, 4, 16, 64)
PEER = "lm-eval hf"
QUICK_LIMIT = 100
Answers = list[tuple[float, bool]]


def requests_of(task: str, data: Path, limit: int | None) -> list[Instance]:
    """The requests of a task, without demonstrations."""
    found = find_tasks([task], data=data).tasks[task]
    found.set_config(key="num_fewshot", value=0)
    found.build_all_requests(limit=limit)
    return list(found.instances)


def timed(answer: Callable[[], Answers], args: Any) -> tuple[float, Answers]:
    """Seconds, by the clock or of the CPU, and the answers."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    began = clock()
    found = answer()
    return clock() - began, found


def chosen(requests: Sequence[Instance], answers: Answers) -> list[int]:
    """The option of each question with the greatest log-likelihood."""
    options: dict[int | None, list[float]] = {}
    for request, (nats, _) in zip(requests, answers, strict=True):
        options.setdefault(request.doc_id, []).append(nats)
    return [int(np.argmax(values)) for values in options.values()]


def fastest_batch(peer: HFLM, requests: Sequence[Instance], args: Any) -> int:
    """The batch size with which the peer is fastest, on some of the requests."""
    some = requests[: min(len(requests), 120)]
    times = {}
    for size in BATCHES:
        peer.batch_size_per_gpu = size
        times[size], _ = timed(lambda: peer.loglikelihood(some, disable_tqdm=True), args)
    return min(times, key=lambda size: times[size])


def compare(
    name: str, ours: RegrowModel, peer: HFLM, requests: list[Instance], args: Any, goal: Goal
) -> list[Result]:
    """Questions per second of both, and how much their answers differ."""
    questions = len({request.doc_id for request in requests})
    best = args.batch or fastest_batch(peer, requests, args)
    # The goal is against lm-eval's default, or against its best batch size if it is to be as fast.
    judged = 1 if goal.bound > 1 else best
    sizes = list(dict.fromkeys([judged, best]))
    say(f"{name}: {questions} questions, the peer takes batches of {best}")
    seconds: dict[int, list[float]] = {size: [] for size in (0, *sizes)}
    for _ in range(args.rounds):
        spent, mine = timed(lambda: ours.loglikelihood(requests), args)
        seconds[0].append(spent)
        for size in sizes:
            peer.batch_size_per_gpu = size
            spent, theirs = timed(lambda: peer.loglikelihood(requests, disable_tqdm=True), args)
            seconds[size].append(spent)
    worst = max(abs(a - b) / max(1.0, abs(b)) for (a, _), (b, _) in zip(mine, theirs, strict=True))
    pairs = zip(chosen(requests, mine), chosen(requests, theirs), strict=True)
    other = sum(a != b for a, b in pairs)
    speeds = {size: questions / min(each) for size, each in seconds.items()}
    return [
        *(
            Result(
                f"{name}: speed", speeds[0], "questions/s", f"{PEER}, batch {size}", speeds[size],
                goal if size == judged else None,
            )
            for size in sizes
        ),
        Result(
            f"{name}: largest difference of a log-likelihood", worst, "relative",
            goal=Goal("value", "<=", 1e-4),
        ),
        Result(f"{name}: other options chosen", other, "questions", goal=Goal("value", "<=", 0)),
    ]  # fmt: skip


def build_t5(tokenizer_of: Path, out: Path) -> Path:
    """A T5 of small size (60M parameters and its embeddings) with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def measure(args: Any, work: Path) -> list[Result]:
    results: list[Result] = []
    three_times = Goal("ratio", ">=", 3)
    kinds = [
        ("decoder", args.model, "causal", Goal("ratio", ">=", 1)),
        ("encoder-decoder", args.seq2seq, "seq2seq", three_times),
    ]
    if args.t5:
        kinds.append(("T5", build_t5(args.seq2seq, work / "t5"), "seq2seq", three_times))
    limit = args.limit or (QUICK_LIMIT if args.quick else None)
    for name, directory, backend, goal in kinds:
        if directory is None:
            continue
        ours = RegrowModel(directory, precision="fp32", prompt="plain", device="cpu")
        with quiet():
            peer = HFLM(
                pretrained=str(directory), backend=backend, device="cpu", dtype="float32",
                max_length=ours.max_length,
            )  # fmt: skip
        ours.model  # noqa: B018 - loads the weights
        for task in args.tasks.split(","):
            requests = requests_of(task, args.data, limit)
            results += compare(f"{name}, {task}", ours, peer, requests, args, goal)
    return results


def main() -> None:
    made = parser(__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--model", type=Path, help="a decoder")
    made.add_argument("--seq2seq", type=Path, help="an encoder-decoder")
    made.add_argument("--t5", action="store_true", help="build a T5, and measure it too")
    made.add_argument("--data", type=Path, required=True, help="the directory of the questions")
    made.add_argument("--tasks", default=",".join(TASKS))
    made.add_argument("--limit", type=int, help="questions of each task")
    made.add_argument("--batch", type=int, help="the peer's batch size; default: its fastest")
    made.add_argument(
        "--cpu-time", action="store_true", help="count CPU seconds, on a machine that is busy"
    )
    made.add_argument("--rounds", type=int, default=2, help="turns of each")
    args = made.parse_args()
    if args.model is None and args.seq2seq is None:
        made.error("give --model, --seq2seq, or both")
    if args.t5 and args.seq2seq is None:
        made.error("--t5 takes the tokenizer of --seq2seq; give that too")
    register()
    with tempfile.TemporaryDirectory(prefix="evaluation-") as work:
        show(measure(args, Path(work)), as_json=args.json)


if __name__ == "__main__":
    main()
