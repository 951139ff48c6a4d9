"""How many places a model has learned a position for."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from regrow.architectures.t5gemma import T5GEMMA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.corpus.packing import pack
from regrow.evaluation.heldout_text import HeldoutText
from regrow.models.loading import load_model
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.head import check_positions, learned_positions
from regrow.training.recovery import RecoveryData, recover
from regrow.training.settings import RecoverySettings
from tests.tiny import add_tokenizer, sentences, write_text, write_tiny
from tests.training.small import VOCAB, byte_tokenizer, small_model, train_on

STACKS = ("encoder", "decoder")

SIZES: dict[str, Any] = {
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 24},
    "opt": {
        "hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 24,
    },
    "bart": {
        "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
        "max_position_embeddings": 24,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SIZES)
def test_a_table_of_positions_bounds_rows(kind: str) -> None:
    config = transformers.CONFIG_MAPPING[kind](vocab_size=40, **SIZES[kind])
    auto = (
        transformers.AutoModelForSeq2SeqLM if kind == "bart" else transformers.AutoModelForCausalLM
    )
    model = auto.from_config(config)
    assert learned_positions(model) == 24
    check_positions(model, 24)
    with pytest.raises(UserError, match=r"row_length 25: .* knows 24 positions; give at most"):
        check_positions(model, 25)


def test_a_training_asks_first(tmp_path: Path) -> None:
    config = transformers.CONFIG_MAPPING["gpt2"](vocab_size=VOCAB, **SIZES["gpt2"])
    model = transformers.AutoModelForCausalLM.from_config(config)
    samples = pack(["so it goes on and on"] * 9, byte_tokenizer(), 25)
    settings = RecoverySettings(tokens=100, row_length=25, batch_tokens=50, precision="fp32")
    with pytest.raises(UserError, match=r"row_length 25: GPT2LMHeadModel knows 24"):
        train_on(model, samples, Causal(), settings, seed=0, directory=tmp_path / "t")


@pytest.mark.parametrize(
    ("objective", "widest", "longest"),
    [("span-corruption", 105, 85), ("ul2", 127, 69), ("o-ul2", 95, 91)],
)
def test_a_row_also_holds_what_stands_between_its_parts(
    tmp_path: Path, objective: str, widest: int, longest: int
) -> None:
    """Start token and sentinels; with the row length that the error gives, a model is trained."""
    sizes = {**SIZES["gpt2"], "n_positions": 94}
    config = transformers.CONFIG_MAPPING["gpt2"](vocab_size=340, **sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    source = ModelDirectory(add_tokenizer(tmp_path / "m", sentinels=20))
    heldout = HeldoutText(write_text(tmp_path / "heldout.jsonl", sentences(2)))
    data = RecoveryData(sentences(40), {"heldout": heldout}, {"heldout": ""}, {})

    def train(length: int) -> None:
        settings = RecoverySettings(
            objective=objective, tokens=300, row_length=length, batch_tokens=length,
            precision="fp32",
        )  # fmt: skip
        recover(source, tmp_path / str(length), settings, data, seed=0)

    message = (
        rf"row_length 94: GPT2LMHeadModel knows 94 positions, and a row has up to {widest} "
        rf"with its special tokens; give at most {longest}$"
    )
    with pytest.raises(UserError, match=message):
        train(94)
    train(longest)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_angles_do_not(family: str) -> None:
    model = small_model(family)
    assert learned_positions(model) is None
    check_positions(model, 10 * model.config.max_position_embeddings)


def test_tokens_of_a_stack_are_no_positions(tmp_path: Path) -> None:
    """T5Gemma's stacks have a table each, here with a row for each of as many tokens."""
    sizes: dict[str, Any] = {
        name: {**T5GEMMA.tiny[0][name], "max_position_embeddings": 61} for name in STACKS
    }
    model = load_model(write_tiny(T5GEMMA, tmp_path / "m", **sizes))
    assert model.get_input_embeddings().num_embeddings == 61
    assert learned_positions(model) is None
