"""Training against the Hugging Face Trainer: tokens a second, and memory.

Both train the same weights on the same rows in the same order, with AdamW and gradient clipping. A
step has 8 rows of at most 512 text tokens. Products are in bf16 under autocast if the hardware
multiplies bf16; `--precision bf16` forces it. A decoder (`--model`, SmolLM2) is trained on packed
rows, against `Trainer`. An encoder-decoder (`--seq2seq`, a small OpenBA) is trained by span
corruption in padded batches, against `Seq2SeqTrainer`.

regrow and the peer take turns, each in a process of its own, and values are medians. Rates leave
out the first step. Memory is the peak during training, minus the memory of the process before it
loaded the model, and minus weights, gradients and both moments of the optimiser (16 bytes per
parameter). What remains are activations, logits and the training code. The losses of both are
compared too. With equal rows, weights and settings they differ only by rounding.
"""

import argparse
import contextlib
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import Goal, Result, parser, say, show

from regrow.common.precision import resolve_precision
from regrow.corpus.packing import NOT_PREDICTED, pack
from regrow.corpus.samples import Batch, Samples, data_order
from regrow.corpus.text import read_documents
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.loss import Loss
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.span_corruption import corrupt_text
from regrow.training.loop import train
from regrow.training.settings import RecoverySettings
from regrow.training.task import Hooks, StepReport, TrainingTask

ROWS, LENGTH, SEED = 8, 512, 0
RATE = 1e-4
PEERS = {"decoder": "Trainer", "seq2seq": "Seq2SeqTrainer"}
GOALS = {"decoder": 1.1, "seq2seq": 1.2}


@dataclass(frozen=True)
class Measured:
    """What was measured of one contender.

    Attributes:
        rate: Text tokens a second, after the first step.
        memory: Bytes, as the module's docstring defines them; None if they cannot be measured.
        losses: Nats per predicted token, by step.
    """

    rate: float
    memory: float | None
    losses: list[float]


@dataclass(frozen=True)
class Job:
    """What both contenders train.

    Attributes:
        samples: Rows of text.
        objective: The loss; `Trainer` computes the same from the labels.
        rows: Which rows, in order; so many make a step: `step_rows`.
        lengths: Text tokens of each step, [steps].
        precision: Of matrix products.
        device: Where the model is.
    """

    samples: Samples
    objective: Loss
    rows: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    precision: Any
    device: torch.device
    step_rows: int = ROWS


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="directory of a decoder")
    options.add_argument("--seq2seq", type=Path, help="directory of an encoder-decoder")
    options.add_argument("--text", type=Path, help="training text [default: recipes/prose.txt]")
    options.add_argument("--steps", type=int, help="measured steps [default: 8, quick: 3]")
    options.add_argument("--turns", type=int, help="turns of each contender [default: 3, quick: 1]")
    options.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    options.add_argument("--one", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    arguments.steps = arguments.steps or (3 if arguments.quick else 8)
    turns = arguments.turns or (1 if arguments.quick else 3)
    if arguments.one:
        kind, who = arguments.one.split(":")
        found = contend(kind, who, arguments)
        print(json.dumps(vars(found)))
        return
    if not arguments.model and not arguments.seq2seq:
        options.error("give --model, --seq2seq or both")
    results = []
    for kind, given in (("decoder", arguments.model), ("seq2seq", arguments.seq2seq)):
        if given:
            results += compare(kind, turns)
    show(results, as_json=arguments.json)


def compare(kind: str, turns: int) -> list[Result]:
    """Run both contenders in turns, each in a process of its own."""
    found: dict[str, list[Measured]] = {"regrow": [], "peer": []}
    for turn in range(turns):
        for who in found if turn % 2 == 0 else reversed(found):
            say(f"{kind}: {PEERS[kind] if who == 'peer' else who}, turn {turn + 1} of {turns}")
            command = [sys.executable, *sys.argv, f"--one={kind}:{who}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            measured = Measured(**json.loads(done.stdout.splitlines()[-1]))
            say(f"  {measured.rate:,.0f} tokens/s, losses {measured.losses}")
            found[who].append(measured)
    ours, theirs = found["regrow"], found["peer"]
    rates = [statistics.median(each.rate for each in side) for side in (ours, theirs)]
    name, peer = f"{kind}, {ROWS} rows of {LENGTH}", PEERS[kind]
    results = [
        Result(f"{name}: text", rates[0], "tokens/s", peer, rates[1],
               Goal("ratio", ">=", GOALS[kind])),
    ]  # fmt: skip
    memory = [[m.memory for m in side if m.memory is not None] for side in (ours, theirs)]
    if all(memory):
        medians = [statistics.median(side) / 2**20 for side in memory]
        results.append(
            Result(f"{name}: memory above weights, gradients, optimiser", medians[0], "MiB",
                   peer, medians[1], Goal("ratio", "<=", 0.7))
        )  # fmt: skip
    apart = max(abs(a - b) / b for a, b in zip(ours[0].losses, theirs[0].losses, strict=True))
    results.append(Result(f"{name}: losses apart by", apart, "of the loss"))
    return results


def contend(kind: str, who: str, arguments: argparse.Namespace) -> Measured:
    """Train in this process, with regrow or with the peer."""
    directory = arguments.model if kind == "decoder" else arguments.seq2seq
    tokenizer = load_tokenizer(directory)
    text = arguments.text or Path(__file__).parent.parent / "recipes" / "prose.txt"
    documents = [*read_documents(text)]
    steps = arguments.steps + 1
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _import_libraries()
    before = _resident()
    model = load_model(directory).to(device)
    objective: Loss
    samples: Samples
    if kind == "decoder":
        objective, samples = Causal(), pack(documents, tokenizer, LENGTH)
    else:
        samples = corrupt_text(documents, tokenizer, model.config, LENGTH, SEED)
        objective = Seq2Seq()
    state_bytes = 16 * sum(parameter.numel() for parameter in model.parameters())
    rows = data_order(samples, SEED).rows(0, steps * ROWS)
    lengths = samples.lengths(rows).reshape(steps, ROWS).sum(1)
    gc.collect()
    _reset_peak(device)
    run = run_regrow if who == "regrow" else run_trainer
    job = Job(samples, objective, rows, lengths, arguments.precision, device)
    times, losses = run(model, job)
    peak = _peak(device)
    return Measured(
        rate=float(lengths[1:].sum()) / (times[-1] - times[0]),
        memory=None
        if peak is None
        else peak - state_bytes - (before if device.type == "cpu" else 0),
        losses=losses,
    )


def run_regrow(model: Any, job: Job, *, compiled: bool = False) -> tuple[list[float], list[float]]:
    """Train with regrow; the time at the end of each step, and its loss."""
    times: list[float] = []
    losses: list[float] = []

    def on_step(report: StepReport) -> None:
        times.append(time.perf_counter())
        losses.append(report.loss)
        if len(times) == len(job.lengths):
            raise _EnoughError  # stop before the checkpoint is written

    length = job.samples.row_length
    settings = RecoverySettings(
        tokens=(len(job.rows) + job.step_rows) * length, row_length=length,
        batch_tokens=job.step_rows * length, micro_batch=job.step_rows, compile=compiled,
        learning_rate=RATE, warmup=0.0, final_rate=1.0, weight_decay=0.0,
        betas=(0.9, 0.999), precision=job.precision, save_every=1e9, spike=1e9,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(_EnoughError):
        train(
            model, TrainingTask(_Ordered(job.samples, job.rows), job.objective, SEED), settings,
            directory=Path(directory) / "training", hooks=Hooks(on_step=on_step),
        )  # fmt: skip
    return times, losses


class _EnoughError(Exception):
    pass


@dataclass
class _Ordered:
    """Rows in a given order. All have the same length, so that a step has as many as the peer's."""

    samples: Samples
    of: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def row_length(self) -> int:
        return self.samples.row_length

    @property
    def identity(self) -> str:
        return self.samples.identity

    def lengths(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.full(len(rows), self.row_length)

    def batch(self, rows: np.ndarray[Any, Any], samples: np.ndarray[Any, Any]) -> Batch:
        return self.samples.batch(rows, samples)

    def order(self, seed: int) -> Any:
        return self

    def rows(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        return self.of[np.arange(start, stop) % len(self.of)]


class _Rows(torch.utils.data.Dataset[Any]):
    """A dataset of the same rows in the same order."""

    def __init__(self, samples: Samples, rows: np.ndarray[Any, Any]) -> None:
        self.samples, self.rows = samples, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> int:
        return number

    def collate(self, numbers: list[int]) -> dict[str, torch.Tensor]:
        """The batch of these rows. Decoders of transformers shift the labels themselves."""
        at = np.array(numbers)
        arrays = self.samples.batch(self.rows[at], at)
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if "decoder_input_ids" not in batch:
            shifted = torch.full_like(batch["labels"], NOT_PREDICTED)
            shifted[:, 1:] = batch["labels"][:, :-1]
            batch["labels"] = shifted
        return batch


def run_trainer(model: Any, job: Job) -> tuple[list[float], list[float]]:
    """Train with Trainer or Seq2SeqTrainer; the time at the end of each step, and its loss."""
    times: list[float] = []
    seq2seq = model.config.is_encoder_decoder
    kinds = (
        (transformers.Seq2SeqTrainer, transformers.Seq2SeqTrainingArguments)
        if seq2seq
        else (transformers.Trainer, transformers.TrainingArguments)
    )
    dataset = _Rows(job.samples, job.rows)
    bf16 = resolve_precision(job.precision, job.device) == "bf16"

    class InOrder(kinds[0]):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(dataset)

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as directory:
        settings = kinds[1](
            output_dir=directory, per_device_train_batch_size=job.step_rows,
            max_steps=len(job.lengths), learning_rate=RATE, lr_scheduler_type="constant",
            weight_decay=0.0, adam_beta2=0.999, max_grad_norm=1.0, optim="adamw_torch_fused",
            save_strategy="no", report_to=[], bf16=bf16, use_cpu=job.device.type == "cpu",
            logging_steps=1, disable_tqdm=True, dataloader_pin_memory=False, seed=SEED,
            remove_unused_columns=False,
        )  # fmt: skip
        trainer = InOrder(
            model=model, args=settings, train_dataset=dataset, data_collator=dataset.collate,
            callbacks=[Clock()],
        )  # fmt: skip
        with torch.enable_grad():
            model.train()
            trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return times, losses


# Memory


def _import_libraries() -> None:
    """Import the libraries of both contenders before memory is measured."""
    assert transformers.Seq2SeqTrainer
    import accelerate

    assert accelerate


def _resident() -> int:
    return _status("VmRSS") or 0


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        say("the peak of memory cannot be reset here, so it may include loading the model")


def _peak(device: torch.device) -> int | None:
    """Peak memory in bytes: of all tensors on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(found[0].split()[1]) if found else None


if __name__ == "__main__":
    main()
