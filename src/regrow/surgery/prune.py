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
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.companions import companion_files
from regrow.checkpoint.facts import generation_config
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.reader import Checkpoint, open_checkpoint
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.models.networks import with_own_code
from regrow.surgery.carve import CarvePlan, carve, check_output, plan_carve
from regrow.surgery.choose import Scores, choose
from regrow.surgery.cut import FILE_NAME, AxisCut, Cut, check_cut
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.requests import requested

if TYPE_CHECKING:
    from regrow.vocabulary.kept_tokens import Chosen

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

    `config`: of the model before the cut, where it is not the checkpoint's own.
    """
    check_cut(cut, layout, checkpoint.fingerprint)
    layers = {
        axis.name: cut.layers(axis.name, layout.sizes[axis.name]).tolist()
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
    }
    new_config = cut_config(layout, cut.sizes, layers, config)
    return plan_carve(checkpoint, layout, cut, new_config, files or {}, max_shard_bytes)


def choose_cut(
    checkpoint: Checkpoint,
    layout: Layout,
    spec: CutSpec,
    documents: Callable[[], Iterator[str]] | None,
    *,
    seed: int,
    notify: Callable[[str], None] = lambda _: None,
) -> tuple[Cut, "Chosen | None"]:
    """The cut that a spec asks for, and the tokens that were chosen where it is of the vocabulary.

    `documents`: the text that scores and token counts come from; None where there is none.
    """
    if spec.cut is not None:
        cut = Cut.load(spec.cut)
        check_cut(cut, layout, checkpoint.fingerprint)
        return cut, None
    sizes, given = requested(layout, spec.chosen)
    chosen: Chosen | None = None
    if spec.vocabulary and sizes.get("vocab", 0) < layout.sizes["vocab"]:
        from regrow.vocabulary.kept_tokens import choose_vocabulary

        chosen = choose_vocabulary(
            checkpoint.directory, layout, spec.vocabulary, documents,
            least_tokens=min(ROW_LENGTH, spec.calibration_tokens), notify=notify,
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
        scores = score(checkpoint, layout, scored, by=spec.by, text=text, seed=seed, notify=notify)
    cut = choose(layout, checkpoint.fingerprint, sizes, scores, given)
    if chosen is not None and len(chosen.padding):
        axis = AxisCut(layout.sizes["vocab"], given["vocab"], padded=len(chosen.padding))
        axes = {**cut.axes, "vocab": axis}
        cut = Cut(cut.model, {n: axes[n] for n in layout.blueprint.axis_names if n in axes})
    return cut, chosen


def prepare(
    checkpoint: Checkpoint,
    layout: Layout,
    cut: Cut,
    chosen: "Chosen | None",
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> CarvePlan:
    """All that a cut will write: config, weights, tokenizer, ids. Checked by the class itself.

    `chosen`: the tokens, where they were chosen for this cut.
    """
    directory = checkpoint.directory
    config: Mapping[str, Any] = checkpoint.config
    files = {name: path.read_bytes() for name, path in companion_files(directory).items()}
    if "vocab" in cut.axes:
        from regrow.vocabulary.kept_tokens import kept_tokens

        axis = cut.axes["vocab"]
        config, files = _with_vocabulary(checkpoint, axis, files)
        files[VOCABULARY_FILE] = kept_tokens(directory, axis.tokens, axis.padded, chosen)
    config, files = with_own_code(config, files)
    files[FILE_NAME] = _json(cut.to_json())
    files[ORIGIN_FILE] = _json(_origin(directory, cut).to_json())
    plan = carve_plan(
        checkpoint, layout, cut, config=config, files=files, max_shard_bytes=max_shard_bytes
    )
    check_on_meta(plan.config, layout.blueprint, plan.shapes)
    return plan


def _with_vocabulary(
    checkpoint: Checkpoint, axis: AxisCut, files: dict[str, bytes]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Config and files with every id renumbered."""
    from regrow.tokenizers.candidates import VocabularyChoice
    from regrow.tokenizers.config_ids import remap_ids
    from regrow.tokenizers.tokenizer_files import has_tokenizer, plan_tokenizer, stale_files

    directory = checkpoint.directory
    mapping = {int(old): new for new, old in enumerate(axis.tokens)}
    files = {name: data for name, data in files.items() if name not in stale_files(directory)}
    if has_tokenizer(directory):
        if (np.diff(axis.tokens) < 0).any():
            raise UserError("cut: axis vocab: token ids must stay in ascending order")
        files.update(plan_tokenizer(directory, VocabularyChoice(axis.tokens, ())))
    config = remap_ids(dict(checkpoint.config), mapping, "config.json")
    generation = generation_config(directory)
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


def prune_checkpoint(
    source: Path,
    out: Path,
    spec: CutSpec,
    *,
    documents: Callable[[], Iterator[str]] | None = None,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    dry_run: bool = False,
    notify: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Pruned:
    """Cut a local model directory and write the result to `out`.

    `documents`: the text for scores and token counts. `progress`: bytes written and in all.
    Raises UserError, before anything is written, at whatever cannot be.
    """
    check_output(out, source)
    checkpoint = open_checkpoint(source)
    layout = bind_checkpoint(checkpoint)
    cut, chosen = choose_cut(checkpoint, layout, spec, documents, seed=seed, notify=notify)
    plan = prepare(checkpoint, layout, cut, chosen, max_shard_bytes=max_shard_bytes)
    check_free_space(out, plan.nbytes)
    seconds = 0.0
    if not dry_run:
        done = 0

        def report(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            progress(done, plan.weight_bytes)

        notify(f"carving {plan.weight_bytes:,} bytes to {out}")
        began = time.perf_counter()
        carve(plan, out, report)
        seconds = time.perf_counter() - began
    return Pruned(
        source, out, cut,
        layout.parameters(), layout.parameters(cut.sizes),
        layout.parameters_by_part(), layout.parameters_by_part(cut.sizes),
        {name: layout.sizes[name] for name in layout.blueprint.axis_names},
        plan.nbytes, (*_notes(layout, cut), *_left_out(source, cut, plan)), seconds,
    )  # fmt: skip


def repeat_cut(
    source: Path, out: Path, cut: Cut, spec: CutSpec, documents: Callable[[], Iterator[str]]
) -> None:
    """Carve again what a cut that was chosen before gives, byte for byte.

    `spec`: by which it was chosen. `documents`: the text by which its vocabulary was.
    """
    checkpoint = open_checkpoint(source)
    layout = bind_checkpoint(checkpoint)
    ordered = {name: cut.axes[name] for name in layout.blueprint.axis_names if name in cut.axes}
    chosen: Chosen | None = None
    if "vocab" in ordered and spec.vocabulary:
        from regrow.vocabulary.kept_tokens import choose_vocabulary

        chosen = choose_vocabulary(source, layout, spec.vocabulary, documents)
    carve(prepare(checkpoint, layout, Cut(cut.model, ordered), chosen), out)


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
