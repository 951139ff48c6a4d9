"""Tokens per second that a model writes by itself, compared with `generate` of transformers.

Both let a chat model write questions and answers, or another decoder documents, with the same
number of rows and the same longest text. `generate` writes each text to its first end token: it
cannot go on from a question to its answer in the same batch. Its rows that ended are padded until
the last one ends; padding is not counted. The best of its batch sizes is the peer. They take turns,
and the fastest of some repeats counts. Seconds are those of the processor (all threads), since
other programs may run.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Goal, Result, parser, say, show

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.precision import resolve_precision
from regrow.common.random_stream import random_stream
from regrow.writing.prompts import Start
from regrow.writing.rounds import Sampling, write_round
from regrow.writing.text_form import TextForm, text_form

PEER = "transformers generate"
TEMPERATURE = 0.7


def rate(write: Callable[[], int]) -> float:
    """Tokens per second of processor time."""
    began = time.process_time()
    return write() / (time.process_time() - began)


def generate(model: Any, form: TextForm, rows: int, longest: int) -> int:
    """The tokens that `generate` writes, with the end tokens."""
    start = torch.tensor([form.start(None)] * rows)
    ends = sorted(form.ends)
    output = model.generate(
        input_ids=start, attention_mask=torch.ones_like(start), do_sample=True, top_k=0,
        temperature=TEMPERATURE, max_length=longest, eos_token_id=ends, pad_token_id=ends[0],
    )  # fmt: skip
    new = output[:, start.shape[1] :]
    ended = torch.isin(new, torch.tensor(ends)).int().cumsum(1)
    return int((ended - torch.isin(new, torch.tensor(ends)).int() == 0).sum())


def write(model: Any, form: TextForm, rows: int, longest: int) -> int:
    """The tokens that a round of regrow writes."""
    told: list[int] = []
    sampling = Sampling(TEMPERATURE, longest, random_stream(0, "benchmark", 0))
    write_round(model, form, [Start()] * rows, sampling, set(), told.append)
    return told[-1]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="A decoder with a tokenizer.")
    options.add_argument("--threads", type=int, help="Threads of torch.")
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    batches, longest, repeats = ((32, 64), 80, 1) if given.quick else ((16, 32, 64, 128), 256, 2)
    directory = ModelDirectory(given.model)
    form = text_form(directory, writes_questions=True)
    is_bf16 = resolve_precision("auto", torch.device("cpu")) == "bf16"
    dtype = torch.bfloat16 if is_bf16 else torch.float32
    # A round sets its model to another attention.
    plain, ours = (directory.load(dtype=dtype) for _ in range(2))
    peers = dict.fromkeys(batches, 0.0)
    rates = dict.fromkeys(batches, 0.0)
    for _ in range(repeats):
        for rows in batches:
            say(f"{rows} rows of up to {longest} tokens")
            torch.manual_seed(0)
            peers[rows] = max(peers[rows], rate(partial(generate, plain, form, rows, longest)))
            rates[rows] = max(rates[rows], rate(partial(write, ours, form, rows, longest)))
    best = max(peers.values())
    results = [
        Result(f"{rows} rows, best batch of generate", rates[rows], "tokens/s", PEER, best)
        for rows in batches
    ]
    results += [
        Result(f"{rows} rows", rates[rows], "tokens/s", PEER, peers[rows]) for rows in batches
    ]
    goal = Goal("ratio", ">=", 1.0)
    results.append(Result("best batches", max(rates.values()), "tokens/s", PEER, best, goal))
    show(results, as_json=given.json)


if __name__ == "__main__":
    main()
