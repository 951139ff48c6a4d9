"""Which optimiser updates which parameter."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from regrow.common.errors import UserError
from regrow.models.layers import layers
from regrow.training.embeddings import embedding_parameters
from regrow.training.settings import RecoverySettings

_RATE_FRACTION = "fraction"
"""In a group of parameters: its learning rate as a fraction of that of the training."""


def make_optimizers(model: nn.Module, settings: RecoverySettings) -> list[torch.optim.Optimizer]:
    """The optimisers of all trained parameters: AdamW alone, or Muon and AdamW.

    Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") updates the
    matrices of the layers; a fused matrix (query, key and value) counts as one. Its updates are
    scaled to the size of AdamW's, so that learning rate and weight decay mean the same for both
    (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2). AdamW updates all other
    parameters; of these, embeddings and head may have a lower rate (`settings.embedding_rate`).

    Raises UserError if Muon finds no matrix.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found: list[torch.optim.Optimizer] = []
    if settings.optimizer == "muon":
        matrices = [parameter for parameter in _layer_matrices(model) if parameter.requires_grad]
        if not matrices:
            raise UserError(
                f"{type(model).__name__}: no layer with matrices for the optimizer muon; give adamw"
            )
        found.append(
            torch.optim.Muon(
                matrices,
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
        updated = {id(parameter) for parameter in matrices}
        trained = [parameter for parameter in trained if id(parameter) not in updated]
    slower = set() if settings.embedding_rate == 1 else set(embedding_parameters(model))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in trained:
        decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
        fraction = settings.embedding_rate if parameter in slower else 1.0
        groups.setdefault((decay, fraction), []).append(parameter)
    if groups:
        parts = [
            {"params": parameters, "weight_decay": decay, _RATE_FRACTION: fraction}
            for (decay, fraction), parameters in groups.items()
        ]
        found.append(
            torch.optim.AdamW(parts, lr=settings.learning_rate, betas=settings.betas, fused=True)
        )
    set_learning_rate(found, settings.learning_rate)
    return found


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of all parameters, of which some have a fraction of it."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get(_RATE_FRACTION, 1.0)


def _layer_matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """The matrices of all layers, each once.

    An embedding table, such as T5's position biases, does not count as a matrix.
    """
    seen: set[int] = set()
    for layer in layers(model):
        for module in layer.modules():
            for parameter in module.parameters(recurse=False):
                is_matrix = parameter.ndim == 2 and not isinstance(module, nn.Embedding)
                if is_matrix and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter
