"""Find the layers of a model, and let them compute something else."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


def layers(model: nn.Module) -> list[nn.Module]:
    """The layers that the model's class names (`_no_split_modules`); outer modules come first."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    # `fully_shard` gives a layer a new class, derived from the one that is named.
    return [
        module
        for module in model.modules()
        if names & {kind.__name__ for kind in type(module).__mro__}
    ]


def entering(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states with which a layer is called."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Context manager: these modules compute these functions in place of their own."""
    with ExitStack() as stack:
        for module, forward in forwards.items():
            if "forward" in vars(module):
                stack.callback(setattr, module, "forward", module.forward)
            else:
                stack.callback(delattr, module, "forward")
            module.forward = forward
        yield
