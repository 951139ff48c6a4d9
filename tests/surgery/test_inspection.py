"""What `inspect` says of the sizes that a model can be cut to."""

from pathlib import Path

import pytest

from regrow.architectures.llama import LLAMA
from regrow.architectures.t5gemma import T5GEMMA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.surgery.inspection import inspect_model
from tests.tiny import write_tiny


@pytest.mark.parametrize(
    ("hidden", "heads", "kv_heads", "said"),
    [
        (24, 6, 3, "multiples of 3, or whole groups"),
        (512, 8, 2, "4, 2; with kv_head: 4"),  # 6 heads, a multiple of 2, do not divide 512
        (16, 16, 16, "with kv_head: 8, 4, 2, 1"),
        (840, 14, 14, "with kv_head: 12, 10, 8, 7, 6, 5 …"),
        (22, 22, 2, "2; with kv_head: 11"),
        (7, 7, 7, "with kv_head: 1"),
        (12, 4, 4, "any, with kv_head"),
    ],
)
def test_numbers_of_heads_that_are_accepted(
    hidden: int, heads: int, kv_heads: int, said: str, tmp_path: Path
) -> None:
    directory = write_tiny(
        LLAMA, tmp_path / "m", hidden_size=hidden, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=4,
    )  # fmt: skip
    axes = {axis.name: axis for axis in inspect_model(ModelDirectory(directory)).axes}
    assert axes["head"].sizes == said


def test_heads_that_share_a_field_change_together(tmp_path: Path) -> None:
    directory = write_tiny(T5GEMMA, tmp_path / "m")
    axes = {axis.name: axis for axis in inspect_model(ModelDirectory(directory)).axes}
    for name in ("decoder.head", "decoder.cross_head"):
        assert axes[name].sizes == "with decoder.kv_head: 2, 1"
