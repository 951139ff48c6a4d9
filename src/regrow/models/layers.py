"""Find the layers of a model."""

from torch import nn


def layers(model: nn.Module) -> list[nn.Module]:
    """The layers that the model's class names (`_no_split_modules`); outer modules come first."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    # `fully_shard` gives a layer a new class, derived from the one that is named.
    return [
        module
        for module in model.modules()
        if names & {kind.__name__ for kind in type(module).__mro__}
    ]
