"""Prune one model directory: bind, score, choose, check, carve."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regrow.architectures import Layout
from regrow.architectures.cut_config import cut_config
from regrow.checkpoint.companions import companion_files, read_companions
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import Checkpoint
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.common.progress import QUIET, Progress
from regrow.surgery.carve import CarvePlan, carve, check_output, plan_carve
from regrow.surgery.choose import Scores, choose
from regrow.surgery.cut import CUT_FILE, AxisCut, Cut, check_cut
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.requests import requested

if TYPE_CHECKING:
    from regrow.vocabulary.kept_tokens import KeptTokens

Documents = Callable[[], Iterator[str]]
"""Opens the text anew at each call."""

ROW_LENGTH = 512
"""Tokens of calibration text below which counts and scores are refused."""
MAX_SHARD_BYTES = 5 * 10**9
ORIGIN_FILE = "regrow_origin.json"
"""The cut from the first original, through all stages so far."""
VOCABULARY_FILE = "regrow_vocabulary.json"
"""Each token that was kept and why, where the vocabulary was cut."""


@dataclass(frozen=True)
class Pruned:
    """What a cut does, or did, to a model."""

    source: Path
    out: Path
    cut: Cut
    parameters_before: int
    parameters: int
    parts_before: Mapping[str, int]
    parts: Mapping[str, int]
    sizes_before: Mapping[str, int]
    nbytes: int
    """Of all files of the result."""
    notes: tuple[str, ...]
    """What else happened that a user should know: folds, tensors dropped by name."""
    seconds: float
    """From the first byte read to the last rename; 0 in a dry run."""


@dataclass(frozen=True)
class PlannedCut:
    """A cut that was chosen and checked, and all that it will write."""

    source: ModelDirectory
    cut: Cut
    carving: CarvePlan

    def result(self, out: Path, seconds: float = 0.0) -> Pruned:
        """What is said of the cut; `seconds`: that the carving took."""
        layout, cut = self.source.layout, self.cut
        return Pruned(
            self.source.path, out, cut,
            layout.parameters(), layout.parameters(cut.sizes),
            layout.parameters_by_part(), layout.parameters_by_part(cut.sizes),
            {name: layout.sizes[name] for name in layout.blueprint.axis_names},
            self.carving.nbytes,
            (*_notes(layout, cut), *_left_out(self.source.path, cut, self.carving)), seconds,
        )  # fmt: skip

    def write(self, out: Path, progress: Progress = QUIET) -> Pruned:
        """Carve the result to `out`."""
        done = 0

        def report(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            progress.advance(done, self.carving.weight_bytes)

        progress.say(f"carving {self.carving.weight_bytes:,} bytes to {out}")
        began = time.perf_counter()
        carve(self.carving, out, report)
        return self.result(out, time.perf_counter() - began)


def plan_cut(
    source: ModelDirectory,
    spec: CutSpec,
    *,
    documents: Documents | None = None,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = QUIET,
) -> PlannedCut:
    """Choose a cut, and compute and check all that it will write.

    `documents`: the text that scores and token counts come from; None where there is none.

    Raises UserError at whatever cannot be.
    """
    cut, chosen = choose_cut(source, spec, documents, seed=seed, progress=progress)
    return PlannedCut(source, cut, plan_output(source, cut, chosen, max_shard_bytes))


def prune_checkpoint(
    source: ModelDirectory,
    out: Path,
    spec: CutSpec,
    *,
    documents: Documents | None = None,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = QUIET,
) -> Pruned:
    """Cut a model and write the result to `out`; the arguments are those of `plan_cut`.

    Raises UserError, before anything is written, at whatever cannot be.
    """
    check_output(out, source.path)
    planned = plan_cut(
        source, spec, documents=documents, seed=seed, max_shard_bytes=max_shard_bytes,
        progress=progress,
    )  # fmt: skip
    check_free_space(out, planned.carving.nbytes)
    return planned.write(out, progress)


def repeat_cut(
    source: ModelDirectory, out: Path, cut: Cut, spec: CutSpec, documents: Documents
) -> None:
    """Carve again what a cut that was chosen before gives, byte for byte.

    `spec`: by which it was chosen. `documents`: the text by which its vocabulary was.
    """
    layout = source.layout
    ordered = {name: cut.axes[name] for name in layout.blueprint.axis_names if name in cut.axes}
    chosen: KeptTokens | None = None
    if "vocab" in ordered and spec.vocabulary:
        from regrow.vocabulary.kept_tokens import choose_vocabulary

        chosen = choose_vocabulary(source.path, layout, spec.vocabulary, documents)
    carve(plan_output(source, Cut(cut.model, ordered), chosen), out)


def choose_cut(
    source: ModelDirectory,
    spec: CutSpec,
    documents: Documents | None,
    *,
    seed: int,
    progress: Progress = QUIET,
) -> tuple[Cut, "KeptTokens | None"]:
    """The cut that a spec asks for, and the tokens that were chosen where it is of the vocabulary.

    `documents`: the text that scores and token counts come from; None where there is none.
    """
    checkpoint, layout = source.checkpoint, source.layout
    if spec.cut is not None:
        cut = Cut.load(spec.cut)
        check_cut(cut, layout, checkpoint.fingerprint)
        return cut, None
    sizes, given = requested(layout, spec.chosen)
    chosen: KeptTokens | None = None
    if spec.vocabulary and sizes.get("vocab", 0) < layout.sizes["vocab"]:
        from regrow.vocabulary.kept_tokens import choose_vocabulary

        chosen = choose_vocabulary(
            source.path, layout, spec.vocabulary, documents,
            least_tokens=min(ROW_LENGTH, spec.calibration_tokens), notify=progress.say,
        )  # fmt: skip
        kept = np.concatenate([chosen.choice.kept, chosen.padding])
        layout.check_sizes({**sizes, "vocab": len(kept)})
        given["vocab"] = kept
    scored = [
        name for name, size in sizes.items() if name not in given and size < layout.sizes[name]
    ]
    scores: Scores = {}
    if scored:
        from regrow.scoring.calibration import CalibrationText
        from regrow.scoring.score import score

        text = None
        if documents is not None:
            text = CalibrationText(documents, spec.calibration_tokens)
        scores = score(
            checkpoint, layout, scored, by=spec.by, text=text, seed=seed, notify=progress.say
        )
    cut = choose(layout, checkpoint.fingerprint, sizes, scores, given)
    if chosen is not None and len(chosen.padding):
        axis = AxisCut(layout.sizes["vocab"], given["vocab"], padded=len(chosen.padding))
        axes = {**cut.axes, "vocab": axis}
        cut = Cut(cut.model, {n: axes[n] for n in layout.blueprint.axis_names if n in axes})
    return cut, chosen


def plan_output(
    source: ModelDirectory,
    cut: Cut,
    chosen: "KeptTokens | None" = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> CarvePlan:
    """All that a cut will write: config, weights, tokenizer, ids. Checked by the class itself.

    `chosen`: the tokens, where they were chosen for this cut.
    """
    layout = source.layout
    config: Mapping[str, Any] = source.checkpoint.config
    files = read_companions(source.path)
    if "vocab" in cut.axes:
        from regrow.vocabulary.kept_tokens import kept_tokens

        axis = cut.axes["vocab"]
        config, files = _with_vocabulary(source, axis, files)
        files[VOCABULARY_FILE] = kept_tokens(source.path, axis.tokens, axis.padded, chosen)
    files[CUT_FILE] = _json(cut.to_json())
    files[ORIGIN_FILE] = _json(_origin(source.path, cut).to_json())
    plan = carve_plan(
        source.checkpoint, layout, cut, config=config, files=files, max_shard_bytes=max_shard_bytes
    )
    check_on_meta(plan.config, layout.blueprint, plan.shapes)
    return plan


def carve_plan(
    checkpoint: Checkpoint,
    layout: Layout,
    cut: Cut,
    *,
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> CarvePlan:
    """What will be written, with all checks that need no weights.

    `config`: of the model before the cut, where it is not the checkpoint's own. `files`: what lies
    beside the weights.
    """
    check_cut(cut, layout, checkpoint.fingerprint)
    layers = {
        axis.name: cut.layers(axis.name, layout.sizes[axis.name]).tolist()
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
    }
    new_config = cut_config(layout, cut.sizes, layers, config)
    return plan_carve(checkpoint, layout, cut, new_config, files or {}, max_shard_bytes)


def _with_vocabulary(
    source: ModelDirectory, axis: AxisCut, files: dict[str, bytes]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Config and files with every id renumbered."""
    from regrow.tokenizers.candidates import VocabularyChoice
    from regrow.tokenizers.config_ids import remap_ids
    from regrow.tokenizers.tokenizer_files import has_tokenizer, plan_tokenizer, stale_files

    directory = source.path
    mapping = {int(old): new for new, old in enumerate(axis.tokens)}
    files = {name: data for name, data in files.items() if name not in stale_files(directory)}
    if has_tokenizer(directory):
        if (np.diff(axis.tokens) < 0).any():
            raise UserError("cut: axis vocab: token ids must stay in ascending order")
        files.update(plan_tokenizer(directory, VocabularyChoice(axis.tokens, ())))
    config = remap_ids(dict(source.checkpoint.config), mapping, "config.json")
    generation = source.generation_config
    if generation is not None:
        generation = remap_ids(generation, mapping, "generation_config.json")
    if axis.padded:
        generation = _ids_named_by(config) if generation is None else generation
        own = generation.get("suppress_tokens") or []
        generation["suppress_tokens"] = [*own, *range(len(axis.tokens), axis.kept)]
    if generation is not None:
        files["generation_config.json"] = _json(generation)
    return config, files


def _ids_named_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers generates with where there is no generation_config.json."""
    text = config.get("text_config") or config.get("decoder") or {}
    return {
        name: value
        for name, value in {**text, **config}.items()
        if name.endswith("_token_id") and value is not None
    }


def _origin(directory: Path, cut: Cut) -> Cut:
    path = directory / ORIGIN_FILE
    return Cut.load(path).then(cut) if path.is_file() else cut


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _notes(layout: Layout, cut: Cut) -> Iterator[str]:
    for name in layout.ignored:
        yield f"{name}: dropped, {layout.blueprint.model_type} ignores it"
    for fold in layout.folds():
        if fold.axis in cut.axes and cut.axes[fold.axis].kept != layout.sizes[fold.axis]:
            yield f"{fold.tensor}: scaled, since the network scales by the size of {fold.axis}"
    if "vocab" in cut.axes and (padded := cut.axes["vocab"].padded):
        last = cut.axes["vocab"].kept - 1
        yield (
            f"ids {last + 1 - padded:,} to {last:,} have no token; generation_config.json "
            "suppresses them, which other runtimes may not heed"
        )


def _left_out(source: Path, cut: Cut, plan: CarvePlan) -> Iterator[str]:
    from regrow.tokenizers.tokenizer_files import stale_files

    if "vocab" in cut.axes:
        for name in stale_files(source):
            if name not in plan.files:
                yield f"{name}: left out, it holds the old vocabulary"
    known = {*companion_files(source), *plan.files, *stale_files(source)}
    others = sorted(
        path.name
        for path in source.iterdir()
        if path.is_file() and path.name not in known and not path.match(".*")
        and not path.name.endswith((".safetensors", ".safetensors.index.json"))
    )  # fmt: skip
    if others:
        yield f"not passed on: {', '.join(others)}"
