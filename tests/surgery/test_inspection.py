"""What `inspect` says of the sizes that a model can be cut to."""

from pathlib import Path

import pytest

from regrow.architectures.llama import LLAMA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.surgery.inspection import inspect_model
from tests.tiny import write_tiny


@pytest.mark.parametrize(
    ("hidden", "heads", "kv_heads", "said"),
    [
        (24, 6, 3, "multiples of 3, or whole groups"),
        (512, 8, 2, "4, 2"),  # 6 heads, a multiple of 2, do not divide 512
        (16, 16, 16, "8, 4, 2, 1"),
        (840, 14, 14, "12, 10, 8, 7, 6, 5 …"),
        (22, 22, 2, "11, 2"),
        (7, 7, 7, "1"),
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
