"""Restore in a config what transformers' loader of GGUF files drops.

The loader knows only some keys of the metadata. What it does not know gets the default of the
config's class, which is another model's. llama.cpp reads these keys, and so does this module
(llama.cpp: src/llama-model.cpp). What the file does not say is an error, and no guess.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regrow.common.errors import UserError

_ORIGINAL = "start from the model's own safetensors"
_LAYERS_OF_GEMMA_27B = {"gemma2": 46, "gemma3_text": 62}
"""These scale queries by hidden size / heads; all other models of Gemma 2 and 3 by 256."""
_HEAD_OF_GEMMA, _HEAD_OF_GEMMA_27B = 256, 128
_DROPPED = {
    "falcon": {"attention.layer_norm_epsilon": "layer_norm_epsilon"},
    "gemma2": {
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
    "nemotron": {"attention.layer_norm_epsilon": "norm_eps"},
    "phi3": {"attention.sliding_window": "sliding_window"},
}
"""By model type: keys of the metadata that the loader drops, with those of the config."""


def repaired_config(
    gguf: Path,
    loaded: Mapping[str, Any],
    metadata: Mapping[str, Any],
    scaling: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The config with what the loader dropped.

    Args:
        gguf: the file, for errors.
        loaded: the config as the loader gives it.
        metadata: of the file.
        scaling: what `rope_scaling` gave.

    Raises UserError if the file does not say what the config needs.
    """
    config: dict[str, Any] = {k: v for k, v in loaded.items() if k != "_model_name_or_path"}
    if config.get("rope_parameters"):
        config["rope_parameters"] = _rope_parameters(gguf, config, metadata, scaling)
    if config.get("model_type") == "t5" and config.get("is_gated_act"):
        # The loader sets the flag alone. There is one gated T5: v1.1, with its child Flan.
        config |= {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new"}
    if config.get("model_type") in _LAYERS_OF_GEMMA_27B:
        config["query_pre_attn_scalar"] = _query_scale_of_gemma(gguf, config)
    for name, key in _DROPPED.get(str(config.get("model_type")), {}).items():
        value = metadata.get(f"{metadata['general.architecture']}.{name}")
        if isinstance(value, int | float) and value > 0:  # 0 in the file stands for none
            config[key] = value
    repaired: dict[str, Any] = _shorten_floats(config)
    return repaired


def _rope_parameters(
    gguf: Path,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    scaling: Mapping[str, Any] | None,
) -> dict[str, Any]:
    parameters = dict(config["rope_parameters"])
    architecture = metadata["general.architecture"]
    # Gemma 3 has parameters for each kind of attention. The file tells those of the global one.
    is_nested = "full_attention" in parameters
    found = dict(parameters["full_attention"]) if is_nested else parameters
    found["rope_theta"] = metadata.get(f"{architecture}.rope.freq_base", found.get("rope_theta"))
    key = f"{architecture}.rope.dimension_count"
    if key in metadata and not is_nested and (head := _head_size(config)) is not None:
        found |= _partial_rotation(f"{gguf}: {key}", metadata[key], head, found)
    found |= scaling or {}
    return {**parameters, "full_attention": found} if is_nested else found


def _head_size(config: Mapping[str, Any]) -> int | None:
    """The size of a head; None if it is not one number."""
    sizes = [config.get(key) for key in ("head_dim", "hidden_size", "num_attention_heads")]
    own, hidden, heads = (size if isinstance(size, int) and size else None for size in sizes)
    return own if own or hidden is None or heads is None else hidden // heads


def _partial_rotation(
    where: str, count: int, head: int, parameters: Mapping[str, Any]
) -> dict[str, float]:
    """The part of each head that is rotated, as an entry; empty if the architecture has none."""
    if not 0 < count <= head or count % 2:
        raise UserError(f"{where} is {count}; an even number up to {head} is wanted")
    if "partial_rotary_factor" in parameters:
        part = count / head
        # The models round this product down.
        return {"partial_rotary_factor": part if int(head * part) == count else part + 1e-9}
    if count != head:
        raise UserError(
            f"{where} is {count} of {head}, but this architecture rotates whole heads in "
            f"transformers; {_ORIGINAL}"
        )
    return {}


def _query_scale_of_gemma(gguf: Path, config: Mapping[str, Any]) -> int:
    """The number by whose root queries are divided, which no GGUF file tells."""
    layers, head = config["num_hidden_layers"], config["head_dim"]
    if head == _HEAD_OF_GEMMA:
        return _HEAD_OF_GEMMA
    if head == _HEAD_OF_GEMMA_27B and layers == _LAYERS_OF_GEMMA_27B[config["model_type"]]:
        return int(config["hidden_size"]) // int(config["num_attention_heads"])
    raise UserError(
        f"{gguf}: {layers} layers with heads of {head} are no model of Gemma that is known, so "
        f"the scale of its attention is not known; {_ORIGINAL}"
    )


def _linear_factor(gguf: Path, metadata: Mapping[str, Any]) -> float:
    """By how much positions are divided; 1 if they are not."""
    architecture = metadata["general.architecture"]
    # Files of 2023 have the second key. As in llama.cpp, 0 stands for no scaling.
    for key in ("rope.scaling.factor", "rope.scale_linear"):
        name = f"{architecture}.{key}"
        if name in metadata:
            factor = float(metadata[name]) or 1.0
            if not 0 < factor < math.inf:
                raise UserError(f"{gguf}: {name} is {factor}; a number above 0 is wanted")
            return factor
    return 1.0


def rope_scaling(gguf: Path, metadata: Mapping[str, Any], reader: Any) -> dict[str, Any] | None:
    """Entries for `rope_parameters`: the rotary scaling that transformers' loader drops.

    None if the file scales nothing. Raises UserError if its scaling is not known.
    """
    architecture = metadata["general.architecture"]
    kind = metadata.get(f"{architecture}.rope.scaling.type", "linear")  # as in llama.cpp
    if kind not in ("none", "linear"):
        raise UserError(
            f"{gguf}: {architecture}.rope.scaling.type is {kind!r}, which transformers does not "
            f"restore from GGUF; {_ORIGINAL}"
        )
    factor = _linear_factor(gguf, metadata) if kind == "linear" else 1.0
    factors = [t.data for t in reader.tensors if t.name == "rope_freqs.weight"]
    if factor == 1:
        return _llama3_scaling(gguf, metadata, factors[0]) if factors else None
    if factors:
        raise UserError(
            f"{gguf}: scales positions by {factor:g} and by rope_freqs.weight too, which "
            f"transformers cannot do; {_ORIGINAL}"
        )
    return {"rope_type": "linear", "factor": factor}


def _llama3_scaling(gguf: Path, metadata: Mapping[str, Any], factors: Any) -> dict[str, Any]:
    theta = metadata.get(f"{metadata['general.architecture']}.rope.freq_base", 10000.0)
    llama3 = {
        "rope_type": "llama3",
        "factor": float(np.max(factors)),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if not np.allclose(_llama3_factors(len(factors), theta, llama3), factors, rtol=1e-4):
        raise UserError(
            f"{gguf}: rope_freqs.weight is not the scaling of Llama 3.1, the only one known; "
            f"{_ORIGINAL}"
        )
    return llama3


def _llama3_factors(count: int, theta: float, scaling: dict[str, Any]) -> list[float]:
    """The divisor of each rotary frequency in Llama 3.1 (its `apply_scaling`)."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for index in range(count):
        wavelength = 2 * math.pi * theta ** (index / count)
        turns = scaling["original_max_position_embeddings"] / wavelength
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return factors


def _shorten_floats(value: Any) -> Any:
    """Shortest decimals of float32 values: GGUF stores 1e-05 as 9.999999747378752e-06."""
    if isinstance(value, dict):
        return {key: _shorten_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorten_floats(item) for item in value]
    if isinstance(value, float) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return value
