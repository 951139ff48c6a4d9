"""What is particular to Granite: multipliers that stay, and a head that is scaled."""

from pathlib import Path

import pytest
import torch

from regrow.architectures import blueprint_for
from regrow.architectures.granite import GRANITE
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.corpus.packing import pack
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.head import head_of
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint
from regrow.training.settings import RecoverySettings
from tests.tiny import add_tokenizer, sentences, tiny_layout, write_tiny
from tests.training.small import train_on

MULTIPLIERS = (
    "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling",
)  # fmt: skip


def test_found_by_its_config() -> None:
    assert blueprint_for({"model_type": "granite", "architectures": ["GraniteForCausalLM"]}) is (
        GRANITE
    )


def test_hidden_need_not_be_a_multiple_of_heads() -> None:
    tiny_layout(GRANITE).check_sizes({"hidden": 23, "head": 3})


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    "sizes", [{"hidden": 17}, {"ffn": 7, "heads": 3}, {"layers": 2, "hidden": 20, "ffn": 11}]
)
def test_trained_after_a_cut(number: int, sizes: dict[str, int], tmp_path: Path) -> None:
    if number == 1 and "hidden" in sizes:
        sizes = {**sizes, "heads": 3}
    source = write_tiny(GRANITE, tmp_path / "m", number, vocab_size=320, pad_token_id=0)
    add_tokenizer(source)
    prune_checkpoint(ModelDirectory(source), tmp_path / "cut", CutSpec(by="random", **sizes))
    model = load_model(tmp_path / "cut")
    before = GRANITE.tiny[number]
    assert {name: getattr(model.config, name) for name in MULTIPLIERS} == {
        name: before[name] for name in MULTIPLIERS
    }
    assert head_of(model).scale == pytest.approx(1 / 2.5)

    ids = torch.arange(3, 30)[None]
    ours, _ = Causal()(model, {
        "input_ids": ids, "labels": torch.roll(ids, -1), "position_ids": torch.arange(27)[None],
    })  # fmt: skip
    logits = model(input_ids=ids).logits[0].double()
    plain = torch.nn.functional.cross_entropy(logits, torch.roll(ids, -1)[0], reduction="sum")
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)

    settings = RecoverySettings(tokens=8_192, row_length=64, batch_tokens=512, learning_rate=1e-2)
    samples = pack(sentences(100), load_tokenizer(source), settings.row_length)
    losses: list[float] = []
    train_on(
        model, samples, Causal(), settings, seed=0, directory=tmp_path / "training",
        on_step=lambda step: losses.append(step.loss),
    )  # fmt: skip
    assert losses[-1] < losses[0] - 0.1
