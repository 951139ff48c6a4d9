"""What a cut costs: bits per byte after a cut and after its recovery, by method and size.

SmolLM2-135M-Instruct is cut to 90, 75, 50 and 35% of its parameters. All methods train on the same
number of tokens, and all but balanced cut to the same sizes:

- random: random scores, and recovery on the domain, as in the OpenBA-V2 report;
- no refit: influence and activation, and recovery on the domain, without a rotation of hidden;
- refit: the same scores on the domain and on text that the original wrote, a refit, and recovery on
  the domain and a tenth of the written text, with the embeddings as they are; the vocabulary is
  chosen by the domain alone;
- balanced: as refit, with other shares of layers, ffn and vocabulary, a refit on three times as
  many tokens, and then four passes over them in which each layer is trained alone;
- torch-pruning, only if --methods names it: cuts of as many parameters by a peer that keeps all
  layers and the vocabulary (benchmarks/torch_pruning_peer.py), and recovery on the domain.

Where nothing is said of embeddings, all weights are trained, as in the control: the original,
trained on as many tokens of the domain. Texts: the domain (Python's documentation, of which every
eighth topic is held out), prose (recipes/prose.txt), and a manual (benchmarks/manual.txt). With
--without, balanced is also measured without each of its parts at one size.

An OpenBA is cut to 50 and 22.7% of its parameters. The refit method rotates hidden there, "refit of
channels" does not, and both are recovered at a lower learning rate. The text is every eighth
document of --text, and the held-out texts are those of --heldout (recipes/prepare_mini_openba.py
writes some). An OpenBA writes no text, so its refit uses the domain alone, and all weights are
trained. Losses are those of the continuations of the texts.

The gap of a method is its loss minus that of the control. The goal is at most a quarter of the gap
of random, and at most half of that of the method without a refit, as means over the texts. Random
scores are drawn with --seeds seeds at each size, since much depends on which layers they drop: seed
0 drops the first one of SmolLM2.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from statistics import fmean
from typing import Any

import torch
import transformers
from common import Goal, Result, parser, say, show
from torch_pruning_peer import Importance, Widths, cut_by_torch_pruning

import regrow
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.corpus.encoding import TextWithSpecialTokens
from regrow.corpus.text import read_documents
from regrow.evaluation.heldout import heldout_loss
from regrow.objectives.losses.distillation import Distilled
from regrow.objectives.losses.loss import Loss
from regrow.objectives.registry import TrainingData, loss_and_rows
from regrow.training.distill_settings import DistillSettings
from regrow.training.distributed.processes import Processes
from regrow.training.loop import train
from regrow.training.settings import RecoverySettings
from regrow.training.task import TrainingTask
from regrow.training.teacher import load_teacher

HERE = Path(__file__).parent
EVERY = 8
OWN_TOKENS, OWN_EVERY = 200_000, 10
"""Tokens that the original writes. A refit is made on all of them, and a recovery on every tenth
document: with more of them it takes more from the domain than it gives elsewhere."""
OPENBA_SIZES: Mapping[str, Mapping[str, Any]] = {
    "50%": {
        "layers": {"encoder": 3, "decoder": 9}, "hidden": 160, "ffn": 256, "heads": 6,
        "vocab_size": 10_624,
    },
    "22.7%": {
        "layers": {"encoder": 2, "decoder": 8}, "hidden": 96, "ffn": 256, "heads": 4,
        "vocab_size": 9_120,
    },
}  # fmt: skip
SIZES: Mapping[str, Mapping[str, Any]] = {
    "90%": {"layers": 28, "ffn": 1_408},
    "75%": {"layers": 24, "ffn": 1_232},
    "50%": {"layers": 22, "ffn": 1_008, "vocab_size": 16_384},
    "35%": {"layers": 18, "ffn": 768, "vocab_size": 12_288},
}
BALANCED_SIZES: Mapping[str, Mapping[str, Any]] = {
    "90%": {"vocab_size": 25_600},
    "75%": {"ffn": 1_024, "vocab_size": 35_840},
    "50%": {"layers": 20, "ffn": 872, "vocab_size": 32_768},
    "35%": {"layers": 18, "ffn": 616, "vocab_size": 20_480},
}
SEVERAL_SEEDS = "50%"
EVEN_WIDTHS: Mapping[str, Mapping[str, Any]] = {
    "90%": {"hidden": 540, "ffn": 1_436},
    "75%": {"hidden": 477, "ffn": 1_286},
    "50%": {"hidden": 369, "ffn": 966},
    "35%": {"hidden": 288, "ffn": 751},
}
"""Nearly the same part of hidden and of ffn; parameters as in `SIZES`, to a thousandth."""
FFN_ALONE: Mapping[str, Mapping[str, Any]] = {
    "90%": {"hidden": 576, "ffn": 1_280},
    "75%": {"hidden": 576, "ffn": 883},
    "50%": {"hidden": 576, "ffn": 238},
}
"""35% is less than all that is not ffn."""


@dataclass(frozen=True)
class Method:
    """How a cut is made and recovered.

    Attributes:
        by: The score; None for the best of each axis.
        refit: Whether the cut is refitted; None where more than the vocabulary is cut.
        rotate: Whether hidden is rotated where it is cut; None where the model allows it.
        written: Whether text of the original is added to the domain, for scores and recovery.
        sizes: In place of those in `SIZES`, by size; a size that is absent is not measured.
        settings: Of the recovery, if they differ from the defaults.
        refit_times: How many times as many tokens are refitted on as those of other methods.
        refit_passes: Over these tokens, in which each layer is then trained alone.
        peer: How Torch-Pruning chooses, if it makes the cut.
    """

    by: str | None = None
    refit: bool | None = False
    rotate: bool | None = False
    written: bool = False
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: SIZES)
    settings: Mapping[str, Any] = field(default_factory=dict)
    refit_times: int = 1
    refit_passes: int = 0
    peer: Importance | None = None


FROZEN: Mapping[str, Any] = {"embedding_rate": 0}
LOWER: Mapping[str, Any] = {"learning_rate": 3e-5}
TEACHER = DistillSettings(teacher="original")
RANDOM, PLAIN, REFIT, BALANCED = "random", "no refit", "refit", "balanced"
METHODS: Mapping[str, Method] = {
    RANDOM: Method(by="random"),
    PLAIN: Method(),
    REFIT: Method(refit=True, written=True, settings=FROZEN),
    BALANCED: Method(
        refit=None,
        written=True,
        sizes=BALANCED_SIZES,
        settings=FROZEN,
        refit_times=3,
        refit_passes=4,
    ),
}
WITHOUT: Mapping[str, Method] = {
    "without the refit": replace(METHODS[BALANCED], refit=False, refit_passes=0),
    "without training layers": replace(METHODS[BALANCED], refit_passes=0),
    "without text of the original": replace(METHODS[BALANCED], written=False),
    "with a refit on a third of the tokens": replace(METHODS[BALANCED], refit_times=1),
    "with random scores": replace(METHODS[BALANCED], by="random"),
    "with all weights trained": replace(METHODS[BALANCED], settings={}),
    "with a teacher": replace(METHODS[BALANCED], settings={**FROZEN, "distill": TEACHER}),
}
OPENBA_METHODS: Mapping[str, Method] = {
    RANDOM: Method(by="random", sizes=OPENBA_SIZES),
    PLAIN: Method(sizes=OPENBA_SIZES),
    "no refit, lower rate": Method(sizes=OPENBA_SIZES, settings=LOWER),
    "refit of channels": Method(refit=True, sizes=OPENBA_SIZES, settings=LOWER),
    REFIT: Method(refit=True, rotate=None, sizes=OPENBA_SIZES, settings=LOWER),
}
PEERS: Mapping[str, Method] = {
    "torch-pruning, magnitude": Method(peer="magnitude", sizes=EVEN_WIDTHS),
    "torch-pruning, Taylor": Method(peer="Taylor", sizes=EVEN_WIDTHS),
    "torch-pruning, Taylor, ffn alone": Method(peer="Taylor", sizes=FFN_ALONE),
}


@dataclass(frozen=True)
class Texts:
    """Documents to cut and train on, and documents to measure, by name."""

    domain: list[str]
    held: Mapping[str, list[str]]


def documentation(characters: int | None) -> Texts:
    """Python's documentation, prose and a manual; of a held-out topic so many characters."""
    names = sorted(topics)
    held = names[EVERY - 1 :: EVERY]
    seen = {topics[name] for name in held}
    return Texts(
        [text for text in map(topics.__getitem__, names) if text not in seen],
        {
            "domain": [topics[name][:characters] for name in held],
            "prose": list(read_documents(HERE.parent / "recipes" / "prose.txt")),
            "manual": list(read_documents(HERE / "manual.txt")),
        },
    )


class Trial:
    """One model and its texts."""

    def __init__(
        self, model: Path, texts: Texts, written: Path | None, options: argparse.Namespace,
        work: Path,
    ) -> None:  # fmt: skip
        self.model, self.work = model, work
        self.tokens, self.calibration_tokens = options.tokens, options.calibration_tokens
        self.domain, self.held = texts.domain, texts.held
        own = list(read_documents(written)) if written else []
        # As in a run. Special tokens are not named in the domain, so there this changes nothing.
        own = [*map(TextWithSpecialTokens, own)]
        self.refit_text = [*self.domain, *own]
        self.recovery_text = [*self.domain, *own[::OWN_EVERY]]

    def losses(self, model: Any, tokenizer: Any) -> dict[str, float]:
        """Bits per byte by text."""
        found = {}
        for name in self.held:
            loss = heldout_loss(model, tokenizer, self.held[name], precision="auto")
            assert loss.bits_per_byte is not None
            found[name] = loss.bits_per_byte
        return found

    def cut(self, method: Method, sizes: Mapping[str, Any], seed: int, out: Path) -> None:
        if method.peer is not None:
            cut_by_torch_pruning(
                ModelDirectory(self.model), out, Widths(**sizes), method.peer, self.domain,
                self.calibration_tokens,
            )  # fmt: skip
            return
        if "hidden" in sizes:
            sizes = {**sizes, "rotate": method.rotate}
        text = out.with_suffix(".jsonl")
        documents = self.refit_text if method.written else self.domain
        text.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
        if method.written and "vocab_size" in sizes:
            sizes = {**sizes, "vocab": {"size": sizes["vocab_size"], "counts": self.counts}}
            del sizes["vocab_size"]
        regrow.prune(
            self.model, out, calibration=text, special_tokens=method.written, by=method.by,
            refit=method.refit, seed=seed,
            calibration_tokens=method.refit_times * self.calibration_tokens,
            refit_passes=method.refit_passes if sizes.keys() - {"vocab"} else 0, **sizes,
        )  # fmt: skip

    @cached_property
    def counts(self) -> Path:
        """Counts of the tokens of the domain; as in a run, those of written text do not count."""
        text, out = self.work / "domain.jsonl", self.work / "domain.safetensors"
        text.write_text("".join(json.dumps({"text": each}) + "\n" for each in self.domain))
        regrow.count_vocabulary(self.model, out, [text], workers=1)
        return out

    def trained(
        self, directory: Path, documents: list[str], settings: Mapping[str, Any], seed: int
    ) -> dict[str, float]:
        """Losses after a training."""
        source = ModelDirectory(directory)
        model = source.load()
        recovery = RecoverySettings(tokens=self.tokens, micro_batch=2, **settings)
        data = TrainingData(documents, source.tokenizer, model.config, recovery.row_length, seed)
        from_text, samples = loss_and_rows(None, data)
        loss: Loss = from_text
        if (distill := recovery.distill) is not None:
            here = Processes(device=torch.device("cpu"))
            teacher = load_teacher(ModelDirectory(self.model), source, recovery.precision, here)
            loss = Distilled(from_text, teacher, distill.weight, distill.temperature)
        with tempfile.TemporaryDirectory(dir=self.work) as place:
            train(model, TrainingTask(samples, loss, seed), recovery, directory=Path(place) / "t")
        return self.losses(model, source.tokenizer)

    def measured(
        self, name: str, method: Method, sizes: Mapping[str, Any], seed: int
    ) -> dict[str, dict[str, float]]:
        """Losses after the cut and after the recovery, by text."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.work) as place:
            out = Path(place) / "cut"
            self.cut(method, sizes, seed, out)
            cut = ModelDirectory(out)
            found = {"cut": self.losses(cut.load(), cut.tokenizer)}
            if self.tokens:
                documents = self.recovery_text if method.written else self.domain
                found["recovered"] = self.trained(out, documents, method.settings, seed)
        seconds = time.monotonic() - began
        say(f"{name}, seed {seed}, {seconds:.0f} s: {_words(found)}")
        return found


def _words(found: Mapping[str, Mapping[str, float]]) -> str:
    return "; ".join(
        f"{when} " + " ".join(f"{text} {loss:.3f}" for text, loss in losses.items())
        for when, losses in found.items()
    )


def _spread(values: Sequence[float]) -> str:
    """The least and the largest of several values, in brackets."""
    return f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""


def results(trial: Trial, options: argparse.Namespace) -> Iterator[Result]:
    source = ModelDirectory(trial.model)
    original = trial.losses(source.load(), source.tokenizer)
    say(f"original: {_words({'whole': original})}")
    control = original
    if trial.tokens:
        control = trial.trained(trial.model, trial.domain, {}, 0)
        say(f"control: {_words({'trained': control})}")
    for text in trial.held:
        yield Result(f"original, {text}", original[text], "bits/byte")
        yield Result(f"control, {text}", control[text], "bits/byte")
    for size in options.sizes:
        gaps: dict[tuple[str, str], float] = {}
        methods = (
            OPENBA_METHODS
            if options.is_openba
            else {**METHODS, **(WITHOUT if size == options.without else {}), **PEERS}
        )
        methods = {n: m for n, m in methods.items() if n in options.methods and size in m.sizes}
        for name, method in methods.items():
            several = size == SEVERAL_SEEDS or name == RANDOM
            seeds = range(options.seeds if several else 1)
            runs = [trial.measured(f"{size} {name}", method, method.sizes[size], s) for s in seeds]
            for when in runs[0]:
                by_text = {text: fmean(run[when][text] for run in runs) for text in trial.held}
                for text, loss in by_text.items():
                    said = _spread([run[when][text] for run in runs])
                    yield Result(f"{size}, {name}, {when}, {text}{said}", loss, "bits/byte")
                reference = original if when == "cut" else control
                by_seed = [fmean(run[when][t] - reference[t] for t in trial.held) for run in runs]
                gaps[name, when] = gap = fmean(by_seed)
                said = _spread(by_seed)
                yield Result(f"{size}, {name}, {when}, gap{said}", gap, "bits/byte")
        for when in ("cut", "recovered"):
            best = BALANCED if (BALANCED, when) in gaps else REFIT
            bounds: dict[str, float | None] = {RANDOM: 0.25, PLAIN: 0.5, **dict.fromkeys(PEERS)}
            for peer, bound in bounds.items():
                if {(best, when), (peer, when)} <= gaps.keys():
                    goal = None
                    if bound is not None and when == "recovered":
                        goal = Goal("ratio", "<=", bound)
                    yield Result(
                        f"{size}, gap of {best}, {when}", gaps[best, when], "bits/byte", peer,
                        gaps[peer, when], goal,
                    )  # fmt: skip


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path, help="SmolLM2-135M-Instruct or an OpenBA")
    arguments.add_argument("--text", type=Path, help="of an OpenBA, to cut and train on")
    arguments.add_argument("--heldout", type=Path, nargs="+", default=[], help="of an OpenBA")
    arguments.add_argument(
        "--written",
        type=Path,
        help="text of the original, of which a recovery reads every tenth document (default: "
        f"{OWN_TOKENS:,} tokens, made first)",
    )
    arguments.add_argument("--sizes", nargs="+", choices=[*SIZES, *OPENBA_SIZES])
    arguments.add_argument("--tokens", type=int, default=50_000, help="of recovery; 0 for none")
    arguments.add_argument(
        "--seeds", type=int, default=3, help="of random scores, and of all methods at half the size"
    )
    arguments.add_argument("--methods", nargs="+", choices=[*METHODS, *WITHOUT, *PEERS])
    arguments.add_argument("--without", choices=SIZES, help="the size for the parts of the method")
    options = arguments.parse_args()
    options.is_openba = ModelDirectory(options.model).config.model_type == "openba"
    if options.is_openba and not (options.text and options.heldout):
        arguments.error("an OpenBA needs --text and --heldout")
    if not options.is_openba and (options.text or options.heldout):
        arguments.error("--text and --heldout are for an OpenBA")
    if len({path.stem for path in options.heldout}) < len(options.heldout):
        arguments.error("--heldout: each file needs a name of its own")
    sizes = OPENBA_SIZES if options.is_openba else SIZES
    options.sizes = options.sizes or [*sizes]
    if not sizes.keys() >= {*options.sizes}:
        arguments.error(f"--sizes of this model are {', '.join(sizes)}")
    methods = [*(OPENBA_METHODS if options.is_openba else {**METHODS, **WITHOUT})]
    options.methods = options.methods or methods
    if options.is_openba and (options.without or not {*options.methods} <= {*methods}):
        arguments.error(f"--methods of an OpenBA are {', '.join(methods)}, without --without")
    if not PEERS.keys().isdisjoint(options.methods) and find_spec("torch_pruning") is None:
        arguments.error("torch_pruning is missing: pip install torch-pruning")
    options.calibration_tokens, options.characters, own_tokens = 32_768, None, OWN_TOKENS
    if options.quick:
        options.sizes, options.tokens, options.seeds = ["50%"], 10_000, 1
        options.calibration_tokens, options.characters, own_tokens = 8_192, 1_500, 40_000
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="quality-") as work:
        written = options.written
        if options.is_openba:
            texts = Texts(
                list(read_documents(options.text))[::EVERY],  # enough, and read in seconds
                {path.stem: list(read_documents(path)) for path in options.heldout},
            )
        else:
            texts = documentation(options.characters)
            if written is None:
                written = Path(work) / "written.jsonl"
                regrow.write_corpus(options.model, written, own_tokens)
        trial = Trial(options.model, texts, written, options, Path(work))
        show(list(results(trial, options)), as_json=options.json)


if __name__ == "__main__":
    main()
