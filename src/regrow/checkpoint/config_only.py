"""A model of which only the config is there: to look at and to plan with, not to cut."""

from pathlib import Path

from regrow.architectures import Layout, bind, blueprint_for
from regrow.architectures.schema import read_field
from regrow.checkpoint.meta_check import class_tensors
from regrow.checkpoint.vocabulary_blueprint import architecture_of, vocabulary_blueprint
from regrow.common.errors import UserError
from regrow.common.files import read_json_object

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.index.json")
_DTYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}


def is_config_only(directory: Path) -> bool:
    """Whether a directory holds a config.json, and nothing that looks like weights."""
    return (directory / "config.json").is_file() and not any(
        path for pattern in _WEIGHTS for path in directory.glob(pattern)
    )


def bind_config(directory: Path) -> Layout:
    """The layout that a checkpoint of this config would have, with shapes from its class.

    Which optional tensors there are (biases, a head of its own) only the class knows, so it is
    built on the meta device. Raises UserError where the config is refused.
    """
    path = directory / "config.json"
    config = read_json_object(path)
    blueprint = blueprint_for(config)
    architecture = blueprint.architectures[0] if blueprint else architecture_of(config)
    try:
        found = class_tensors(config, architecture)
    except Exception as error:  # noqa: BLE001 - whatever the class raises is its refusal
        refusal = " ".join(str(error).split())
        raise UserError(f"{path}: {architecture} refuses it: {refusal}") from None
    if blueprint is None:
        shapes = {name: s for name, s in found.shapes.items() if name not in found.tied}
        return bind(vocabulary_blueprint(config, shapes), config, shapes)
    # T5's class ties its head in memory whatever the config says; the file holds what that says.
    apart = read_field(config, "tie_word_embeddings") is False
    absent = found.tied - ({blueprint.head.weight} if apart else set())
    return bind(blueprint, config, {n: s for n, s in found.shapes.items() if n not in absent})


def stored_type(layout: Layout) -> tuple[str, int]:
    """The type that the config names for its weights, as safetensors call it, and its bytes.

    Raises UserError at a type that no unquantised checkpoint has.
    """
    named = read_field(layout.config, "dtype") or read_field(layout.config, "torch_dtype")
    name = str(named or "float32").removeprefix("torch.")
    if name not in _DTYPES:
        raise UserError(f"config.json: dtype: {name}: {', '.join(_DTYPES)} is wanted")
    return _DTYPES[name]
