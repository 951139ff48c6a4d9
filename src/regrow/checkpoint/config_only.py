"""A directory with a config and no weights: enough to inspect and to plan, not to cut."""

from pathlib import Path

from regrow.architectures import Layout, bind, blueprint_for
from regrow.architectures.assembled import file_shapes
from regrow.architectures.schema import read_field
from regrow.checkpoint.companions import check_place
from regrow.checkpoint.derived_blueprint import blueprint_of_class
from regrow.checkpoint.meta_check import class_tensors
from regrow.checkpoint.vocabulary_blueprint import architecture_of
from regrow.common.errors import UserError, one_line
from regrow.common.files import read_json_object

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.index.json")
_DTYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}


def is_config_only(directory: Path) -> bool:
    """Whether a directory holds a config.json and no weight files."""
    return (directory / "config.json").is_file() and not any(
        path for pattern in _WEIGHTS for path in directory.glob(pattern)
    )


def bind_config(directory: Path) -> Layout:
    """The layout that a checkpoint of this config would have.

    Names and shapes come from the model class, built on the meta device: only the class knows
    which optional tensors (biases, an untied head) a config gives.

    Raises UserError if the class refuses the config.
    """
    path = directory / "config.json"
    check_place(directory, path)
    config = read_json_object(path)
    blueprint = blueprint_for(config)
    architecture = blueprint.architectures[0] if blueprint else architecture_of(config)
    try:
        found = class_tensors(config, architecture)
    except Exception as error:  # noqa: BLE001 - whatever the class raises is its refusal
        refusal = one_line(str(error))
        raise UserError(f"{path}: {architecture} refuses it: {refusal}") from None
    if blueprint is None:
        shapes = {name: shape for name, shape in found.shapes.items() if name not in found.tied}
        return bind(blueprint_of_class(config, shapes), config, shapes)
    # T5's class ties its head in memory whatever the config says. The file follows the config.
    untied = read_field(config, "tie_word_embeddings") is False
    absent = found.tied - ({blueprint.head.weight} if untied else set())
    shapes = {name: shape for name, shape in found.shapes.items() if name not in absent}
    return bind(blueprint, config, file_shapes(blueprint, shapes))


def stored_dtype(layout: Layout) -> tuple[str, int]:
    """The dtype that the config gives for the weights: its safetensors name, and bytes per value.

    Raises UserError unless it is bfloat16, float16 or float32.
    """
    field = read_field(layout.config, "dtype") or read_field(layout.config, "torch_dtype")
    name = str(field or "float32").removeprefix("torch.")
    if name not in _DTYPES:
        raise UserError(f"config.json: dtype: {name}: {', '.join(_DTYPES)} is wanted")
    return _DTYPES[name]
