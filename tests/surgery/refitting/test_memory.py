"""How many tokens a refit reads at once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from regrow.architectures import Blueprint
from regrow.architectures.llama import LLAMA
from regrow.architectures.t5 import T5
from regrow.architectures.umt5 import UMT5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.scoring.batches import without_loss
from regrow.scoring.calibration import ROW_LENGTH, Calibration
from regrow.scoring.observe import BATCH_TOKENS
from regrow.scoring.offload import BATCHES
from regrow.surgery.refitting.layer_calls import LayerModel
from regrow.surgery.refitting.layer_training import STEP_TOKENS, UNSEEN
from regrow.surgery.refitting.memory import batch_tokens_of, bytes_a_token
from tests.tiny import write_tiny

TOKENS = st.integers(4_096, 10**8)


def most_batches(passes: int) -> int:
    """That a pass has, if its steps are longer than usual: 256 steps in all passes, or 64 each."""
    return max(256 // passes, 64)


def batches(tokens: int, batch: int) -> int:
    """Of a text in whole rows."""
    rows = -(-tokens // ROW_LENGTH)
    return -(-rows // (batch // ROW_LENGTH))


@given(TOKENS, st.integers(1, 100))
def test_a_step_is_longer_only_where_there_would_be_many(tokens: int, passes: int) -> None:
    step = batch_tokens_of(tokens, passes)
    usual = min(STEP_TOKENS, tokens // UNSEEN)
    if step == usual:
        assert tokens <= most_batches(passes) * usual
    else:
        assert step % ROW_LENGTH == 0
        assert UNSEEN <= batches(tokens, step) <= most_batches(passes)
        assert tokens > most_batches(passes) * (step - ROW_LENGTH)


@given(TOKENS)
def test_without_a_training_there_are_few_batches(tokens: int) -> None:
    batch = batch_tokens_of(tokens, 0)
    assert batch % ROW_LENGTH == 0
    assert batches(tokens, batch) <= BATCHES
    assert batch == BATCH_TOKENS or tokens > BATCHES * (batch - ROW_LENGTH)


def test_more_passes_have_longer_steps_down_to_64_of_each() -> None:
    found = [batch_tokens_of(98_304, passes) for passes in (1, 2, 4, 8)]
    assert found == [1_024, 1_024, 1_536, 1_536]


def test_the_projection_behind_attention_counts_too(tmp_path: Path) -> None:
    """It may read more than the hidden size, as in Qwen3 of 4B parameters."""
    wide = write_tiny(
        LLAMA, tmp_path / "m", num_attention_heads=8, num_key_value_heads=2, head_dim=16
    )
    layout = ModelDirectory(wide).layout
    heads, others = layout.sizes["head"], max(layout.sizes["hidden"], layout.sizes["ffn"])
    assert heads * 16 > heads // 2 * 16 > others
    after = {"ffn": layout.sizes["ffn"]}  # so that the same matrices are solved for
    more = 4 * heads // 2 * 16
    assert bytes_a_token(layout, after) == more + bytes_a_token(
        layout.resized({"head": heads // 2}), after
    )


@pytest.mark.parametrize("blueprint", [T5, UMT5], ids=lambda each: each.model_type)
def test_position_biases_are_kept_for_the_whole_text(
    blueprint: Blueprint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many bytes are counted as the calls of the layers of both models hold, on long rows."""
    directory = write_tiny(blueprint, tmp_path / "m", num_heads=32, num_decoder_layers=3)
    model = ModelDirectory(directory)
    ids = np.random.default_rng(0).integers(3, model.layout.sizes["vocab"], size=4 * ROW_LENGTH)
    text = Calibration(tuple(ids.reshape(-1, ROW_LENGTH)))
    network = LayerModel(model, "fp32", offloaded=False)
    axes = model.layout.blueprint.axes
    stack = next(axis for axis in axes if axis.kind == "layer" and axis.stack == "decoder")
    for batch_tokens in (512, 1_024, 2_048):
        batches = list(without_loss(text, model.config, batch_tokens))
        calls, _ = network.calls(model.layout.modules(stack.sites), batches)
        held = {
            id(tensor): tensor.nbytes
            for layers in calls
            for call in layers
            for tensor in (*call.args, *call.kwargs.values())
            if isinstance(tensor, Tensor) and tensor.shape[1:] == (32, ROW_LENGTH, ROW_LENGTH)
        }
        counted = bytes_a_token(model.layout, {}, batch_tokens)
        with monkeypatch.context() as patch:
            patch.setattr("regrow.surgery.refitting.memory._BIASES", 0)
            counted -= bytes_a_token(model.layout, {}, batch_tokens)
        assert counted == 2 * sum(held.values()) / text.tokens
        assert (counted > 0) == (blueprint is not UMT5)
