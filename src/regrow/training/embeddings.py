"""The token embeddings and the head of a model, which may learn more slowly than the rest."""

from typing import Any

from torch import nn


def embedding_parameters(model: Any) -> list[nn.Parameter]:
    """The tables of the token embeddings, and weight and bias of the head; each once if tied."""
    stacks = [model]
    if model.config.is_encoder_decoder:
        stacks += [model.get_encoder(), model.get_decoder()]
    modules = [stack.get_input_embeddings() for stack in stacks]
    modules.append(model.get_output_embeddings())
    found = [parameter for module in modules if module for parameter in module.parameters()]
    return list(dict.fromkeys(found))


def freeze_embeddings(model: Any) -> None:
    """Leave token embeddings and head out of what is trained. Call it before sharding."""
    for parameter in embedding_parameters(model):
        parameter.requires_grad_(False)
