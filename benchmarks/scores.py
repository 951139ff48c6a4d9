"""Held-out loss after equal cuts of SmolLM2-135M-Instruct, chosen by different scores.

All scores cut to the same sizes. The loss is measured directly after the cut, and after the same
short recovery (not with --quick). Losses are nats per token on held-out text. The domain is the
documentation of Python's own `help()`. Every eighth topic is held out; the others are used for
calibration and training. The prose is unrelated text, which is used for neither. The values are
losses, not differences to the original, since a recovery can end below the original.
"""

import argparse
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
import transformers
from common import Goal, Result, parser, say, show

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.corpus.packing import pack
from regrow.corpus.text import read_documents
from regrow.evaluation.heldout import heldout_loss
from regrow.objectives.losses.causal import Causal
from regrow.scoring.calibration import CalibrationText
from regrow.scoring.score import score
from regrow.surgery.carve import carve
from regrow.surgery.choose import Scores, choose
from regrow.surgery.cut import Cut
from regrow.surgery.prune import plan_checked_carve
from regrow.training.loop import train
from regrow.training.settings import RecoverySettings
from regrow.training.task import TrainingTask

EVERY = 8
PROSE = Path(__file__).parent.parent / "recipes" / "prose.txt"
AXES = ("ffn", "head", "hidden", "layer")
WIDTHS = ("random", "activation", "magnitude", "taylor")
"""The scores of widths. Each is compared with the first."""


@dataclass(frozen=True)
class Scale:
    """How much text a run reads."""

    calibration_tokens: int
    heldout_characters: int
    """Of each held-out topic."""
    prose_characters: int
    recovery_tokens: int


FULL = Scale(4_096, 1_500, 10_000, 10_240)
QUICK = Scale(2_048, 200, 2_000, 0)


@dataclass(frozen=True)
class Case:
    """A cut by one score, and the score that it is compared with."""

    what: str
    by: str
    cut: Cut
    peer: str | None
    goal: bool = False
    """Whether its loss directly after the cut should not exceed the peer's."""


@dataclass(frozen=True)
class Losses:
    """Nats per token by text."""

    domain: float
    prose: float


def width_cases(
    layout: Layout, model: str, sizes: Mapping[str, int], scores: Mapping[str, Scores]
) -> Iterator[Case]:
    """Cuts of one axis at a time to these sizes, by each score, random first."""
    for axis, size in sizes.items():
        what = f"{axis} {layout.sizes[axis]:,} -> {size:,}"
        for by, scored in scores.items():
            cut = choose(layout, model, {axis: size}, scored)
            peer = None if by == WIDTHS[0] else WIDTHS[0]
            yield Case(what, by, cut, peer, goal=by == "activation")


def layer_cases(layout: Layout, model: str, scored: Scores, random: Scores) -> Iterator[Case]:
    """Cuts that drop a fifth of the layers. A peer comes before the cases compared with it."""
    count = layout.sizes["layer"]
    drop = count // 5
    what = f"layers {count} -> {count - drop}"
    first = (count - drop) // 2
    dropped: Mapping[str, Any] = {
        "contiguous middle": np.arange(first, first + drop),
        "evenly spaced": (np.arange(drop) * count + count // 2) // drop,
    }
    yield Case(what, "random", choose(layout, model, {"layer": count - drop}, random), None)
    for by, gone in dropped.items():
        keep = np.setdiff1d(np.arange(count), gone)
        yield Case(what, by, choose(layout, model, {}, {}, {"layer": keep}), "random")
    cut = choose(layout, model, {"layer": count - drop}, scored)
    yield Case(what, "influence", cut, "contiguous middle", goal=True)


class Trial:
    """One model, its texts, and the same measurements for every cut."""

    def __init__(
        self, model: Path, prose: Path, scale: Scale, work: Path, sizes: Mapping[str, int]
    ) -> None:
        """`sizes`: by axis, the size after the cut, if it is not the default."""
        self.source = ModelDirectory(model)
        self.layout = self.source.layout
        before = self.layout.sizes
        self.sizes = {
            "ffn": before["ffn"] * 3 // 4,
            "head": before["head"] - before["kv_head"],
            "hidden": before["hidden"] * 7 // 8,
            **sizes,
        }
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        self.scale = scale
        self.work = work
        names = sorted(topics)
        held = names[EVERY // 2 :: EVERY]
        self.domain = [topics[name][: scale.heldout_characters] for name in held]
        self.text = [topics[name] for name in names if name not in held]
        self.prose = [text[: scale.prose_characters] for text in read_documents(prose)]

    def cases(self, axes: Collection[str]) -> Iterator[Case]:
        model = self.source.checkpoint.fingerprint
        sizes = {axis: size for axis, size in self.sizes.items() if axis in axes}
        if sizes:
            scores = {by: self._scores([*sizes], by) for by in WIDTHS}
            yield from width_cases(self.layout, model, sizes, scores)
        if "layer" in axes:
            scored, random = (self._scores(["layer"], by) for by in ("influence", "random"))
            yield from layer_cases(self.layout, model, scored, random)

    def _scores(self, axes: list[str], by: str) -> Scores:
        text = CalibrationText(lambda: iter(self.text), self.scale.calibration_tokens)
        return score(self.source, axes, by=by, text=text, notify=say)

    def original(self) -> Losses:
        return self._losses(_load(self.source.path))

    def losses(self, cut: Cut) -> tuple[Losses, Losses | None]:
        """Losses after the cut, and after the recovery (None if there is none)."""
        with tempfile.TemporaryDirectory(dir=self.work) as name:
            carve(plan_checked_carve(self.source.checkpoint, self.layout, cut), Path(name) / "cut")
            model = _load(Path(name) / "cut")
            shutil.rmtree(Path(name) / "cut")
            before = self._losses(model)
            if not self.scale.recovery_tokens:
                return before, None
            settings = RecoverySettings(tokens=self.scale.recovery_tokens)
            samples = pack(self.text, self.tokenizer, settings.row_length)
            task = TrainingTask(samples, Causal(), seed=0)
            train(model, task, settings, directory=Path(name) / "training")
            return before, self._losses(model)

    def _losses(self, model: Any) -> Losses:
        return Losses(
            *(
                heldout_loss(model, self.tokenizer, text, precision="auto").loss_per_token
                for text in (self.domain, self.prose)
            )
        )


def _load(directory: Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model.eval()


def results(trial: Trial, axes: Collection[str]) -> Iterator[Result]:
    original = trial.original()
    say(f"original: domain {original.domain:.3f}, prose {original.prose:.3f}")
    yield Result("original, domain", original.domain, "nats/token")
    yield Result("original, prose", original.prose, "nats/token")
    measured: dict[tuple[str, str], Losses] = {}
    for case in trial.cases(axes):
        lines = []
        for when, losses in zip(("cut", "recovered"), trial.losses(case.cut), strict=True):
            if losses is None:
                continue
            lines.append(f"{when}: domain {losses.domain:.3f}, prose {losses.prose:.3f}")
            measured[f"{case.what} {case.by}", when] = losses
            name = f"{case.what} by {case.by}, {when}"
            domain = Result(f"{name}, domain", losses.domain, "nats/token")
            prose = Result(f"{name}, prose", losses.prose, "nats/token")
            if case.peer:
                peer = measured[f"{case.what} {case.peer}", when]
                domain = replace(domain, peer=case.peer, peer_value=peer.domain)
                prose = replace(prose, peer=case.peer, peer_value=peer.prose)
            if case.goal and when == "cut":
                domain = replace(domain, goal=Goal("ratio", "<=", 1.0))
            yield domain
            yield prose
        say(f"{case.what} by {case.by}; " + "; ".join(lines))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "model", type=Path, help="a directory of SmolLM2-135M-Instruct, or of a model like it"
    )
    arguments.add_argument(
        "--prose", type=Path, default=PROSE, help="unrelated text (default: recipes/prose.txt)"
    )
    arguments.add_argument("--threads", type=int, help="number of CPU threads")
    arguments.add_argument(
        "--axes", nargs="+", choices=AXES, default=AXES, help="axes to cut (default: all)"
    )
    arguments.add_argument("--ffn", type=int, help="ffn after the cut (default: three quarters)")
    options: argparse.Namespace = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="scores-") as work:
        scale = QUICK if options.quick else FULL
        sizes = {} if options.ffn is None else {"ffn": options.ffn}
        trial = Trial(options.model, options.prose, scale, Path(work), sizes)
        show(list(results(trial, options.axes)), as_json=options.json)


if __name__ == "__main__":
    main()
