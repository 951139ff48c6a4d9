"""All blueprints, and the lookup of a blueprint by a config."""

from collections.abc import Mapping
from typing import Any

from regrow.architectures.bart import BART, MBART
from regrow.architectures.binding import bind
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.gemma3 import GEMMA3
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.granite import GRANITE
from regrow.architectures.layout import LabelledTensor, Layout
from regrow.architectures.llama import LLAMA
from regrow.architectures.mistral import MISTRAL
from regrow.architectures.mixtral import MIXTRAL
from regrow.architectures.olmo2 import OLMO2
from regrow.architectures.olmoe import OLMOE
from regrow.architectures.openba import OPENBA
from regrow.architectures.phi3 import PHI3
from regrow.architectures.qwen import QWEN2, QWEN3
from regrow.architectures.qwen3_moe import QWEN3_MOE
from regrow.architectures.schema import Axis, Blueprint
from regrow.architectures.t5 import MT5, T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.architectures.umt5 import UMT5
from regrow.common.errors import UserError

BLUEPRINTS: tuple[Blueprint, ...] = (
    LLAMA, MISTRAL, GRANITE, QWEN2, QWEN3, GPT_NEOX, GEMMA2, GEMMA3, OLMO2, PHI3, T5, MT5, UMT5,
    T5GEMMA, BART, MBART, OPENBA, MIXTRAL, OLMOE, QWEN3_MOE,
)  # fmt: skip

__all__ = [
    "BLUEPRINTS",
    "Axis",
    "Blueprint",
    "LabelledTensor",
    "Layout",
    "bind",
    "blueprint_for",
]


def blueprint_for(config: Mapping[str, Any]) -> Blueprint | None:
    """The blueprint for the model type and class that a config names; None where there is none, or
    where it does not cover the config.

    Raises UserError where `architectures` is not a list of class names.
    """
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise UserError(f"config.json: architectures: {named!r}: a list of class names is wanted")
    for blueprint in BLUEPRINTS:
        if blueprint.model_type == config.get("model_type"):
            if named and not set(named) & set(blueprint.architectures):
                return None
            return blueprint if all(each.holds(config) for each in blueprint.covers) else None
    return None
