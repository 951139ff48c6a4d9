"""The files that a cut writes: config, weights, tokenizer, token ids, and what the cut was."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regrow.architectures import Layout
from regrow.architectures.cut_config import cut_config
from regrow.checkpoint.companions import companion_files, read_companions
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import Checkpoint
from regrow.common.errors import UserError
from regrow.common.files import json_bytes
from regrow.cuts.cut import CUT_FILE, AxisCut, Cut, check_cut
from regrow.surgery.carve import CarvePlan, plan_carve

if TYPE_CHECKING:
    from regrow.vocabulary.kept_tokens import KeptTokens

MAX_SHARD_BYTES = 5 * 10**9
ORIGIN_FILE = "regrow_origin.json"
"""The composed cut from the first original model, over all stages so far."""
VOCABULARY_FILE = "regrow_vocabulary.json"
"""If the vocabulary was cut: each kept token, and why it was kept."""


def plan_output(
    source: ModelDirectory,
    cut: Cut,
    tokens: "KeptTokens | None" = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> CarvePlan:
    """Plan all files that a cut writes: config, weights, tokenizer, token ids.

    `tokens`: the kept tokens and their reasons, if they were chosen for this cut.

    Raises UserError if the model class refuses the config or the shapes.
    """
    layout = source.layout
    config: Mapping[str, Any] = source.checkpoint.config
    files = read_companions(source.path)
    if "vocab" in cut.axes:
        from regrow.vocabulary.kept_tokens import kept_tokens

        axis = cut.axes["vocab"]
        config, files = _with_vocabulary(source, axis, files)
        files[VOCABULARY_FILE] = kept_tokens(source.path, axis.tokens, axis.padded, tokens)
    files[CUT_FILE] = json_bytes(cut.to_json(), 1)
    files[ORIGIN_FILE] = json_bytes(_cut_from_original(source.path, cut).to_json(), 1)
    plan = plan_checked_carve(
        source.checkpoint, layout, cut, config=config, files=files,
        max_shard_bytes=max_shard_bytes,
    )  # fmt: skip
    check_on_meta(plan.config, layout.blueprint, plan.shapes)
    return plan


def plan_checked_carve(
    checkpoint: Checkpoint,
    layout: Layout,
    cut: Cut,
    *,
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> CarvePlan:
    """Check a cut against a checkpoint, and plan the files that it writes.

    `config`: of the model before the cut, if it differs from the checkpoint's own. `files`: further
    small files of the result, by name.

    Raises UserError if the cut does not fit the checkpoint.
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
    """Config and small files of the result, with every token id mapped to its new id."""
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
        generation = _generation_settings(config) if generation is None else generation
        suppressed = generation.get("suppress_tokens") or []
        generation["suppress_tokens"] = [*suppressed, *range(len(axis.tokens), axis.kept)]
    if generation is not None:
        files["generation_config.json"] = json_bytes(generation, 1)
    return config, files


def _generation_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers takes from a config if there is no generation_config.json."""
    from transformers import GenerationConfig

    text = config.get("text_config") or config.get("decoder") or {}
    own = GenerationConfig().to_dict().keys() - {"transformers_version"}
    # The settings of the decoder count where the whole config has none.
    return {
        name: value
        for part in (text, config)
        for name, value in part.items()
        if name in own and not name.startswith("_") and value is not None
    }


def _cut_from_original(directory: Path, cut: Cut) -> Cut:
    """The cut from the first original, if `directory` was itself cut before; else `cut`."""
    path = directory / ORIGIN_FILE
    return Cut.load(path).then(cut) if path.is_file() else cut


def notes(layout: Layout, cut: Cut) -> Iterator[str]:
    """Notes about dropped tensors, scaled tensors and padding rows."""
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


def left_out(source: Path, cut: Cut, plan: CarvePlan) -> Iterator[str]:
    """A note about each group of files of the source that the result does not have."""
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
