"""Held-out loss after equal cuts of SmolLM2-135M-Instruct, chosen by different scores.

All scores cut to the same sizes. The loss is measured directly after the cut, and after the same
short recovery (not with --quick). Losses are nats per token on held-out text. The domain is the
documentation of Python's own `help()`. Every eighth topic is held out; the others are used for
calibration and training. The prose is unrelated text, which is used for neither. With --mix, half
of the calibration text is another text. The values are
losses, not differences to the original, since a recovery can end below the original.
"""

import argparse
import shutil
import tempfile
import time
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
from regrow.cuts.choose_indices import Scores, choose
from regrow.cuts.cut import Cut
from regrow.evaluation.heldout import heldout_loss
from regrow.objectives.losses.causal import Causal
from regrow.scoring.calibration import CalibrationText
from regrow.scoring.score import score
from regrow.surgery.carve import carve
from regrow.surgery.result_files import plan_checked_carve
from regrow.training.loop import train
from regrow.training.settings import RecoverySettings
from regrow.training.task import TrainingTask

EVERY = 8
PROSE = Path(__file__).parent.parent / "recipes" / "prose.txt"
AXES = ("ffn", "head", "hidden", "layer")
WIDTHS = ("random", "activation", "magnitude", "taylor", "wanda")
"""The scores of widths. Each is compared with the first."""
LAYERS = ("influence", "angular", "loss")
"""The scores of layers, beside random."""


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
class Texts:
    """Files of text; `mix`: a file for half of the calibration text, or None."""

    prose: Path
    mix: Path | None


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


def layer_cases(
    layout: Layout, model: str, size: int, scores: Mapping[str, Scores], random: Scores
) -> Iterator[Case]:
    """Cuts to so many layers. A peer comes before the cases compared with it."""
    count = layout.sizes["layer"]
    drop = count - size
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
    for by, scored in scores.items():
        cut = choose(layout, model, {"layer": size}, scored)
        yield Case(what, by, cut, "contiguous middle", goal=by == LAYERS[0])


class Trial:
    """One model, its texts, and the same measurements for every cut."""

    def __init__(
        self, model: Path, texts: Texts, scale: Scale, work: Path, sizes: Mapping[str, int]
    ) -> None:
        """`sizes`: by axis, the size after the cut, if it is not the default."""
        self.source = ModelDirectory(model)
        self.layout = self.source.layout
        before = self.layout.sizes
        self.sizes = {
            "ffn": before["ffn"] * 3 // 4,
            "head": before["head"] - before["kv_head"],
            "hidden": before["hidden"] * 7 // 8,
            "layer": before["layer"] - before["layer"] // 5,
            **sizes,
        }
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        self.scale = scale
        self.work = work
        names = sorted(topics)
        held = names[EVERY // 2 :: EVERY]
        self.domain = [topics[name][: scale.heldout_characters] for name in held]
        self.text = [topics[name] for name in names if name not in held]
        self.prose = [text[: scale.prose_characters] for text in read_documents(texts.prose)]
        self.calibration = self.text
        if texts.mix is not None:
            other = "\n".join(read_documents(texts.mix))
            self.calibration = ["\n".join(self.text)[: len(other)], other]

    def cases(self, axes: Collection[str]) -> Iterator[Case]:
        model = self.source.checkpoint.fingerprint
        sizes = {axis: n for axis, n in self.sizes.items() if axis in axes and axis != "layer"}
        if sizes:
            scores = {by: self._scores([*sizes], by) for by in WIDTHS}
            yield from width_cases(self.layout, model, sizes, scores)
        if "layer" in axes:
            scores = {by: self._scores(["layer"], by) for by in LAYERS}
            random = self._scores(["layer"], "random")
            yield from layer_cases(self.layout, model, self.sizes["layer"], scores, random)

    def _scores(self, axes: list[str], by: str) -> Scores:
        text = CalibrationText(lambda: iter(self.calibration), self.scale.calibration_tokens)
        began = time.monotonic()
        scores = score(self.source, axes, by=by, text=text, sizes=self.sizes, notify=say)
        say(f"{', '.join(axes)} scored by {by} in {time.monotonic() - began:.0f} s")
        return scores

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
    arguments.add_argument("--layers", type=int, help="layers after the cut (default: four fifths)")
    arguments.add_argument("--mix", type=Path, help="a text that is half of the calibration text")
    arguments.add_argument("--calibration-tokens", type=int, help="tokens that scores read")
    options: argparse.Namespace = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="scores-") as work:
        scale = QUICK if options.quick else FULL
        if options.calibration_tokens:
            scale = replace(scale, calibration_tokens=options.calibration_tokens)
        given = {"ffn": options.ffn, "layer": options.layers}
        sizes = {axis: size for axis, size in given.items() if size is not None}
        texts = Texts(options.prose, options.mix)
        trial = Trial(options.model, texts, scale, Path(work), sizes)
        show(list(results(trial, options.axes)), as_json=options.json)


if __name__ == "__main__":
    main()
