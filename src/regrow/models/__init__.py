"""Networks that transformers has not, and the lookup of classes in both.

A network's files stand in a package of its own, named by model type, and travel with every
checkpoint of that type: `auto_map` in its config names them, so that it loads elsewhere with
trust_remote_code=True and without regrow.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_AUTO_CLASSES = {
    "openba": {
        "AutoConfig": "configuration_openba.OpenBAConfig",
        "AutoModelForSeq2SeqLM": "modeling_openba.OpenBAForConditionalGeneration",
    },
}
_AUTO_TOKENIZERS = {"openba": "tokenization_openba.OpenBATokenizer"}

TOKENIZER_CONFIG = "tokenizer_config.json"


def register() -> None:
    """Make the networks known to the Auto classes of transformers."""
    for model_type in _AUTO_CLASSES:
        importlib.import_module(f"regrow.models.{model_type}")


def config_class(model_type: str) -> Any:
    """The config class of a model type. Raises KeyError where there is none."""
    import transformers

    register()
    return transformers.CONFIG_MAPPING[model_type]


def model_class(architecture: str) -> Any:
    """The class of this name, in transformers or here. Raises AttributeError."""
    import transformers

    for model_type, classes in _AUTO_CLASSES.items():
        module, _, name = classes["AutoModelForSeq2SeqLM"].partition(".")
        if name == architecture:
            return getattr(importlib.import_module(f"regrow.models.{model_type}.{module}"), name)
    return getattr(transformers, architecture)


def own_code(model_type: str) -> dict[str, bytes]:
    """The network's files by name; empty for what transformers has."""
    if model_type not in _AUTO_CLASSES:
        return {}
    directory = Path(__file__).with_name(model_type)
    return {p.name: p.read_bytes() for p in sorted(directory.glob("*_*.py")) if p.name[0] != "_"}


def own_code_by_name() -> dict[str, bytes]:
    """The files of all networks by name."""
    return {name: data for kind in _AUTO_CLASSES for name, data in own_code(kind).items()}


def with_own_code(
    config: Mapping[str, Any], files: Mapping[str, bytes]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Config and small files of a model with the network's code beside them, and named."""
    model_type = config["model_type"]
    code = own_code(model_type)
    if not code:
        return dict(config), dict(files)
    named = {**config, "auto_map": _AUTO_CLASSES[model_type]}
    files = {**files, **code}
    if TOKENIZER_CONFIG in files:
        tokenizer = json.loads(files[TOKENIZER_CONFIG])
        tokenizer["auto_map"] = {"AutoTokenizer": [None, _AUTO_TOKENIZERS[model_type]]}
        text = json.dumps(tokenizer, indent=1, ensure_ascii=False) + "\n"
        files[TOKENIZER_CONFIG] = text.encode()
    return named, files
