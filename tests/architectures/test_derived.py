"""Labels that follow from how tensors grow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.architectures.derived import NotDerivedError, candidates, orders_of, patterns_of
from regrow.architectures.dims import parse_dims

SIZES = {"vocab": 61, "hidden": 48, "ffn": 20, "head": 8, "kv_head": 4, "head_dim": 6}
LABELS = (
    "vocab", "hidden", "hidden + hidden", "ffn", "ffn + ffn", "ffn*2", "head", "head*9",
    "head*head_dim", "head*2*head_dim", "head*3*head_dim",
    "head*head_dim + head*head_dim + head*head_dim",
    "kv_head*head_dim", "kv_head*2*head_dim",
    "head*head_dim + kv_head*head_dim + kv_head*head_dim", "7",
)  # fmt: skip


def grown(label: str) -> dict[str, tuple[int, ...]]:
    """By axis, the shape of a tensor with this label where the axis is twice as large."""
    dims = parse_dims(label)
    axes = [axis for axis in SIZES if axis != "head_dim"]
    return {axis: dims.shape({**SIZES, axis: 2 * SIZES[axis]}) for axis in axes}


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=3))
def test_the_true_order_is_among_those_that_are_tried(labels: list[str]) -> None:
    label = ", ".join(labels)
    orders = orders_of(parse_dims(label).shape(SIZES), grown(label), SIZES)
    assert len(orders) == len(labels)
    for each, found in zip(labels, orders, strict=True):
        assert each in found
        # All that are tried give the shape that was seen.
        assert {parse_dims(other).shape(SIZES) for other in found} == {
            parse_dims(each).shape(SIZES)
        }


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("hidden + 1", r"shape \[49\]: 49 follows hidden"),
        ("vocab + 1", r"shape \[62\]: 62 follows vocab"),
        ("head*hidden", r"shape \[384\]: 384 follows hidden, head"),
        ("kv_head*head_dim + 5", r"shape \[29\]: 29 follows kv_head"),
    ],
)
def test_other_growth_is_refused(label: str, message: str) -> None:
    with pytest.raises(NotDerivedError, match=message):
        orders_of(parse_dims(label).shape(SIZES), grown(label), SIZES)


def test_tensors_with_the_same_choice_have_the_same_order() -> None:
    fused = [("ffn + ffn", "ffn*2")]
    found = list(candidates({"weight": [*fused, ("hidden",)], "bias": fused}))
    assert found == [
        {"weight": "ffn + ffn, hidden", "bias": "ffn + ffn"},
        {"weight": "ffn*2, hidden", "bias": "ffn*2"},
    ]


def test_layers_are_numbered_in_names() -> None:
    names = ["embed.weight", *(f"blocks.{i}.mlp.2.weight" for i in range(3)), "norm.weight"]
    fewer = [name for name in names if "blocks.2" not in name]
    assert patterns_of(names, fewer, 3) == {
        "embed.weight": ["embed.weight"],
        "blocks.{layer}.mlp.2.weight": [f"blocks.{i}.mlp.2.weight" for i in range(3)],
        "norm.weight": ["norm.weight"],
    }
    with pytest.raises(NotDerivedError, match="no tensor names that number the layers"):
        patterns_of(names, names, 3)
    with pytest.raises(NotDerivedError, match=r"blocks\.0\.mlp\.2\.weight: not all layers have"):
        patterns_of([name for name in names if "blocks.1" not in name], fewer, 3)
