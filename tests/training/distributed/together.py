"""What several processes train together.

Started as `torchrun ... -m tests.training.distributed.together DIR ROLE`.

The process whose role is `guest` dies where a scenario says so, and is not there again, or is asked
to stop, or finds no room on the disk. A scenario that was finished is not done again.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.corpus.packing import pack
from regrow.corpus.samples import Batch, Components, Samples, components_of
from regrow.evaluation.heldout import heldout_loss
from regrow.evaluation.heldout_components import heldout_denoisers
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.distillation import Distilled, Teacher
from regrow.objectives.losses.loss import Loss
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.losses.student_tokens import StudentTokens
from regrow.objectives.rows.denoisers import UL2
from regrow.objectives.rows.span_corruption import corrupt_text
from regrow.objectives.rows.ul2 import mix_denoisers
from regrow.training.distributed.processes import join_processes
from regrow.training.distributed.sharding import full_state_dict
from regrow.training.mixing.dynamic_mixture import RULES, DynamicMixture
from regrow.training.mixing.training_mixtures import MeasuredMixture, TrainingMixtures
from regrow.training.settings import RecoverySettings
from regrow.training.task import StepReport
from regrow.training.teacher import shard_teacher
from tests.tiny import sentences
from tests.training.small import byte_tokenizer, small_model, train_on, without_memory

TEXT = ["the cat sat on the mat", "a dog", "the dog saw the cat and ran", "so it goes"] * 3
SETTINGS = RecoverySettings(
    tokens=180, row_length=10, batch_tokens=40, micro_batch=1, learning_rate=0.01,
    precision="fp32", evaluate_every=80, save_every=0,
)  # fmt: skip
BREAK = 9
"""Number of the sample at which something happens: in the third of five steps."""


@dataclass
class Watched:
    """Samples that note who asks for which, and call `at_break` at one of them."""

    samples: Samples
    log: Path
    at_break: Callable[[], None]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def row_length(self) -> int:
        return self.samples.row_length

    @property
    def identity(self) -> str:
        return self.samples.identity

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.samples.lengths(rows)

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        return components_of(self.samples, rows, samples)

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        with self.log.open("a") as log:
            log.write(json.dumps([rows.tolist(), samples.tolist()]) + "\n")
        if samples.max() >= BREAK:
            self.at_break()
        return self.samples.batch(rows, samples)


@dataclass(frozen=True)
class Scenario:
    """Settings to change, what the model is made of, who teaches, what happens to the guest.

    `steered`: seven denoisers in shares that follow their losses. `given`: the first process alone
    has the model, and the teacher's.
    """

    changes: dict[str, Any]
    model: dict[str, Any]
    family: str = "llama"
    taught: bool = False
    steered: bool = False
    given: bool = False
    event: str = ""


SCENARIOS = {
    "plain": Scenario({}, {}),
    "uneven": Scenario({"micro_batch": 3, "recompute": True}, {}, "gpt_neox"),
    "muon": Scenario({"optimizer": "muon", "schedule": "wsd"}, {}),
    "frozen": Scenario({"embedding_rate": 0}, {"tie_word_embeddings": False}, given=True),
    "t5": Scenario({"row_length": 24, "batch_tokens": 48, "tokens": 240}, {}, "t5"),
    "steered": Scenario(
        {"row_length": 24, "batch_tokens": 48, "tokens": 240}, {}, "t5", steered=True
    ),
    "taught": Scenario({}, {}, taught=True),
    "given": Scenario({}, {}, given=True),
    "given-t5": Scenario(
        {"row_length": 24, "batch_tokens": 48, "tokens": 240}, {}, "t5", given=True
    ),
    "given-taught": Scenario({}, {}, taught=True, given=True),
    "dropout": Scenario({}, {"attention_dropout": 0.1}),
    "killed": Scenario({}, {"attention_dropout": 0.1}, event="killed"),
    "asked": Scenario({"save_every": 1000}, {}, event="asked"),
    "full": Scenario({}, {}, event="full"),
    "grown": Scenario({}, {}),
    "lost": Scenario({}, {}, event="lost"),
}


def materials(scenario: Scenario, directory: Path) -> tuple[Any, Any, list[str]]:
    """Model, tokenizer and text of a scenario; `directory` holds the T5."""
    if scenario.family == "t5":
        source = directory / "t5-model"
        return load_model(source), load_tokenizer(source), sentences(12)
    return small_model(scenario.family, **scenario.model), byte_tokenizer(), TEXT


def perform(
    name: str,
    directory: Path,
    *,
    at_break: Callable[[], None] = lambda: None,
    on_step: Callable[[StepReport], None] | None = None,
) -> dict[str, Any]:
    """Train a scenario in `directory`/`name`, from where it stood; what came out of it."""
    scenario = SCENARIOS[name]
    settings = RecoverySettings(**{**SETTINGS.model_dump(), **scenario.changes})
    model, tokenizer, text = materials(scenario, directory)
    place = directory / name
    place.mkdir(exist_ok=True)
    is_given = scenario.given and not join_processes().first
    if is_given:
        model = without_memory(model)
    objective: Loss = Causal()
    samples: Samples = (
        pack(text, tokenizer, settings.row_length)
        if scenario.family != "t5"
        else corrupt_text(text, tokenizer, model.config, settings.row_length, seed=3)
    )
    if scenario.family == "t5":
        objective = Seq2Seq()
    if scenario.taught:
        # It knows more tokens, such as `th` and `the`, and numbers them the other way round.
        larger = small_model("llama", seed=1, vocab_size=300, num_hidden_layers=3)
        if is_given:
            larger = without_memory(larger)
        pieces = {number: tuple(name) for number, name in enumerate((b"e ", b"th", b"the"))}
        tokens = StudentTokens(torch.arange(299, 41, -1), pieces)
        teacher = Teacher(larger.requires_grad_(False), tokens, "it")
        shard_teacher(teacher, join_processes())
        objective = Distilled(Causal(), teacher, weight=0.5, temperature=2.0)
    steering = None
    if scenario.steered:
        samples = mix_denoisers(text, tokenizer, model.config, settings.row_length, seed=3)
        followed = heldout_denoisers(text[:4], tokenizer, model.config, settings.row_length, 60)
        mixture = DynamicMixture(
            RULES["code"], dict.fromkeys(UL2, 1.0), {**dict.fromkeys(UL2, 5.0), "S": 4.0}
        )
        steered = MeasuredMixture(mixture, followed, samples.shares)
        steering = TrainingMixtures({"denoiser": steered}, every=80)
    component_losses: list[Mapping[str, float]] = []
    samples = Watched(samples, place / f"asked-{os.getpid()}.jsonl", at_break)
    result = train_on(
        model, samples, objective, settings, seed=3, directory=place / "training", identity="m",
        evaluate=lambda model: heldout_loss(model, tokenizer, text[:4]).loss_per_token,
        track=lambda report: component_losses.append(report.component_losses),
        on_step=on_step, mixtures=steering,
    )  # fmt: skip
    processes = join_processes()
    weights = full_state_dict(model)
    head = model.get_output_embeddings().weight
    return {
        "rank": processes.rank,
        "count": processes.count,
        "resumed_at": result.resumed_at,
        "curve": result.curve,
        "heldout": result.heldout_curve,
        "steering": result.mixtures,
        "component_losses": component_losses,
        "heads": [n for n, p in model.named_parameters(remove_duplicate=False) if p is head],
        "equal": [len({id(t) for t in weights.values()}), len(weights)],
        "weights": {key: tensor.tolist() for key, tensor in weights.items()},
    }


def main(directory: Path, role: str) -> None:
    torch.set_num_threads(1)
    for name, scenario in SCENARIOS.items():
        place = directory / name
        if (place / "result.json").exists():
            continue
        outcome: dict[str, Any]
        try:
            with happening(scenario.event, place / "happened", role == "guest") as at_break:
                outcome = perform(name, directory, at_break=at_break)
        except (UserError, SystemExit) as left:
            processes = join_processes()
            outcome = {"left": f"{type(left).__name__}: {left}", "rank": processes.rank}
        if outcome["rank"] == 0:
            (place / "result.json").write_text(json.dumps(outcome))
        else:
            outcome.pop("weights", None)
            (place / "other.json").write_text(json.dumps(outcome))


@contextmanager
def happening(event: str, mark: Path, is_guest: bool) -> Iterator[Callable[[], None]]:
    """What to call at the break, which does something once, in the guest."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def at_break() -> None:
        if not event or not is_guest or mark.exists():
            return
        mark.write_text("")
        if event == "lost":
            os.kill(os.getppid(), signal.SIGKILL)
        if event in ("killed", "lost"):
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "asked":
            os.kill(os.getpid(), signal.SIGTERM)
        if event == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))

    try:
        yield at_break
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
