"""Questions per second of `regrow eval`, compared with lm-eval's own `hf` model.

Both get the same requests of the same tasks, and their answers must agree: log-likelihoods to
rounding, and the chosen option of each question. They take turns, and the fastest time of each
counts. The peer runs with the batch size that is its fastest, or that of --batch. Weights and
products are float32.

--model is a decoder, such as SmolLM2-135M. --seq2seq is an encoder-decoder; prompts are plain
there, since the peer has no form of OpenBA. --data is as for `regrow eval`.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Goal, Result, parser, say, show
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

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


def timed(answer: Callable[[], Answers]) -> tuple[float, Answers]:
    began = time.perf_counter()
    found = answer()
    return time.perf_counter() - began, found


def chosen(requests: Sequence[Instance], answers: Answers) -> list[int]:
    """The option of each question with the greatest log-likelihood."""
    options: dict[int | None, list[float]] = {}
    for request, (nats, _) in zip(requests, answers, strict=True):
        options.setdefault(request.doc_id, []).append(nats)
    return [int(np.argmax(values)) for values in options.values()]


def fastest_batch(peer: HFLM, requests: Sequence[Instance]) -> int:
    """The batch size with which the peer is fastest, on some of the requests."""
    some = requests[: min(len(requests), 120)]
    times = {}
    for size in BATCHES:
        peer.batch_size_per_gpu = size
        times[size], _ = timed(lambda: peer.loglikelihood(some, disable_tqdm=True))
    return min(times, key=lambda size: times[size])


def compare(
    name: str, ours: RegrowModel, peer: HFLM, requests: list[Instance], args: Any, goal: Goal
) -> list[Result]:
    """Questions per second of both, and how much their answers differ."""
    questions = len({request.doc_id for request in requests})
    size = args.batch or fastest_batch(peer, requests)
    peer.batch_size_per_gpu = size
    say(f"{name}: {questions} questions, the peer takes batches of {size}")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(args.rounds):
        seconds, mine = timed(lambda: ours.loglikelihood(requests))
        times[0].append(seconds)
        seconds, theirs = timed(lambda: peer.loglikelihood(requests, disable_tqdm=True))
        times[1].append(seconds)
    worst = max(abs(a - b) / max(1.0, abs(b)) for (a, _), (b, _) in zip(mine, theirs, strict=True))
    pairs = zip(chosen(requests, mine), chosen(requests, theirs), strict=True)
    other = sum(a != b for a, b in pairs)
    kind = f"{PEER}, batch {size}"
    speeds = [questions / min(each) for each in times]
    return [
        Result(f"{name}: speed", speeds[0], "questions/s", kind, speeds[1], goal),
        Result(
            f"{name}: largest difference of a log-likelihood", worst, "relative",
            goal=Goal("value", "<=", 1e-4),
        ),
        Result(f"{name}: other options chosen", other, "questions", goal=Goal("value", "<=", 0)),
    ]  # fmt: skip


def measure(args: Any) -> list[Result]:
    results: list[Result] = []
    kinds = (
        (args.model, "causal", Goal("ratio", ">=", 1)),
        (args.seq2seq, "seq2seq", Goal("ratio", ">=", 3)),
    )
    limit = args.limit or (QUICK_LIMIT if args.quick else None)
    for directory, backend, goal in kinds:
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
            results += compare(f"{backend}, {task}", ours, peer, requests, args, goal)
    return results


def main() -> None:
    made = parser(__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--model", type=Path, help="a decoder")
    made.add_argument("--seq2seq", type=Path, help="an encoder-decoder")
    made.add_argument("--data", type=Path, required=True, help="the directory of the questions")
    made.add_argument("--tasks", default=",".join(TASKS))
    made.add_argument("--limit", type=int, help="questions of each task")
    made.add_argument("--batch", type=int, help="the peer's batch size; default: its fastest")
    made.add_argument("--rounds", type=int, default=2, help="turns of each")
    args = made.parse_args()
    if args.model is None and args.seq2seq is None:
        made.error("give --model, --seq2seq, or both")
    register()
    show(measure(args), as_json=args.json)


if __name__ == "__main__":
    main()
