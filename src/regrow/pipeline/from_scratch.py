"""A model with random weights, for training from scratch."""

import json
from dataclasses import replace
from pathlib import Path

from regrow.checkpoint.companions import read_companions
from regrow.checkpoint.history import History, history_of, sizes_of
from regrow.checkpoint.model_card import description
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import CONFIG_FILE
from regrow.checkpoint.writer import library_weights, partial_directory, publish, small_files
from regrow.common.disk import check_free_space
from regrow.common.publishing import make_directory
from regrow.models.loading import build_model, library_errors


def with_random_weights(model: ModelDirectory, cache: Path, seed: int) -> ModelDirectory:
    """The model with the config and tokenizer of `model` and freshly initialised weights.

    The weights are those that the transformers class draws with this seed, in float32. The model
    is written once, below the directory `cache`, and found again there by the seed and by a hash of
    config and tokenizer.

    Raises UserError if transformers cannot build the model, or if the disk is too small.
    """
    directory = cache / f"random-{seed}-{model.files_sha256[:16]}"
    if not (directory / "config.json").exists():
        _write(model, directory, seed)
    return ModelDirectory(directory)


def _history(model: ModelDirectory) -> History:
    """The history of random weights: it begins here, with the architecture of `model`."""
    layout = model.layout
    base = replace(
        history_of(model.path, layout).base, parameters=layout.parameters(),
        sizes=sizes_of(layout), random_weights=True,
    )  # fmt: skip
    return History(base)


def _write(model: ModelDirectory, directory: Path, seed: int) -> None:
    import torch

    refused = f"{model.path}: a config of which transformers builds no model"
    with torch.random.fork_rng(devices=[]), library_errors(refused):
        torch.manual_seed(seed)
        network = build_model(model.config, torch.float32)
    make_directory(directory.parent)
    check_free_space(directory, 4 * network.num_parameters())
    with partial_directory(directory) as partial:
        network.save_pretrained(partial)
        weights = library_weights(network, partial)
        config = json.loads((partial / CONFIG_FILE).read_text(encoding="utf-8"))
        described = description(_history(model), config)
        files = small_files(config, read_companions(model.path) | described, weights)
        publish(partial, directory, weights, files)
