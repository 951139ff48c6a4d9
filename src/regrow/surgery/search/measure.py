"""Measure what cuts cost: the loss after each, and its speed. Nothing is trained."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.writer import partial_directory
from regrow.common.environment import machine
from regrow.common.errors import UserError
from regrow.common.files import cache_directory, json_bytes, write_atomically
from regrow.common.identity import identity_of
from regrow.common.progress import Progress, Update
from regrow.cuts.rotatable import rotation_problem
from regrow.evaluation.heldout import text_loss
from regrow.evaluation.speed import PROMPT, loaded_once, seconds_in_turns
from regrow.objectives.special_tokens import missing_sentinels
from regrow.scoring.score import memory_problem
from regrow.scoring.score_file import ScoreSpec, compute_scores
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.extend import ensure_tokens
from regrow.surgery.prune import prune_checkpoint
from regrow.surgery.refitting.memory import check_memory as check_refit_memory
from regrow.surgery.requested_cut import is_refitted_by_default
from regrow.surgery.search.measured_cuts import (
    FILE,
    MeasuredCut,
    MeasuredCuts,
    MeasuredSpeed,
    Sizes,
    opened,
)
from regrow.surgery.search.text import SearchText
from regrow.surgery.size_options import options_for
from regrow.tokenizers.encoding import count_tokens, open_tokenizer
from regrow.vocabulary.token_counting import fingerprint
from regrow.vocabulary.token_counts import Group, TokenCounts

_NEW_TOKENS, _ROUNDS = 32, 3
_VERSION = 6
"""Raise it if cuts are chosen, refitted or measured in another way: old results are then unused."""
_DIVERGED = 64.0
"""Stands for a loss that is not finite, in bits per byte; a byte drawn at random costs 8."""


@dataclass(frozen=True)
class CalibrationDraw:
    """How many tokens cuts are chosen by and refitted on, and the seed that draws them."""

    tokens: int
    seed: int


@dataclass(frozen=True)
class Measurement:
    """Measures cuts of one model on one text.

    Attributes:
        model: The original, whose tokenizer has the tokens that its evaluation needs.
        added_tokens: Of these, how many were added to the model that the user named.
        text: The two parts of the text.
        calibration: How cuts are chosen and refitted.
        known: What was measured before, and where results are kept.
        progress: Receives messages, and the state.
    """

    model: ModelDirectory
    added_tokens: int
    text: SearchText
    calibration: CalibrationDraw
    known: MeasuredCuts
    progress: Progress

    def missing(self, cuts: Sequence[Sizes], *, refit: bool = True) -> list[Sizes]:
        """Those of some cuts whose loss is still to measure; no sizes stand for the original."""
        distinct = {tuple(sorted(sizes.items())): sizes for sizes in cuts}.values()
        return [sizes for sizes in distinct if self.known.cut(sizes, refit=refit) is None]

    def losses(self, cuts: Sequence[Sizes], *, refit: bool = True) -> list[MeasuredCut]:
        """The loss of each cut; those that are known are not measured again.

        `refit`: whether cuts are refitted, if the architecture allows it.
        """
        missing = self.missing(cuts, refit=refit)
        for done, sizes in enumerate(missing):
            self._show(sizes, done, len(missing), refit)
            began = time.perf_counter()
            if sizes:
                with partial_directory(self.known.directory / "cut") as directory:
                    cut = self._cut(sizes, directory / "model", None if refit else False)
                    bits = self._bits_per_byte(cut)
            else:
                bits = self._bits_per_byte(self.model)
            seconds = time.perf_counter() - began
            self.known.add(MeasuredCut(dict(sizes), bits, round(seconds, 3), refit))
        found = [self.known.cut(sizes, refit=refit) for sizes in cuts]
        return [each for each in found if each is not None]

    def missing_speeds(self, cuts: Sequence[Sizes]) -> list[Sizes]:
        """Those of some cuts whose speed on this machine is still to measure."""
        name = _machine_name()
        return [sizes for sizes in cuts if self.known.speed(sizes, name) is None]

    def speeds(self, cuts: Sequence[Sizes]) -> list[MeasuredSpeed]:
        """The speed of each cut beside the original's, on this machine, in float32."""
        name, missing = _machine_name(), self.missing_speeds(cuts)
        if missing:
            self.progress.say(f"measuring the speed of {len(missing)} cuts")
            original = loaded_once(self.model)
            for sizes in missing:
                with partial_directory(self.known.directory / "cut") as directory:
                    cut = self._cut(sizes, directory / "model", refit=False, rotate=False)
                    seconds = seconds_in_turns(
                        [original, loaded_once(cut)], PROMPT, new_tokens=_NEW_TOKENS, rounds=_ROUNDS
                    )
                self.known.add(MeasuredSpeed(dict(sizes), name, *map(min, seconds)))
        found = [self.known.speed(sizes, name) for sizes in cuts]
        return [each for each in found if each is not None]

    def _show(self, sizes: Sizes, done: int, total: int, refit: bool) -> None:
        times = self.known.seconds(refit=refit)
        left = sum(times) / len(times) * (total - done) if times else None
        doing = f"{words(sizes) or 'the original'}, {done + 1} of {total}"
        self.progress.update(Update("measuring", doing, done / total, left))

    def _cut(
        self, sizes: Sizes, out: Path, refit: bool | None = None, *, rotate: bool | None = None
    ) -> ModelDirectory:
        """Cut the model to these sizes of the model that the user named.

        `rotate`: None rotates hidden where this is possible, as a cut without scores does.
        """
        own = dict(sizes)
        if "vocab" in own:
            own["vocab"] += self.added_tokens
        options = options_for(self.model.layout, own)
        if options.keys() - {"vocab_size"}:  # a vocabulary is chosen by its counts
            options["scores"] = self.scores()
        if "vocab_size" in options:
            options["vocab"] = {"size": options.pop("vocab_size"), "counts": self.counts()}
        if "hidden" in options:
            is_possible = rotation_problem(self.model.layout) is None
            options["rotate"] = is_possible if rotate is None else rotate
        spec = CutSpec(**options, refit=refit, calibration_tokens=self.calibration.tokens)
        prune_checkpoint(
            self.model, out, spec, documents=self.text.documents, seed=self.calibration.seed
        )
        return ModelDirectory(out)

    def counts(self) -> Path:
        """The file of the counts of the text's tokens, which are counted once."""
        path = self.known.directory / "counts"
        if not path.is_file():
            counts = count_tokens(self.model.path, self.text.documents())
            sha256 = fingerprint(open_tokenizer(self.model.path))
            TokenCounts(sha256, (Group("text", ""),), counts[None], ()).save(path)
        return path

    def scores(self) -> Path:
        """The file of the scores of all axes, which is made once."""
        path = self.known.directory / "scores.json"
        if not path.is_file():
            saved = compute_scores(
                self.model, ScoreSpec(calibration_tokens=self.calibration.tokens),
                self.text.documents, seed=self.calibration.seed, notify=self.progress.say,
            )  # fmt: skip
            saved.save(path)
        return path

    def _bits_per_byte(self, model: ModelDirectory) -> float:
        path = self.known.directory / "held-back.jsonl"
        if not path.is_file():
            lines = [json_bytes({"text": piece}, None) for piece in self.text.held_back]
            write_atomically(path, b"".join(lines))
        bits = text_loss(
            model.load(), model.tokenizer, path, reading=self.text.reading
        ).bits_per_byte
        if bits is None:
            raise UserError(
                "an encoder-decoder is measured on documents of more than 192 characters; the "
                "part that was held back has none",
                key="text",
            )
        return bits if math.isfinite(bits) else _DIVERGED


def check_memory(model: ModelDirectory, tokens: int, *, speeds: bool = False) -> None:
    """Raise UserError if cuts of a model cannot be measured in the memory that is free.

    `tokens`: that cuts are refitted on. `speeds`: whether their speed is measured too, with a cut
    in memory beside the original.
    """
    problem = memory_problem(model, copies=not speeds, twice=speeds)
    if problem and speeds:
        raise UserError(
            f"{problem}, and the original and a cut generate in turns; use a larger machine, or "
            "plan by parameters or bytes"
        )
    if problem:
        raise UserError(f"{problem}, and cuts are measured in memory; use a larger machine")
    sizes = {axis.name: model.layout.sizes[axis.name] for axis in model.layout.blueprint.axes}
    if is_refitted_by_default(model.layout, sizes):
        advice = "use a larger machine"
        try:
            check_refit_memory(model.path, model.layout, sizes, tokens, otherwise=advice)
        except UserError as error:  # there is no option `refit` here
            raise error.at(None if error.key == "refit" else error.key) from None


@contextmanager
def open_measurement(
    model: ModelDirectory, text: SearchText, calibration: CalibrationDraw, progress: Progress
) -> Iterator[Measurement]:
    """Context manager: measures cuts of a model on a text. Results are kept in the cache.

    An encoder-decoder whose tokenizer lacks sentinels is measured with them.

    Raises UserError if another process measures the same.
    """
    directory, facts = _place(model, text, calibration)
    with opened(directory, facts) as known:
        complete = model
        if model.layout.blueprint.is_encoder_decoder:
            missing = missing_sentinels(model.tokenizer)
            complete = ensure_tokens(model, missing, known.directory, progress.say)
        added = complete.layout.sizes["vocab"] - model.layout.sizes["vocab"]
        yield Measurement(complete, added, text, calibration, known, progress)


def is_begun(model: ModelDirectory, text: SearchText, calibration: CalibrationDraw) -> bool:
    """Whether the cache holds results for a model on a text."""
    directory, _ = _place(model, text, calibration)
    return (directory / FILE).is_file()


def _place(
    model: ModelDirectory, text: SearchText, calibration: CalibrationDraw
) -> tuple[Path, dict[str, Any]]:
    """The directory of the results, and what decides them."""
    facts: dict[str, Any] = {
        "model": model.checkpoint.fingerprint, "files": model.files_sha256, "text": text.sha256,
        "calibration_tokens": calibration.tokens, "seed": calibration.seed,
    }  # fmt: skip
    if text.reading.special_tokens:
        facts["special_tokens"] = True
    identity = identity_of("measured cuts", version=_VERSION, **facts)
    return cache_directory() / "plans" / f"{model.path.resolve().name}-{identity[:16]}", facts


def _machine_name() -> str:
    """What the speed of a model depends on."""
    facts = machine()
    return f"{facts['cpu']}, {facts['threads']} threads"


def words(sizes: Sizes) -> str:
    """Sizes as text: `layer 22, ffn 1,056`."""
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())
