"""What a forward pass keeps for the backward pass: nothing twice, nothing that is soon made again.

Autograd keeps the inputs of each operation. Projections that read the same states keep a copy each
in the type of their products, and copies of their weights; a gated ffn keeps its gate, the
activated gate, the other half and their product, where gate and other half would do; a norm keeps
its input and the normalised input; attention in float32 keeps what was bf16; autocast keeps its
copies of all weights until the pass ends. Here a copy is kept once and in the narrower type, one of
a weight not at all, and an activation or a product of what is kept anyway is computed again, by the
same operation from the same numbers: gradients are the same to the bit, but where layers share a
weight, for which autocast adds them up in the narrower type.

For one forward and one whole backward pass of a model that edits nothing in between where autograd
does not see it. `torch.func` inside the pass is refused by PyTorch under any such hooks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_SMALL = 1 << 14
"""Bytes below which nothing is gained."""
_VIEWS = frozenset({"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"})
"""Views of all of a tensor in the same order."""
_COPY, _PRODUCT, _TRANSPOSED = "ToCopyBackward0", "MulBackward0", "TBackward0"

_AGAIN: Mapping[str, Callable[[Any], Tensor]] = {
    _PRODUCT: lambda node: node._saved_self * node._saved_other,
    "SiluBackward0": lambda node: nn.functional.silu(node._saved_self),
    "GeluBackward0": lambda node: nn.functional.gelu(
        node._saved_self, approximate=node._saved_approximate
    ),
}
"""Operations whose result is computed again from what their own backward pass keeps; others have
an attribute `again` (`regrow.models.document_attention`)."""

Unpack = Callable[[], Tensor]


class _Kept(NamedTuple):
    """What stands for a tensor: how it is had again."""

    unpack: Unpack


@contextmanager
def saving_less(wanted: bool = True) -> Iterator[None]:
    """Inside, a forward pass keeps less for its backward pass, which may be outside."""
    if not wanted:
        yield
        return
    copies: dict[tuple[Any, ...], Tensor] = {}

    def pack(tensor: Tensor) -> Tensor | _Kept:
        if tensor.grad_fn is None:
            return tensor
        found = None
        if _is_plain(tensor) and tensor.nbytes >= _SMALL:
            found = _weight(tensor) or _copy(tensor, copies) or _result(tensor)
        # Detached: the output of its own operation would hold itself.
        return found or tensor.detach()

    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        copies.clear()  # it holds the graph, which may hold what packed it


@torch.no_grad()
def _unpack(kept: Tensor | _Kept) -> Tensor:
    return kept.unpack() if isinstance(kept, _Kept) else kept


def _is_plain(tensor: Tensor) -> bool:
    """Not sparse or nested, and not edited since it was made."""
    return tensor.layout is torch.strided and not tensor.is_nested and tensor._version == 0


def _weight(tensor: Tensor) -> _Kept | None:
    """A weight in the type of the products, as a linear layer reads it: made again."""
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
    return _Kept(lambda: leaf.variable.to(device, dtype).t())


def _copy(tensor: Tensor, copies: dict[tuple[Any, ...], Tensor]) -> _Kept | None:
    """A copy in another type: the first one, and the narrower of both."""
    node = _operation(tensor)
    if node is None or node.name() != _COPY:
        return None
    of, output = node.next_functions[0]
    source, dtype, shape = of._input_metadata[output].dtype, tensor.dtype, tensor.shape
    narrower = source.itemsize < dtype.itemsize
    key = (of, output, dtype, tensor.device, tensor.is_contiguous())
    if key not in copies:
        copies[key] = tensor.detach().to(source) if narrower else tensor.detach()
        if not narrower:
            return None
    kept = copies[key]
    return _Kept(lambda: kept.to(dtype).reshape(shape))


def _result(tensor: Tensor) -> _Kept | None:
    """The result of an operation that keeps what it was made of: made again."""
    node = _operation(tensor)
    if node is None or not tensor.is_contiguous():
        return None
    known = _AGAIN.get(node.name())
    again = getattr(node, "again", None) if known is None else partial(known, node)
    if again is None:
        return None
    if node.name() == _PRODUCT:
        # It keeps a factor only where the other one has a gradient. Products of products would be
        # made again and again.
        makers = [maker for maker, _ in node.next_functions]
        if None in makers or any(maker.name() == _PRODUCT for maker in makers):
            return None
    shape, made = tensor.shape, list[Tensor]()

    def unpack() -> Tensor:
        # An activation is asked for twice, one right after the other: to make the product that it
        # is a factor of, and by that product.
        if made:
            return made.pop()
        made.append(again().reshape(shape))
        return made[-1]

    return _Kept(unpack)


def _operation(tensor: Tensor) -> Any:
    """What made a tensor, and views of all of it in the same order aside."""
    node = tensor.grad_fn
    while node is not None and node.name() in _VIEWS and tensor.is_contiguous():
        node = node.next_functions[0][0]
    return node
