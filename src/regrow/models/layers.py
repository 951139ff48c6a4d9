"""The layers of a model."""

from torch import nn


def layers(model: nn.Module) -> list[nn.Module]:
    """The transformer's layers, as its class names them; inner ones after those around them."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    # A layer that was sharded is of a class of its own, derived from the one that is named.
    return [
        module
        for module in model.modules()
        if names & {kind.__name__ for kind in type(module).__mro__}
    ]
