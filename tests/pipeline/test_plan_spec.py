"""The budget of a plan: a number, or a share of what the model has."""

from typing import Any

import pytest
from pydantic import ValidationError

from regrow.pipeline.plan_spec import PlanSpec


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"params": "67M"}, 67_000_000), ({"params": 5}, 5), ({"params": "1"}, 1),
        ({"params": "50%"}, 0.5), ({"params": "0.5"}, 0.5), ({"params": 0.5}, 0.5),
        ({"bytes": "1.2GB"}, 1_200_000_000), ({"bytes": "70 %"}, 0.7), ({"bytes": 10**6}, 10**6),
    ],
)  # fmt: skip
def test_a_budget_is_a_number_or_a_share(given: dict[str, Any], read: float) -> None:
    spec = PlanSpec(**given)
    assert (spec.params if spec.bytes is None else spec.bytes) == read


@pytest.mark.parametrize("params", ["100%", "150%", 1.0, 1.5, "0%", 0, "-3", "half", True])
def test_another_budget_is_refused(params: Any) -> None:
    with pytest.raises(ValidationError):
        PlanSpec(params=params)
