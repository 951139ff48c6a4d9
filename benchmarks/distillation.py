"""Recovery with and without a teacher: held-out loss after the same number of tokens.

SmolLM2-135M-Instruct is cut from 30 to 22 layers by influence, as an earlier quickstart was. It is
recovered on the documentation of Python's own `help()`, of which every eighth topic is held out.
The teacher is the original, with several weights in the loss and several temperatures. The peer is
recovered from the text alone, on the same rows in the same order with the same learning rate.
Losses are nats per token on the held-out topics, and on unrelated prose. With more than one seed,
values are means; each seed's losses are printed as progress.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from statistics import fmean
from typing import Any

import torch
import transformers
from common import Goal, Result, parser, say, show

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.resolve import resolve_model
from regrow.common.progress import Progress
from regrow.corpus.text import read_documents
from regrow.evaluation.heldout import heldout_loss
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.distillation import Distilled
from regrow.objectives.losses.loss import Loss
from regrow.objectives.registry import TrainingData, loss_and_rows
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint
from regrow.training.distill_settings import DistillSettings
from regrow.training.distributed.processes import Processes
from regrow.training.loop import train
from regrow.training.settings import RecoverySettings
from regrow.training.task import TrainingTask
from regrow.training.teacher import load_teacher

EVERY = 8
PROSE = Path(__file__).parent.parent / "recipes" / "prose.txt"
CUT = CutSpec(layers=22, calibration_tokens=4_096, refit=False)
TOKENS = 70_000
DEFAULT = DistillSettings(teacher="original")
PLAIN = "text alone"


@dataclass(frozen=True)
class Scale:
    """How much is trained and measured."""

    tokens: int
    heldout_characters: int | None
    """Of each held-out topic; None for all."""
    cases: tuple[tuple[float, float], ...]
    """(weight, temperature) of the teacher."""


FULL = Scale(
    TOKENS, None,
    ((1.0, 1.0), (1.0, 2.0), (0.75, 1.0), (0.5, 1.0), (0.5, 2.0), (0.5, 4.0), (0.25, 1.0)),
)  # fmt: skip
QUICK = Scale(10_240, 900, ((1.0, 1.0), (0.5, 1.0), (0.5, 2.0)))


@dataclass(frozen=True)
class Outcome:
    """Nats per token by text, and trained tokens a second."""

    domain: float
    prose: float
    rate: float


class Trial:
    """One cut model, its original, and the texts."""

    def __init__(self, original: Path, scale: Scale, work: Path) -> None:
        self.original, self.scale, self.work = original, scale, work
        self.student = work / "cut"
        names = sorted(topics)
        held = names[EVERY - 1 :: EVERY]
        self.text = [topics[name] for name in names if name not in held]
        self.domain = [topics[name][: scale.heldout_characters] for name in held]
        self.prose = list(read_documents(PROSE))
        self.tokenizer = load_tokenizer(original)
        prune_checkpoint(
            ModelDirectory(original),
            self.student,
            CUT,
            documents=lambda: iter(self.text),
            progress=Progress(say=say),
        )

    def losses(self, model: Any) -> tuple[float, float]:
        domain, prose = (
            heldout_loss(model, self.tokenizer, text, precision="auto").loss_per_token
            for text in (self.domain, self.prose)
        )
        return domain, prose

    def recovered(self, distill: DistillSettings | None, seed: int) -> Outcome:
        model = load_model(self.student)
        settings = RecoverySettings(tokens=self.scale.tokens, micro_batch=2, distill=distill)
        data = TrainingData(self.text, self.tokenizer, model.config, settings.row_length, seed)
        loss, samples = loss_and_rows(None, data)
        objective: Loss = loss
        if distill is not None:
            teacher = load_teacher(
                ModelDirectory(self.original), ModelDirectory(self.student), "auto", Processes()
            )
            objective = Distilled(loss, teacher, distill.weight, distill.temperature)
        with tempfile.TemporaryDirectory(dir=self.work) as place:
            began = time.monotonic()
            learned = TrainingTask(samples, objective, seed)
            result = train(model, learned, settings, directory=Path(place) / "training")
            rate = result.tokens / (time.monotonic() - began)
        return Outcome(*self.losses(model), rate)


def named(distill: DistillSettings | None) -> str:
    if distill is None:
        return PLAIN
    return f"weight {distill.weight:g}, temperature {distill.temperature:g}"


def results(trial: Trial, seeds: int) -> Iterator[Result]:
    for name, directory in (("original", trial.original), ("cut", trial.student)):
        domain, prose = trial.losses(load_model(directory))
        say(f"{name}: domain {domain:.4f}, prose {prose:.4f}")
        yield Result(f"{name}, domain", domain, "nats/token")
        yield Result(f"{name}, prose", prose, "nats/token")
    cases = [None] + [
        DistillSettings(teacher="original", weight=weight, temperature=temperature)
        for weight, temperature in trial.scale.cases
    ]
    plain: Outcome | None = None
    for case in cases:
        found = []
        for seed in range(seeds):
            found.append(trial.recovered(case, seed))
            losses = f"domain {found[-1].domain:.4f}, prose {found[-1].prose:.4f}"
            say(f"{named(case)}, seed {seed}: {losses}, {found[-1].rate:.0f} tokens/s")
        mean = _mean(found)
        plain = plain or mean
        yield from _rows(case, mean, plain)


def _rows(case: DistillSettings | None, mean: Outcome, plain: Outcome) -> Iterator[Result]:
    for text, value, peer, unit in (
        ("domain", mean.domain, plain.domain, "nats/token"),
        ("prose", mean.prose, plain.prose, "nats/token"),
        ("speed", mean.rate, plain.rate, "tokens/s"),
    ):
        name = f"{named(case)}, {text}"
        if case is None:
            yield Result(name, value, unit)
            continue
        # The default teacher should lower the loss on the prose.
        goal = Goal("ratio", "<=", 1.0) if case == DEFAULT and text == "prose" else None
        yield Result(name, value, unit, PLAIN, peer, goal)


def _mean(found: Sequence[Outcome]) -> Outcome:
    return Outcome(
        fmean(each.domain for each in found),
        fmean(each.prose for each in found),
        fmean(each.rate for each in found),
    )


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "model", help="SmolLM2-135M-Instruct or a model like it: a directory or a GGUF file"
    )
    arguments.add_argument(
        "--seeds", type=int, default=1, help="number of data orders (default: 1)"
    )
    arguments.add_argument(
        "--tokens", type=int, help=f"tokens of each recovery (default: {TOKENS:,})"
    )
    arguments.add_argument("--threads", type=int, help="number of CPU threads")
    options: argparse.Namespace = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    scale = QUICK if options.quick else FULL
    if options.tokens:
        scale = Scale(options.tokens, scale.heldout_characters, scale.cases)
    with tempfile.TemporaryDirectory(prefix="distillation-") as work:
        original = resolve_model(options.model, Path(work) / "original", say)
        trial = Trial(original, scale, Path(work))
        show(list(results(trial, options.seeds)), as_json=options.json)


if __name__ == "__main__":
    main()
