"""A model with random weights, to be trained from the beginning."""

from pathlib import Path
from typing import Any

from regrow.checkpoint.companions import companion_files, write_files
from regrow.checkpoint.model_directory import ModelDirectory
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
    partial = start.with_name(f".{start.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    check_free_space(start, 4 * made.num_parameters())
    made.save_pretrained(partial)
    companions = companion_files(model.path)
    write_files(partial, {name: path.read_bytes() for name, path in companions.items()})
    partial.rename(start)
