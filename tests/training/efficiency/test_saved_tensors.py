"""A pass that keeps less gives the same gradients, to the bit."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regrow.architectures import BLUEPRINTS, Blueprint
from regrow.models import document_attention
from regrow.models.document_attention import text_mask
from regrow.models.loading import load_model
from regrow.training.efficiency import saved_tensors
from regrow.training.efficiency.saved_tensors import save_fewer_tensors
from tests.tiny import write_tiny


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_tensors, "_MIN_BYTES", 0)


def gradients(model: Any, wanted: bool) -> list[Tensor]:
    """Under autocast, as on a CPU that multiplies bf16."""
    torch.manual_seed(0)
    model.zero_grad(set_to_none=True)
    inputs = {"input_ids": torch.arange(3, 19).view(2, 8)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.arange(20, 30).view(2, 5)
    with torch.autocast("cpu", torch.bfloat16), save_fewer_tensors(wanted):
        loss = model(**inputs).logits.float().square().mean()
    loss.backward()
    return [each.grad for each in model.parameters() if each.grad is not None]


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda b: b.model_type)
def test_gradients_are_equal(blueprint: Blueprint, tmp_path: Any) -> None:
    model = load_model(write_tiny(blueprint, tmp_path / "m")).train()
    plain, less = gradients(model, False), gradients(model, True)
    assert len(plain) == len(less) > 10
    assert all(torch.equal(a, b) for a, b in zip(plain, less, strict=True))


def packed(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The kind of what is kept of each tensor, in order."""
    kinds: list[type] = []
    hooks = torch.autograd.graph.saved_tensors_hooks

    def noting(pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> Any:
        def noted(tensor: Tensor) -> Any:
            kept = pack(tensor)
            kinds.append(type(kept))
            return kept

        return hooks(noted, unpack)

    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", noting)
    with torch.autocast("cpu", torch.bfloat16), save_fewer_tensors():
        run()
    return kinds


def test_what_a_layer_of_llama_keeps(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (llama,) = (each for each in BLUEPRINTS if each.model_type == "llama")
    model = load_model(write_tiny(llama, tmp_path / "m", number=1)).train()
    kinds = packed(lambda: model.model(input_ids=torch.arange(8)[None]), monkeypatch)
    kept = kinds.count(saved_tensors._Packed)
    layers = model.config.num_hidden_layers
    # Seven weights; both normalised inputs, the activated gate and its product; keys, values and
    # the other half, which read what queries and the gate read; and the last norm's input.
    assert kept == layers * (7 + 4 + 3) + 1


@pytest.mark.parametrize("wanted", [True, False])
def test_autocast_keeps_no_copy_of_a_weight(wanted: bool) -> None:
    layer = nn.Linear(4, 4, bias=False)
    x = torch.ones(1, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        with save_fewer_tensors(wanted):
            products: list[Any] = [layer(x).grad_fn for _ in range(2)]
            copies = {each.next_functions[1][0].next_functions[0][0] for each in products}
        assert torch.is_autocast_cache_enabled()
    assert len(copies) == (2 if wanted else 1)


def test_off_it_does_nothing() -> None:
    weight = torch.ones(3, requires_grad=True)
    with save_fewer_tensors(False):
        product = (weight * weight).sin()
    assert torch.equal(product.grad_fn._saved_self, weight * weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("texts", [[[0, 0, 1, -1], [0, 1, 1, 1]], [[0, 0, 0, 1], [2, 2, 2, 3]]])
@pytest.mark.parametrize("is_short", [True, False])
def test_attention_text_by_text(
    texts: list[list[int]], is_short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is projected after it is made again from what attention keeps."""
    monkeypatch.setattr(document_attention, "_FLOAT32_MAX_SIZE", 1 << 14 if is_short else 0)
    torch.manual_seed(0)
    project, out = nn.Linear(16, 48), nn.Linear(16, 16)
    x = torch.randn(2, 4, 16)
    mask = text_mask(torch.tensor(texts), torch.tensor(texts), is_causal=True)

    def run() -> Tensor:
        states: Any = project(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        found, _ = document_attention.attention(nn.Module(), states[0], states[1], states[2], mask)
        loss: Tensor = out(found.flatten(2)).float().square().sum()
        return loss

    def gradients(wanted: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16), save_fewer_tensors(wanted):
            loss = run()
        return list(torch.autograd.grad(loss, [*project.parameters(), *out.parameters()]))

    pairs = zip(gradients(True), gradients(False), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with torch.autocast("cpu", torch.bfloat16), save_fewer_tensors():
        loss: Any = run()
    product = loss.grad_fn
    while "Addmm" not in product.name():
        product = product.next_functions[0][0]
    assert isinstance(product._raw_saved_mat1.data, saved_tensors._Packed)


def test_backward_may_run_twice() -> None:
    x = torch.randn(8, 8, requires_grad=True)
    with save_fewer_tensors():
        y = nn.functional.silu(x) * x.exp()
        loss = (y.view(-1) * y.view(-1)).sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (second,) = torch.autograd.grad(loss, x)
    assert torch.equal(first, second)


def test_nothing_is_held_without_a_backward_pass() -> None:
    """The output of softmax is kept by its own operation."""
    a = torch.randn(4, 4, requires_grad=True)
    with save_fewer_tensors():
        h = a.sin()
        z = torch.softmax((h * 2).cos(), -1)
    torch.autograd.grad(h.sum(), a)
    gone = weakref.ref(z)
    del h, z
    gc.collect()
    assert gone() is None


def test_what_was_edited_is_kept_as_it_is() -> None:
    def run(wanted: bool) -> Tensor:
        torch.manual_seed(0)
        a, b = (torch.randn(4, 4, requires_grad=True) for _ in range(2))
        with save_fewer_tensors(wanted):
            p = a * b
            y = a.bfloat16().float()
            with torch.no_grad():
                p.clamp_(-0.1, 0.1)
                y.add_(0.001)
            loss = (p * a.sin()).sum() + (y * b).sum()
        return torch.cat(torch.autograd.grad(loss, (a, b)))

    assert torch.equal(run(False), run(True))


def test_a_long_product_is_no_deep_one() -> None:
    def run(wanted: bool) -> Tensor:
        torch.manual_seed(0)
        x = torch.randn(4, 4, requires_grad=True)
        with save_fewer_tensors(wanted):
            p = x
            for _ in range(2_000):
                p = p * (1 + x.cos() / 1_000)
        return torch.autograd.grad(p.sum(), x)[0]

    assert torch.equal(run(False), run(True))


def test_sparse_and_laid_out_otherwise() -> None:
    def run(wanted: bool) -> Tensor:
        torch.manual_seed(0)
        a = torch.randn(4, 6, requires_grad=True)
        with save_fewer_tensors(wanted):
            half = a.bfloat16().t()
            loose = half.float()
            tight = half.to(torch.float32, memory_format=torch.contiguous_format).view(-1)
            sparse = torch.sparse.mm((a * 2).to_sparse(), a.t())
            loss = loose.square().sum() + tight.square().sum() + sparse.square().sum()
        return torch.autograd.grad(loss, a)[0]

    assert torch.equal(run(False), run(True))


OPERATIONS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, b: a * b,
    lambda a, b: a * b.detach(),
    lambda a, _: nn.functional.silu(a),
    lambda a, _: nn.functional.gelu(a, approximate="tanh"),
    lambda a, _: nn.functional.gelu(a),
    lambda a, b: a @ b,
    lambda a, b: nn.functional.linear(a.view(-1, 6), b.view(6, 6)).view(6, 6),
    lambda a, b: a.t().contiguous() + b,
    lambda a, b: nn.functional.linear(a, b.to(torch.bfloat16).float()),
    lambda a, _: a.t().to(torch.bfloat16).contiguous().float(),
    lambda a, b: a.to(torch.bfloat16).t().float().contiguous() * b,
    lambda a, _: a.double().float(),
    lambda a, b: (a.view(-1) * b.reshape(-1)).view(6, 6),
    lambda a, _: a * 0.5,
    lambda a, _: a.tanh(),
    lambda a, b: a.mul(b[:1]),
]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 99), st.integers(0, 99)),
        min_size=1,
        max_size=14,
    ),
    st.booleans(),
)
def test_any_graph_has_the_same_gradients(
    program: list[tuple[Callable[[Tensor, Tensor], Tensor], int, int]], autocast: bool
) -> None:
    def run(wanted: bool) -> list[Tensor]:
        torch.manual_seed(0)
        leaves = [torch.randn(6, 6, requires_grad=True) for _ in range(3)]
        made = list(leaves)
        # Its cache would add up in bf16 what a leaf that is read twice gets.
        narrow = torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False)
        with narrow, save_fewer_tensors(wanted):
            for operation, a, b in program:
                made.append(operation(made[a % len(made)], made[b % len(made)]).tanh())
        total = torch.stack([each.float().sum() for each in made]).sum()
        return list(torch.autograd.grad(total, leaves))

    pairs = zip(run(False), run(True), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
