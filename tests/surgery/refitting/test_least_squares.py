"""Least squares with a ridge that pulls towards the present weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.surgery.refitting.least_squares import HELD_BACK, RIDGES, LeastSquares

torch.set_num_threads(1)


@settings(max_examples=30)
@given(
    st.integers(1, 8), st.integers(1, 5), st.integers(8, 60), st.booleans(), st.integers(0, 10**6)
)
def test_the_error_never_grows(
    inputs: int, outputs: int, tokens: int, bias: bool, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    module = torch.nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    read = torch.randn(tokens, inputs, generator=random)
    missing = torch.randn(tokens, outputs, generator=random)
    before = module(read).clone()
    problem = LeastSquares(module)
    problem.add(read, missing)
    found = problem.solve()
    error = (module(read) - before - missing).double().square().sum()
    assert found.after <= found.before == pytest.approx(missing.double().square().sum().item())
    assert found.after == pytest.approx(error.item(), rel=1e-3, abs=1e-4)


def test_a_linear_map_is_found() -> None:
    random = torch.Generator().manual_seed(1)
    module = torch.nn.Linear(6, 4).requires_grad_(False)
    wanted = torch.nn.Linear(6, 4).requires_grad_(False)
    problem = LeastSquares(module)
    for _ in range(4):
        read = torch.randn(100, 6, generator=random)
        problem.add(read, wanted(read) - module(read))
    found = problem.solve()
    assert found.ridge is not None
    assert found.after < 1e-6 * found.before
    assert torch.allclose(module.weight, wanted.weight, atol=1e-4)
    assert torch.allclose(module.bias, wanted.bias, atol=1e-4)


@pytest.mark.parametrize("inputs", [6, 255, 257, 600])
def test_the_solution_is_that_of_all_pairs_of_inputs(inputs: int) -> None:
    """Beside the sums in one product, and another solver. Half of the pairs are never summed."""
    random = torch.Generator().manual_seed(3)
    module = torch.nn.Linear(inputs, 4).requires_grad_(False)
    weight, bias = module.weight.double(), module.bias.double()
    read = torch.randn(2 * inputs, inputs, generator=random)
    missing = read @ torch.randn(inputs, 4, generator=random) + torch.randn(
        2 * inputs, 4, generator=random
    )
    problem = LeastSquares(module)
    problem.add(read, missing)
    ridge = problem.solve().ridge
    assert ridge is not None
    wide = torch.cat([read, torch.ones(len(read), 1)], dim=1).double()
    gram = wide.T @ wide
    damping = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    change = torch.linalg.solve(gram + damping, wide.T @ missing.double())
    torch.testing.assert_close(module.weight, (weight + change[:-1].T).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(module.bias, (bias + change[-1]).float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("noise", "tokens"), [(0.0, 400), (0.3, 400), (3.0, 400), (10.0, 120)])
def test_the_ridge_is_the_best_in_float64_on_held_back_tokens(noise: float, tokens: int) -> None:
    """Beside the held-back error of each ridge, from the definition."""
    random = torch.Generator().manual_seed(4)
    module = torch.nn.Linear(24, 5, bias=False).requires_grad_(False)
    read = torch.randn(tokens, 24, generator=random) * torch.logspace(0, -2, 24)
    missing = read @ torch.randn(24, 5, generator=random)
    missing += noise * torch.randn(tokens, 5, generator=random)
    problem = LeastSquares(module)
    problem.add(read, missing)
    last = tokens - tokens // HELD_BACK
    inputs, wanted = read.double(), missing.double()
    gram, product = inputs[:last].T @ inputs[:last], inputs[:last].T @ wanted[:last]
    errors = {}
    for ridge in RIDGES:
        damping = ridge * gram.diagonal().mean() * torch.eye(24, dtype=torch.float64)
        change = torch.linalg.solve(gram + damping, product)
        errors[ridge] = float((inputs[last:] @ change - wanted[last:]).square().sum())
    chosen = problem.solve().ridge
    assert chosen == min(errors, key=errors.__getitem__)


def test_noise_changes_nothing() -> None:
    """What is missing has nothing to do with the inputs, so held-back tokens refuse the change."""
    random = torch.Generator().manual_seed(2)
    module = torch.nn.Linear(30, 1, bias=False).requires_grad_(False)
    before = module.weight.clone()
    problem = LeastSquares(module)
    read = torch.randn(80, 30, generator=random)
    missing = torch.randn(80, 1, generator=random)
    missing[70:] = -(read[70:] @ torch.linalg.lstsq(read[:70], missing[:70]).solution)
    problem.add(read, missing)
    found = problem.solve()
    assert found.ridge is None
    assert found.after == found.before
    assert torch.equal(module.weight, before)


def test_inputs_that_are_zero_change_nothing() -> None:
    module = torch.nn.Linear(3, 2, bias=False).requires_grad_(False)
    before = module.weight.clone()
    problem = LeastSquares(module)
    problem.add(torch.zeros(20, 3), torch.ones(20, 2))
    assert problem.solve().ridge is None
    assert torch.equal(module.weight, before)
