"""Networks that transformers does not have, and the lookup of classes in both.

The files of such a network are a package, named by its model type. Every checkpoint of that type
includes these files, and `auto_map` in its config names them. So it loads without regrow, with
trust_remote_code=True.
"""

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regrow.common.files import json_bytes, parse_json_object

_AUTO_CLASSES = {
    "openba": {
        "AutoConfig": "configuration_openba.OpenBAConfig",
        "AutoModelForSeq2SeqLM": "modeling_openba.OpenBAForConditionalGeneration",
    },
}
_AUTO_TOKENIZERS = {"openba": "tokenization_openba.OpenBATokenizer"}

TOKENIZER_CONFIG = "tokenizer_config.json"
_NAMES_OF_CODE = ("auto_map", "custom_pipelines")
"""The keys by which a config names code in its directory or on the hub."""
_TOKENIZER_FILES = (TOKENIZER_CONFIG, "tokenizer.json", "spiece.model")


_DEPTH = re.compile(r"(num|n)_(\w+_)?(layers?|blocks?)|\w+_layers|depths?")
"""The keys of configs that hold a number of layers."""
_MAX_DEPTH = 10_000


def register() -> None:
    """Register the networks with the Auto classes of transformers."""
    for model_type in _AUTO_CLASSES:
        importlib.import_module(f"regrow.models.{model_type}")


def config_class(model_type: str) -> Any:
    """The config class of a model type. Raises ValueError if there is none."""
    import transformers

    register()
    if model_type not in transformers.CONFIG_MAPPING:
        raise ValueError(f"transformers has no model type {model_type!r}")
    return transformers.CONFIG_MAPPING[model_type]


def check_depth(config: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ValueError if a config asks for a number of layers that no model has.

    Without this, building the class would take hours.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_depth(value, f"{prefix}{key}.")
        elif _DEPTH.fullmatch(key) and type(value) is int and not 0 <= value <= _MAX_DEPTH:
            raise ValueError(f"{prefix}{key} is {value}; a number of layers is wanted")


def model_class(architecture: str) -> Any:
    """The class of this name, in transformers or here. Raises ValueError if there is none."""
    import transformers

    for model_type, classes in _AUTO_CLASSES.items():
        module, _, name = classes["AutoModelForSeq2SeqLM"].partition(".")
        if name == architecture:
            return getattr(importlib.import_module(f"regrow.models.{model_type}.{module}"), name)
    found = getattr(transformers, architecture, None)
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise ValueError(f"transformers has no model class {architecture!r}")
    return found


def own_code(model_type: str) -> dict[str, bytes]:
    """The network's files by name; empty for a model type that transformers has."""
    if model_type not in _AUTO_CLASSES:
        return {}
    directory = Path(__file__).with_name(model_type)
    return {p.name: p.read_bytes() for p in sorted(directory.glob("*_*.py")) if p.name[0] != "_"}


def with_own_code(
    config: Mapping[str, Any], files: Mapping[str, bytes]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Add the network's code to the small files of a model, and its `auto_map` to the configs.

    What the configs name of other code is left out, since that code is not passed on.

    Raises UserError if one of the configs is not JSON.
    """
    model_type = config["model_type"]
    config = _without_code(config)
    files = {name: _file_without_code(name, data) for name, data in files.items()}
    code = own_code(model_type)
    if not code:
        return config, files
    named = {**config, "auto_map": _AUTO_CLASSES[model_type]}
    if any(name in files for name in _TOKENIZER_FILES):
        tokenizer = parse_json_object(files.get(TOKENIZER_CONFIG, b"{}"), TOKENIZER_CONFIG)
        tokenizer["auto_map"] = _tokenizer_map(model_type)
        code[TOKENIZER_CONFIG] = json_bytes(tokenizer, 1)
    return named, {**files, **code}


def _file_without_code(name: str, data: bytes) -> bytes:
    """The bytes of a config without the names of code; of any other file, the same bytes."""
    if not name.endswith("config.json") or not any(key.encode() in data for key in _NAMES_OF_CODE):
        return data
    values = parse_json_object(data, name)
    return data if (left := _without_code(values)) == values else json_bytes(left, 1)


def _without_code(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config, and the configs in it, without what names code."""
    return {
        key: _without_code(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in _NAMES_OF_CODE
    }


def foreign_code(directory: Path) -> str | None:
    """Why the code in a directory is not regrow's own; None if it is, byte for byte.

    This compares all Python files, also in subfolders, and the `auto_map` of both config files. A
    link to a directory counts as other code: transformers would load what lies behind it.
    """
    config, tokenizer = (
        json.loads(path.read_bytes()) if path.is_file() else {}
        for path in (directory / "config.json", directory / TOKENIZER_CONFIG)
    )
    model_type = config.get("model_type")
    own = own_code(model_type)
    if not own:
        return f"config.json: regrow has no code for {model_type!r}"
    for path in sorted(directory.rglob("*")):  # which does not look behind links
        name = path.relative_to(directory).as_posix()
        if path.is_symlink() and path.is_dir():
            return f"{name} is a link to a directory"
        if path.suffix == ".py" and (name not in own or path.read_bytes() != own[name]):
            return f"{name} is not regrow's own"
    maps = (
        ("config.json", config, _AUTO_CLASSES[model_type]),
        (TOKENIZER_CONFIG, tokenizer, _tokenizer_map(model_type)),
    )
    for where, values, wanted in maps:
        if values.get("auto_map", wanted) != wanted:
            return f"{where}: auto_map names other code than regrow's own"
    return None


def _tokenizer_map(model_type: str) -> dict[str, list[str | None]]:
    return {"AutoTokenizer": [None, _AUTO_TOKENIZERS[model_type]]}
