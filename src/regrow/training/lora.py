"""Train a model by LoRA: freeze it, put adapters beside its matrices, and merge them at the end.

The adapters are those of peft, which puts them into the model in place. So the rest of the training
sees a model with fewer trained parameters, and nothing else.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from regrow.common.errors import UserError
from regrow.common.random_stream import random_stream
from regrow.models.layers import layers
from regrow.training.lora_settings import LoraSettings

_ADAPTER = "default"
"""peft's own name of a first adapter."""
_BASE = ".base_layer."
_A, _B = f".lora_A.{_ADAPTER}.weight", f".lora_B.{_ADAPTER}.weight"
_MOST_ERROR = 1e-4
"""Of the outputs of a merged matrix, relative to their size; float32 is exact to some 1e-6."""


def check_lora() -> None:
    """Raise UserError if peft is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UserError('needs the package peft: pip install "regrow[lora]"', key="lora") from None


def add_adapters(model: nn.Module, settings: LoraSettings, seed: int) -> None:
    """Freeze a model and put adapters beside its matrices, in place.

    An adapter adds nothing until it is trained, since its `B` begins with zeros. `seed`: decides
    each `A`.

    Raises UserError if no matrix has one of the names, or peft is not installed.
    """
    check_lora()
    from peft import LoraConfig, inject_adapter_in_model

    names = adapted_matrices(model, settings)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.scale * settings.rank, target_modules=names,
        lora_dropout=0.0, bias="none",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random_stream(seed, "lora", 0).random_raw()))
        inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith((_A, _B)))


def without_adapters(
    state: Mapping[str, Tensor], settings: LoraSettings | None
) -> Mapping[str, Tensor]:
    """The state dict of a model without its adapters, with what they add in its matrices.

    `state`: of the model with adapters, in float32. `settings`: None if it has none.

    Raises ValueError if a merged matrix does not give the outputs of matrix and adapter.
    """
    if settings is None:
        return state
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith((_A, _B)):
            continue
        prefix, is_base, last = name.rpartition(_BASE)
        if is_base and last == "weight":
            down, up = state[prefix + _A], state[prefix + _B]
            weight = tensor + settings.scale * (up @ down)
            _check_merged(prefix, weight, (tensor, down, up), settings.scale)
            found[f"{prefix}.weight"] = weight
        else:
            found[f"{prefix}.{last}" if is_base else name] = tensor
    return found


def adapted_matrices(model: nn.Module, settings: LoraSettings) -> list[str]:
    """The full names of the matrices that get adapters.

    `model`: its weights are not read.

    Raises UserError if the layers have no matrix of one of the names, or none that can be adapted.
    """
    inside = {id(module) for layer in layers(model) for module in layer.modules()}
    matrices = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside
    ]
    if not matrices:
        raise UserError(
            f"{type(model).__name__}: no module of its layers is torch.nn.Linear, and only these "
            "get adapters; train all weights",
            key="lora",
        )
    if settings.targets is None:
        wanted = matrices
    else:
        ends = {name: name.rpartition(".")[2] for name in matrices}
        for target in settings.targets:
            if target not in ends.values():
                known = ", ".join(sorted(set(ends.values())))
                raise UserError(
                    f"no matrix of the layers is called {target}; they have {known}",
                    key="lora.targets",
                )
        wanted = [name for name in matrices if ends[name] in settings.targets]
    return wanted


@torch.no_grad()
def _check_merged(
    name: str, weight: Tensor, parts: tuple[Tensor, Tensor, Tensor], scale: float
) -> None:
    """Raise ValueError if a merged matrix computes something else than its parts."""
    base, down, up = parts
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, weight.shape[1], generator=generator)
    apart = inputs @ base.T + scale * (inputs @ down.T) @ up.T
    error = (inputs @ weight.T - apart).norm() / apart.norm().clamp_min(1e-30)
    if not error < _MOST_ERROR:
        raise ValueError(f"{name}: merged, it differs by {error:.2g} from matrix and adapter")
