from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from regrow.objectives.losses.cross_entropy import summed_cross_entropy


def reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
) -> Tensor:
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return cross_entropy(logits.double(), targets, reduction="sum")


def case(
    seed: int, tokens: int, vocab: int, *, bias: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    hidden, weight = draw(tokens, 6), draw(vocab, 6)
    targets = torch.randint(vocab, (tokens,), generator=generator)
    return hidden, weight, targets, draw(vocab) if bias else None


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    tokens=st.integers(0, 9),
    vocab=st.integers(1, 12),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.3]),
    softcap=st.sampled_from([None, 2.0]),
    logits_at_once=st.integers(1, 60),
)
def test_value_and_gradients_are_those_of_all_logits(
    seed: int,
    tokens: int,
    vocab: int,
    bias: bool,
    scale: float,
    softcap: float | None,
    logits_at_once: int,
) -> None:
    hidden, weight, targets, offset = case(seed, tokens, vocab, bias=bias, dtype=torch.float64)
    inputs = [hidden, weight] + ([] if offset is None else [offset])
    ours, each = summed_cross_entropy(
        hidden,
        weight,
        targets,
        bias=offset,
        scale=scale,
        softcap=softcap,
        logits_at_once=logits_at_once,
    )
    theirs = reference(hidden, weight, targets, offset, scale, softcap)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    one_by_one = [
        reference(hidden[place, None], weight, targets[place, None], offset, scale, softcap)
        for place in range(tokens)
    ]
    singly = [loss.item() for loss in one_by_one]
    assert each.tolist() == pytest.approx(singly, rel=1e-9, abs=1e-9)
    assert not each.requires_grad
    for one, other in zip(
        torch.autograd.grad(ours * 0.7, inputs),
        torch.autograd.grad(theirs * 0.7, inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_autocast_keeps_all_but_the_products_in_float32(softcap: float | None) -> None:
    hidden, weight, targets, bias = case(0, 64, 300, bias=True, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = summed_cross_entropy(
            hidden, weight, targets, bias=bias, softcap=softcap, logits_at_once=3000
        )
    theirs = reference(hidden, weight, targets, bias, 1.0, softcap)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-3, atol=0)
    assert bias is not None
    ours.backward()  # type: ignore[no-untyped-call]
    expected = torch.autograd.grad(theirs, [hidden, weight, bias])
    for tensor, gradient in zip((hidden, weight, bias), expected, strict=True):
        assert tensor.grad is not None
        assert tensor.grad.dtype == torch.float32
        assert (tensor.grad - gradient).norm() < 2e-2 * gradient.norm()


class _LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_no_more_logits_are_held_than_said() -> None:
    hidden, weight, targets, _ = case(0, 400, 50, bias=False, dtype=torch.float32)
    with _LargestTensor() as ours:  # type: ignore[no-untyped-call]
        loss, _ = summed_cross_entropy(hidden, weight, targets, softcap=2.0, logits_at_once=3000)
        loss.backward()  # type: ignore[no-untyped-call]
    with _LargestTensor() as theirs:  # type: ignore[no-untyped-call]
        reference(hidden, weight, targets, None, 1.0, 2.0)
    assert theirs.elements == 400 * 50
    assert ours.elements <= 3000


def test_only_wanted_gradients_are_computed() -> None:
    hidden, weight, targets, _ = case(0, 5, 7, bias=False, dtype=torch.float32)
    with torch.no_grad():
        assert not summed_cross_entropy(hidden, weight, targets)[0].requires_grad
    loss, _ = summed_cross_entropy(hidden, weight.detach(), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is None
