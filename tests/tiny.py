"""Tiny checkpoints for tests: a config of a blueprint, and tensors of the right shapes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from regrow.architectures import Blueprint, Layout, bind


def tiny_shapes(blueprint: Blueprint, tiny: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor name, as the library's own class has them; a tied head is left out."""
    values = {key: value for key, value in tiny.items() if key != "model_type"}
    config = transformers.CONFIG_MAPPING[tiny["model_type"]].from_dict(values)
    with torch.device("meta"):
        model = getattr(transformers, blueprint.architectures[0])(config)
    left_out = set(blueprint.head.aliases)
    if tiny.get("tie_word_embeddings") is not False:
        left_out.add(blueprint.head.weight)
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name not in left_out
    }


def tiny_layout(blueprint: Blueprint, number: int = 0) -> Layout:
    tiny = blueprint.tiny[number]
    return bind(blueprint, tiny, tiny_shapes(blueprint, tiny))


def write_tiny(
    blueprint: Blueprint,
    out: Path,
    number: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Path:
    """A checkpoint with every weight drawn at random."""
    tiny = {**blueprint.tiny[number], **changes}
    generator = torch.Generator().manual_seed(0)
    state = {
        name: (torch.randn(shape, generator=generator) * 0.2).to(dtype)
        for name, shape in tiny_shapes(blueprint, tiny).items()
    }
    out.mkdir(parents=True)
    save_file(state, str(out / "model.safetensors"), metadata={"format": "pt"})
    name = str(dtype).removeprefix("torch.")
    (out / "config.json").write_text(json.dumps({**tiny, "dtype": name}), encoding="utf-8")
    return out
