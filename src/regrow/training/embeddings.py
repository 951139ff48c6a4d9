"""The token embeddings and the head of a model, which may learn more slowly than the rest."""

from typing import Any

from torch import nn


def embedding_parameters(model: Any) -> list[nn.Parameter]:
    """The table of the token embeddings, and weight and bias of the head; each once if tied."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    found = [parameter for module in modules if module for parameter in module.parameters()]
    return list(dict.fromkeys(found))


def freeze_embeddings(model: Any) -> None:
    """Leave token embeddings and head out of what is trained. Call it before sharding."""
    for parameter in embedding_parameters(model):
        parameter.requires_grad_(False)
