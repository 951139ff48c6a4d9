"""A model with random weights, to be trained from the beginning."""

import json
from pathlib import Path
from typing import Any

from regrow.checkpoint.companions import read_companions
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import CONFIG_FILE
from regrow.checkpoint.writer import library_weights, partial_directory, publish, small_files
from regrow.common.disk import check_free_space


def with_random_weights(model: ModelDirectory, cache: Path, seed: int) -> ModelDirectory:
    """A model like this one, of which a config is enough, with weights as its class begins with.

    Made once, under `cache`.
    """
    start = cache / f"random-{seed}"
    if not (start / "config.json").exists():
        _write(model, start, seed)
    return ModelDirectory(start)


def _write(model: ModelDirectory, start: Path, seed: int) -> None:
    import torch
    import transformers

    kind: Any = transformers.AutoModelForCausalLM
    if model.config.is_encoder_decoder:
        kind = transformers.AutoModelForSeq2SeqLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = kind.from_config(model.config, dtype=torch.float32)
    start.parent.mkdir(parents=True, exist_ok=True)
    check_free_space(start, 4 * made.num_parameters())
    with partial_directory(start) as partial:
        made.save_pretrained(partial)
        weights = library_weights(made, partial)
        config = json.loads((partial / CONFIG_FILE).read_text(encoding="utf-8"))
        publish(partial, start, weights, small_files(config, read_companions(model.path), weights))
