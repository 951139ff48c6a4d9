"""What a GPU alone can show, in at most nine minutes; without a GPU, nothing is measured.

The model has the shapes of SmolLM2-135M, random weights and random tokens, so nothing is
downloaded. The parts run one after the other, each in a process of its own:

- attention: loss and gradients with the variable-length kernel, against attention written out in
  float32. The peer is torch's own attention with a mask, in bf16 as well.
- training: tokens a second, memory, use of the GPU and operations a second, with and without
  `compile`, against the Trainer of transformers. Memory is the peak of all tensors, minus weights,
  gradients and both moments of the optimiser (16 bytes per parameter).
- offload: FSDP2 with parameters and optimiser in the CPU's memory, against FSDP2 without.
- stall: of two processes under NCCL one is stopped; how long the other needs to say so and end.
  NCCL may refuse two processes on one GPU; this is then said.
- scoring: activation scores of all widths, against the processor of this machine.
- generation: one greedy sequence, and many rows that are written at once, against `generate`.

A part that fails or takes too long is named, and the exit code is 1.
"""

import argparse
import contextlib
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import Goal, Result, parser, say, show
from torch import Tensor
from training import Job, run_regrow, run_trainer

from regrow.architectures import Layout, bind
from regrow.architectures.flops import SampleShape, training_flops
from regrow.architectures.llama import LLAMA
from regrow.common.errors import UserError
from regrow.common.precision import Precision, autocast
from regrow.corpus.packing import PackedText
from regrow.models.decoding import DecodedRows, draw
from regrow.objectives.losses.causal import Causal
from regrow.scoring.calibration import Calibration
from regrow.scoring.observe import observe
from regrow.scoring.registry import DEFAULT, SCORES, FromText
from regrow.training.distributed.processes import Processes
from regrow.training.distributed.sharding import shard
from regrow.training.efficiency.attention import (
    supports_document_attention,
    using_document_attention,
)
from regrow.training.optimizers import make_optimizers
from regrow.training.settings import RecoverySettings

SECONDS = 520.0
"""For all parts together."""
STALL, STALL_LIMIT = 10.0, 120.0
"""Seconds that a process may stand still in the part `stall`, and for the whole part."""
SMOLLM2 = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "max_position_embeddings": 8_192, "tie_word_embeddings": True, "rope_theta": 100_000.0,
}  # fmt: skip
TINY = {
    **SMOLLM2, "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """How large everything is.

    Attributes:
        device: Where the model is.
        config: Of the model.
        length: Tokens in a row.
        rows: Rows in a step of a training.
        steps: Measured steps of each training, after `warm_up` steps.
        generated: Tokens that are generated in each row.
        batch: Rows that are written at once.
    """

    device: torch.device
    config: Mapping[str, Any]
    length: int
    rows: int
    steps: int
    generated: int
    batch: int
    warm_up: int = 3

    def model(self, layers: int | None = None) -> Any:
        """A model with random weights in float32, the same at each call."""
        torch.manual_seed(0)
        found = {**self.config, "num_hidden_layers": layers or self.config["num_hidden_layers"]}
        config = transformers.LlamaConfig(**found)
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)

    def text(self, rows: int) -> PackedText:
        """Rows packed with documents of random tokens, of 2 tokens to one and a half rows."""
        random = np.random.default_rng(0)
        tokens = random.integers(3, self.config["vocab_size"], rows * self.length, dtype=np.int32)
        lengths = random.integers(2, self.length + self.length // 2, 4 * rows + 1)
        starts = np.concatenate(([0], np.cumsum(lengths)))
        return PackedText(tokens, starts[starts < len(tokens)], 2, self.length)

    def batch_of(self, text: PackedText, rows: int) -> dict[str, Tensor]:
        arrays = text.batch(np.arange(rows))
        return {name: torch.from_numpy(each).to(self.device) for name, each in arrays.items()}


def setup_for(device: torch.device, *, tiny: bool, quick: bool) -> Setup:
    if tiny:
        return Setup(device, TINY, length=32, rows=2, steps=2, generated=4, batch=3, warm_up=1)
    # The logits of 32 rows take some 10 GB in Trainer.
    rows = 32 if torch.cuda.get_device_properties(device).total_memory > 3e10 else 8
    return Setup(
        device, SMOLLM2, length=512, rows=rows, steps=8 if quick else 30, generated=128, batch=128
    )


# Attention


def attention(setup: Setup) -> list[Result]:
    """Loss and gradients with document attention, against attention written out."""
    batch = setup.batch_of(setup.text(4), 4)

    def learn(kind: str) -> tuple[float, Tensor]:
        """The loss per token, and all gradients in one vector."""
        model = setup.model(layers=min(4, setup.config["num_hidden_layers"])).to(setup.device)
        model.set_attn_implementation("eager" if kind == "written out" else "sdpa")
        kernel = kind == "kernel"
        if kernel and not supports_document_attention(model, setup.device, "bf16"):
            raise RuntimeError("document attention is not supported here")
        precision: Precision = "fp32" if kind == "written out" else "bf16"
        with using_document_attention(model, kernel), autocast(precision, setup.device):
            total, each = Causal()(model, batch)
        (total / len(each)).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return total.item() / len(each), torch.cat(gradients)

    loss, gradient = learn("written out")
    found = {kind: learn(kind) for kind in ("kernel", "mask")}
    apart = {
        kind: (abs(own - loss) / loss, ((g - gradient).norm() / gradient.norm()).item())
        for kind, (own, g) in found.items()
    }
    peer = "torch's attention with a mask"
    return [
        Result("loss, from float32", apart["kernel"][0], "of the loss", peer, apart["mask"][0],
               Goal("value", "<=", 0.01)),
        Result("gradients, from float32", apart["kernel"][1], "of the norm", peer,
               apart["mask"][1], Goal("ratio", "<=", 1.25)),
    ]  # fmt: skip


# Training


@dataclass(frozen=True)
class Trained:
    """What was measured of one training; memory and use are None where they are not known."""

    rate: float
    memory: float | None
    use: float | None
    losses: list[float]


def training(setup: Setup) -> list[Result]:
    """Rates, memory and use of the GPU, against Trainer."""
    contenders: dict[str, Callable[[Any, Job], tuple[list[float], list[float]]]] = {
        "Trainer": run_trainer,
        "regrow": run_regrow,
        "regrow, compiled": lambda model, job: run_regrow(model, job, compiled=True),
    }
    if setup.device.type == "cpu":
        del contenders["regrow, compiled"]
    found = {}
    for name, run in contenders.items():
        try:
            found[name] = train_once(setup, run)
        except UserError as error:  # there is no compiler
            say(f"  {name}: {error}")
            continue
        say(f"  {name}: {found[name].rate:,.0f} tokens/s, losses {found[name].losses[:3]}")
    return list(compared(setup, found))


def train_once(setup: Setup, run: Callable[[Any, Job], tuple[list[float], list[float]]]) -> Trained:
    steps = setup.warm_up + setup.steps
    text = setup.text(steps * setup.rows)
    rows = np.arange(steps * setup.rows)
    lengths = text.lengths(rows).reshape(steps, setup.rows).sum(1)
    job = Job(text, Causal(), rows, lengths, "auto", setup.device, setup.rows)
    model = setup.model().to(setup.device)
    states = 16 * sum(parameter.numel() for parameter in model.parameters())
    is_gpu = setup.device.type == "cuda"
    if is_gpu:
        gc.collect()  # what the contender before has left
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with watched_use(is_gpu) as samples:
        times, losses = run(model, job)
    first = setup.warm_up - 1
    # The clock of the samples is that of the steps.
    use = [percent for at, percent in samples if times[first] <= at <= times[-1]]
    rate = float(lengths[setup.warm_up :].sum()) / (times[-1] - times[first])
    memory = torch.cuda.max_memory_allocated() - states if is_gpu else None
    return Trained(rate, memory, statistics.mean(use) if use else None, losses)


def compared(setup: Setup, found: Mapping[str, Trained]) -> Iterator[Result]:
    peer = found["Trainer"]
    sample = SampleShape(setup.length, decoder=setup.length)
    flops = training_flops(layout_of(setup.model()), sample, setup.length) / setup.length
    for name, own in found.items():
        if own is peer:
            continue
        goal = Goal("ratio", ">=", 1.0)
        yield Result(f"{name}: text", own.rate, "tokens/s", "Trainer", peer.rate, goal)
        yield Result(f"{name}: work", own.rate * flops / 1e12, "TFLOP/s", "Trainer",
                     peer.rate * flops / 1e12)  # fmt: skip
        if own.memory is not None and peer.memory is not None:
            yield Result(f"{name}: memory above the states", own.memory / 2**20, "MiB", "Trainer",
                         peer.memory / 2**20, Goal("ratio", "<=", 1.0))  # fmt: skip
        if own.use is not None:
            yield Result(f"{name}: use of the GPU", own.use, "%", "Trainer", peer.use)
        apart = max(abs(a - b) / b for a, b in zip(own.losses, peer.losses, strict=False))
        yield Result(
            f"{name}: losses apart by", apart, "of the loss", goal=Goal("value", "<=", 0.02)
        )


@contextlib.contextmanager
def watched_use(wanted: bool) -> Iterator[list[tuple[float, float]]]:
    """Context manager: how busy the GPU is, as (time, percent), each quarter of a second."""
    samples: list[tuple[float, float]] = []
    command = [
        "nvidia-smi", f"--id={first_device()}", "--query-gpu=utilization.gpu",
        "--format=csv,noheader,nounits",
    ]  # fmt: skip
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.25):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=5)
                samples.append((time.perf_counter(), float(done.stdout.split()[0])))
            except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
                return

    thread = threading.Thread(target=sample, daemon=True)
    if wanted:
        thread.start()
    try:
        yield samples
    finally:
        over.set()
        if wanted:
            thread.join()


def layout_of(model: Any) -> Layout:
    """The layout of a Llama in memory; its head is tied."""
    shapes = {
        name: tuple(each.shape)
        for name, each in model.state_dict().items()
        if name != LLAMA.head.weight
    }
    return bind(LLAMA, model.config.to_dict(), shapes)


# Offload


def offload(setup: Setup) -> list[Result]:
    """FSDP2 on one GPU, with and without offload to the CPU's memory."""
    from torch import distributed
    from torch.distributed import HashStore  # type: ignore[attr-defined]
    from torch.distributed.device_mesh import init_device_mesh

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    store = HashStore()
    backend = "nccl" if setup.device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    mesh = init_device_mesh(setup.device.type, (1,))
    processes = Processes(0, 1, mesh, setup.device)
    settings = RecoverySettings(row_length=setup.length)
    batches = setup.text(setup.rows * (setup.steps + 1))
    found = {}
    for offloaded in (False, True):
        learner = shard(setup.model(), Causal(), processes, offload=offloaded)
        optimizers = make_optimizers(learner.model, settings)
        if setup.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        losses, times = [], []
        for step in range(setup.steps + 1):
            rows = np.arange(step * setup.rows, (step + 1) * setup.rows)
            arrays = batches.batch(rows)
            batch = {n: torch.from_numpy(each).to(setup.device) for n, each in arrays.items()}
            with autocast("auto", setup.device):
                total, each = learner(batch)
            (total / len(each)).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            losses.append(total.item() / len(each))
            times.append(time.perf_counter())
        peak: float = torch.cuda.max_memory_allocated() if setup.device.type == "cuda" else 0
        seconds = (times[-1] - times[0]) / setup.steps
        found[offloaded] = (losses, peak / 2**20, setup.rows * setup.length / seconds)
        del learner, optimizers
    distributed.destroy_process_group()
    (plain, plain_peak, plain_rate), (own, own_peak, rate) = found[False], found[True]
    apart = max(abs(a - b) / b for a, b in zip(own, plain, strict=True))
    peer = "without offload"
    return [
        Result("losses apart by", apart, "of the loss", peer, goal=Goal("value", "<=", 1e-3)),
        Result("peak memory of the GPU", own_peak, "MiB", peer, plain_peak),
        Result("text", rate, "tokens/s", peer, plain_rate),
    ]


# A process that stalls


def stall(setup: Setup) -> list[Result]:
    """Two processes, of which one is stopped; the seconds until the other says so and ends."""
    with tempfile.TemporaryDirectory() as work:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            __file__, "--part=stalling", f"--work={work}",
        ]  # fmt: skip
        run = subprocess.Popen(
            command + (["--cpu"] if setup.device.type == "cpu" else []),
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

        def end() -> None:
            run.kill()
            for path in Path(work).glob("process-*"):  # torchrun gives each a session of its own
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(path.read_text()), signal.SIGKILL)

        said: list[str] = []
        limit = threading.Timer(STALL_LIMIT, end)
        limit.start()
        try:
            assert run.stderr is not None
            for line in run.stderr:
                said.append(line.strip())
                if "has not answered since" in line:
                    ended = time.time()
                    break
            else:
                refused = [line for line in said if "uplicate GPU" in line]
                if refused:
                    raise Skipped(f"NCCL refuses two processes on one GPU: {refused[0][:120]}")
                raise RuntimeError(f"the stalled process was not named: {' '.join(said)[-300:]}")
            seconds = ended - float((Path(work) / "stopped").read_text())
        finally:
            limit.cancel()
            end()
            run.wait()
    return [
        Result(f"named and ended, with stall: {STALL:g}, after", seconds, "s",
               goal=Goal("value", "<=", 3 * STALL))
    ]  # fmt: skip


def stalling(work: Path, *, on_cpu: bool) -> None:
    """What each of the two processes does: train; the second is stopped in the third step."""
    from regrow.training.loop import train
    from regrow.training.task import TrainingTask

    rank = int(os.environ["RANK"])
    (work / f"process-{rank}").write_text(str(os.getpid()))
    if not on_cpu:  # both on the same GPU if there is one only
        os.environ["LOCAL_RANK"] = str(rank % torch.cuda.device_count())
    device = torch.device("cpu") if on_cpu else torch.device("cuda", 0)
    setup = setup_for(device, tiny=True, quick=True)
    text = setup.text(40)

    class Rows:
        row_length, identity, lengths = text.row_length, text.identity, text.lengths

        def __len__(self) -> int:
            return len(text)

        def batch(self, rows: Any, numbers: Any) -> Any:
            if rank == 1 and numbers.min() >= 8:
                (work / "stopped").write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGSTOP)
            return text.batch(rows, numbers)

    settings = RecoverySettings(
        tokens=40 * text.row_length, row_length=text.row_length, batch_tokens=4 * text.row_length,
        micro_batch=2, precision="fp32", stall=STALL, save_every=0,
    )  # fmt: skip
    train(setup.model(), TrainingTask(Rows(), Causal(), 0), settings, directory=work / "training")


# Scoring and generation


def scoring(setup: Setup) -> list[Result]:
    """Activation scores of all widths on the device, against the processor."""
    random = np.random.default_rng(0)
    numbers = random.integers(3, setup.config["vocab_size"], (setup.rows, setup.length))
    layout = layout_of(setup.model())
    statistics_of = {}
    for axis in layout.blueprint.axes:
        source = SCORES[DEFAULT[axis.kind]].source if axis.kind in DEFAULT else None
        if isinstance(source, FromText) and axis.kind in source.statistics:
            statistics_of[axis.name] = source.statistics[axis.kind]
    found = {}
    for device, rows in (
        (torch.device("cpu"), max(1, setup.rows // 8)),
        (setup.device, setup.rows),
    ):
        model = setup.model().to(device).eval()
        for timed in (min(rows, 2), rows):  # the first loads all code
            pieces = tuple(numbers[:timed])
            began = time.perf_counter()
            values = observe(model, layout, statistics_of, Calibration(pieces))
            seconds = time.perf_counter() - began
        found[device.type] = (timed * setup.length / seconds, values)
        few = observe(model, layout, statistics_of, Calibration(tuple(numbers[:1])))
        found[f"{device.type}, one row"] = (0.0, few)
    own = found[setup.device.type]
    pairs = [
        (found[f"{setup.device.type}, one row"][1][name], found["cpu, one row"][1][name])
        for name in statistics_of
    ]
    apart = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    return [
        Result("scored text", own[0], "tokens/s", "the processor", found["cpu"][0]),
        Result("scores apart by", apart, "of the largest", "the processor",
               goal=Goal("value", "<=", 1e-3)),
    ]  # fmt: skip


def generation(setup: Setup) -> list[Result]:
    """Greedy generation of one sequence, and many rows at once."""
    model = setup.model().to(setup.device, torch.bfloat16).eval()
    prompt = torch.arange(3, 19, device=setup.device)[None]
    options = {
        "max_new_tokens": setup.generated, "min_new_tokens": setup.generated, "pad_token_id": 0,
        "eos_token_id": 2,
    }  # fmt: skip

    def generate(rows: int, **more: Any) -> float:
        """New tokens a second of transformers."""
        given = prompt.expand(rows, -1)
        mask = torch.ones_like(given)
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            with torch.no_grad():
                model.generate(input_ids=given, attention_mask=mask, **options, **more)
            finish(setup.device)
            seconds.append(time.perf_counter() - began)
        return rows * setup.generated / seconds[-1]

    def write() -> float:
        """New tokens a second of regrow's own decoding, as it writes training text."""
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            rows = DecodedRows(model, prompt[0].tolist(), setup.batch)
            for _ in range(setup.generated):
                uniform = torch.rand(setup.batch, device=setup.device)
                rows.append(draw(rows.logits, 1.0, uniform))
            finish(setup.device)
            seconds.append(time.perf_counter() - began)
        return setup.batch * setup.generated / seconds[-1]

    one = generate(1, do_sample=False)
    many = generate(setup.batch, do_sample=True, top_k=0)
    return [
        Result("one greedy sequence", one, "tokens/s"),
        Result(f"{setup.batch} rows at once", write(), "tokens/s", "generate", many),
    ]


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# All parts


class Skipped(Exception):  # noqa: N818 - not an error
    """Why a part cannot be measured here."""


PARTS: Mapping[str, Callable[[Setup], list[Result]]] = {
    "attention": attention, "training": training, "offload": offload, "scoring": scoring,
    "generation": generation, "stall": stall,
}  # fmt: skip


def run_part(name: str, arguments: argparse.Namespace) -> None:
    """Measure one part in this process, and print it as JSON."""
    device = torch.device("cpu" if arguments.cpu else "cuda")
    if name == "stalling":
        stalling(arguments.work, on_cpu=arguments.cpu)
        return
    setup = setup_for(device, tiny=arguments.cpu, quick=arguments.quick)
    try:
        found = [asdict(each) for each in PARTS[name](setup)]
    except Skipped as reason:
        found = [{"skipped": str(reason)}]
    print(json.dumps(found))


def measure(name: str, seconds: float, arguments: argparse.Namespace) -> list[Result] | None:
    """Measure a part in a process of its own; None if it failed."""
    command = [sys.executable, __file__, f"--part={name}"]
    command += [f"--{word}" for word in ("quick", "cpu") if getattr(arguments, word)]
    # One GPU for all but the two processes; Trainer would use all that it sees.
    visible = {} if name == "stall" else {"CUDA_VISIBLE_DEVICES": first_device()}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=max(seconds, 1.0),
            env={**os.environ, **visible},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        say(f"{name}: not ready after {seconds:.0f} s")
        return None
    if done.returncode:
        say(f"{name}: failed with exit code {done.returncode}; see above")
        return None
    values = json.loads(done.stdout.splitlines()[-1])
    if values and "skipped" in values[0]:
        say(f"{name}: skipped: {values[0]['skipped']}")
        return []
    results = []
    for each in values:
        goal = each.pop("goal")
        kept = Result(**each, goal=goal and Goal(**goal))
        results.append(Result(**{**vars(kept), "name": f"{name}: {kept.name}"}))
    return results


def first_device() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART")
    options.add_argument("--part", help=argparse.SUPPRESS)
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--cpu", action="store_true", help="tiny, on a CPU: tries the script only")
    arguments = options.parse_args()
    if arguments.part:
        run_part(arguments.part, arguments)
        return
    if not (arguments.cpu or torch.cuda.is_available()):
        say("no GPU here: nothing was measured")
        return
    if not arguments.cpu:
        say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    began, found, failed = time.monotonic(), list[Result](), list[str]()
    for name in arguments.parts:
        say(name)
        results = measure(name, SECONDS - (time.monotonic() - began), arguments)
        found += results or []
        failed += [name] if results is None else []
    show(found, as_json=arguments.json)
    if failed:
        say(f"not measured: {', '.join(failed)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
