"""Which type is taken where."""

from types import MappingProxyType

import pytest
import torch

from regrow.common.precision import autocast, resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False}, "fp32"),
        ({"avx2": True, "avx512_f": True}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({"neon": True}, "fp32"),
    ],
)
def test_auto_takes_bf16_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(instructions))
    assert resolve_precision("auto", CPU) == expected


def test_what_is_asked_for_is_taken() -> None:
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("fp32", CPU) == "fp32"


def test_products_have_the_type() -> None:
    left, right = torch.ones(2, 3), torch.ones(3, 2)
    with autocast("bf16", CPU):
        assert (left @ right).dtype == torch.bfloat16
    with autocast("fp32", CPU):
        assert (left @ right).dtype == torch.float32


def test_without_a_cache_a_changed_weight_counts() -> None:
    """As in a refit; a narrow copy would stay as it was."""
    weight = torch.ones(3, 2, requires_grad=True)
    with torch.no_grad(), autocast("bf16", CPU, cache=False):
        before = torch.ones(2, 3) @ weight
        weight.mul_(2)
        assert (torch.ones(2, 3) @ weight == 2 * before).all()
    with autocast("bf16", CPU):
        assert torch.is_autocast_cache_enabled()
