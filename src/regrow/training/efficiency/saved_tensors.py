"""Save fewer and smaller tensors in a forward pass, for its backward pass.

Autograd saves the inputs of each operation:

- Projections that read the same states save a copy each, in the dtype of the product, and copies of
  their weights.
- A gated ffn saves its gate, the activated gate, the up projection and their product, though gate
  and up projection suffice.
- A norm saves its input and the normalised input.
- Attention in float32 saves float32 copies of states that were bf16.
- Autocast keeps its copies of all weights until the pass ends.

Here a copy is saved once, in the narrower dtype. A copy of a weight is not saved. An activation, or
a product of tensors that are saved anyway, is computed again, by the same operation from the same
numbers. Gradients are the same to the bit, with one exception: where layers share a weight,
autocast adds up its gradients in the narrower dtype, and here they add up in float32.

This is for one forward and one complete backward pass. In between, no tensor may be edited in a way
that autograd does not see. PyTorch refuses `torch.func` under saved-tensor hooks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_MIN_BYTES = 1 << 14
"""Bytes; smaller tensors are saved as they are."""
_VIEWS = frozenset({"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"})
"""Views of a whole tensor that do not change its order."""
_COPY, _PRODUCT, _TRANSPOSED = "ToCopyBackward0", "MulBackward0", "TBackward0"

_RECOMPUTE: Mapping[str, Callable[[Any], Tensor]] = {
    _PRODUCT: lambda node: node._saved_self * node._saved_other,
    "SiluBackward0": lambda node: nn.functional.silu(node._saved_self),
    "GeluBackward0": lambda node: nn.functional.gelu(
        node._saved_self, approximate=node._saved_approximate
    ),
}
"""Operations whose result can be computed again from what their own backward pass saves. Nodes of
other operations may have an attribute `recompute` (`regrow.models.document_attention`)."""

Unpack = Callable[[], Tensor]


class _Packed(NamedTuple):
    """Stands in for a saved tensor: `unpack` gives the tensor."""

    unpack: Unpack


@contextmanager
def save_fewer_tensors(enabled: bool = True) -> Iterator[None]:
    """Context manager: a forward pass inside saves fewer tensors; its backward may run outside."""
    if not enabled:
        yield
        return
    copies: dict[tuple[Any, ...], Tensor] = {}

    def pack(tensor: Tensor) -> Tensor | _Packed:
        if tensor.grad_fn is None:
            return tensor
        found = None
        if _is_plain(tensor) and tensor.nbytes >= _MIN_BYTES:
            found = _pack_weight(tensor) or _pack_copy(tensor, copies) or _pack_result(tensor)
        # Detach: an operation that saves its own output would keep itself alive.
        return found or tensor.detach()

    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        copies.clear()  # it refers to the graph, which may refer to `pack`: a reference cycle


@torch.no_grad()
def _unpack(packed: Tensor | _Packed) -> Tensor:
    return packed.unpack() if isinstance(packed, _Packed) else packed


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is neither sparse nor nested, and was never edited in place."""
    return tensor.layout is torch.strided and not tensor.is_nested and tensor._version == 0


def _pack_weight(tensor: Tensor) -> _Packed | None:
    """If the tensor is a weight cast for a linear layer, cast the weight again when unpacking."""
    node: Any = tensor.grad_fn
    if node.name() != _TRANSPOSED:
        return None
    copy = node.next_functions[0][0]
    if copy is None or copy.name() != _COPY:
        return None
    leaf = copy.next_functions[0][0]
    if not leaf.name().endswith("AccumulateGrad"):
        return None
    dtype, device = tensor.dtype, tensor.device
    return _Packed(lambda: leaf.variable.to(device, dtype).t())


def _pack_copy(tensor: Tensor, copies: dict[tuple[Any, ...], Tensor]) -> _Packed | None:
    """If the tensor is a cast of another one, share one saved copy of the narrower dtype.

    `copies`: those saved so far in this pass.
    """
    node = _operation(tensor)
    if node is None or node.name() != _COPY:
        return None
    origin, output = node.next_functions[0]
    source, dtype, shape = origin._input_metadata[output].dtype, tensor.dtype, tensor.shape
    narrower = source.itemsize < dtype.itemsize
    key = (origin, output, dtype, tensor.device, tensor.is_contiguous())
    if key not in copies:
        copies[key] = tensor.detach().to(source) if narrower else tensor.detach()
        if not narrower:
            return None
    saved = copies[key]
    return _Packed(lambda: saved.to(dtype).reshape(shape))


def _pack_result(tensor: Tensor) -> _Packed | None:
    """If the operation that made the tensor saves its inputs, compute it again when unpacking."""
    node = _operation(tensor)
    if node is None or not tensor.is_contiguous():
        return None
    known = _RECOMPUTE.get(node.name())
    recompute = getattr(node, "recompute", None) if known is None else partial(known, node)
    if recompute is None:
        return None
    if node.name() == _PRODUCT:
        # A product saves a factor only if the other factor needs a gradient. A product of products
        # would be computed many times.
        makers = [maker for maker, _ in node.next_functions]
        if None in makers or any(maker.name() == _PRODUCT for maker in makers):
            return None
    shape, cached = tensor.shape, list[Tensor]()

    def unpack() -> Tensor:
        # An activation is unpacked twice in a row: to compute the product that it is a factor of,
        # and by the backward pass of that product.
        if cached:
            return cached.pop()
        cached.append(recompute().reshape(shape))
        return cached[-1]

    return _Packed(unpack)


def _operation(tensor: Tensor) -> Any:
    """The autograd node that made a tensor, without views of the whole tensor in the same order."""
    node = tensor.grad_fn
    while node is not None and node.name() in _VIEWS and tensor.is_contiguous():
        node = node.next_functions[0][0]
    return node
