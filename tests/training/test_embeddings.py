"""Token embeddings and head that learn more slowly than the rest, or not at all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from regrow.architectures import BLUEPRINTS, Blueprint
from regrow.architectures.bart import BART
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.common.errors import UserError
from regrow.corpus.packing import pack
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.span_corruption import corrupt_text
from regrow.training.embeddings import embedding_parameters, freeze_embeddings
from regrow.training.optimizers import make_optimizers, set_learning_rate
from regrow.training.settings import RecoverySettings
from regrow.training.task import StepReport, TrainingResult
from tests.tiny import sentences, write_seq2seq, write_tiny
from tests.training.small import FAMILIES, byte_tokenizer, small_model, train_on

SETTINGS = RecoverySettings(
    tokens=640, row_length=32, batch_tokens=64, learning_rate=0.02, embedding_rate=0,
    precision="fp32", save_every=0,
)  # fmt: skip
SEQ2SEQ = {blueprint.model_type: blueprint for blueprint in (T5, BART, OPENBA)}


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all parameters; a tied one has two names."""
    named = model.named_parameters(remove_duplicate=False)
    return {name: parameter.detach().clone() for name, parameter in named}


def tables(model: Any) -> set[str]:
    """Names of the parameters with one row a token."""
    tokens = model.get_input_embeddings().num_embeddings
    return {name for name, each in weights(model).items() if len(each) == tokens}


def names(model: Any, parameters: list[torch.nn.Parameter]) -> set[str]:
    found = {id(parameter) for parameter in parameters}
    named = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if id(parameter) in found}


def unchanged(model: Any, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, each in weights(model).items() if torch.equal(each, before[name])}


def trained(model: Any, directory: Path, **options: Any) -> TrainingResult:
    samples = pack(sentences(40), byte_tokenizer(), 32)
    return train_on(model, samples, Causal(), directory=directory, **options)


@pytest.mark.parametrize(
    ("blueprint", "number"),
    [(blueprint, number) for blueprint in BLUEPRINTS for number in range(len(blueprint.tiny))],
    ids=lambda value: value.model_type if isinstance(value, Blueprint) else str(value),
)
def test_the_tables_of_the_tokens_are_found(
    tmp_path: Path, blueprint: Blueprint, number: int
) -> None:
    model = load_model(write_tiny(blueprint, tmp_path / "m", number))
    assert names(model, embedding_parameters(model)) == tables(model) != set()


def test_each_stack_may_have_a_table(tmp_path: Path) -> None:
    model = load_model(write_tiny(T5GEMMA, tmp_path / "m", tie_word_embeddings=False))
    assert len(embedding_parameters(model)) == 3
    assert names(model, embedding_parameters(model)) == tables(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_a_rate_of_0_all_but_embeddings_and_head_learn(tmp_path: Path, family: str) -> None:
    model, before = small_model(family), weights(small_model(family))
    curve = trained(model, tmp_path, settings=SETTINGS).curve
    assert curve[-1][1] < curve[0][1]
    assert unchanged(model, before) == tables(model)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_an_encoder_decoder_learns_beside_them_too(tmp_path: Path, family: str) -> None:
    path = write_seq2seq(tmp_path / "model", SEQ2SEQ[family])
    model, tokenizer = load_model(path), load_tokenizer(path)
    before = weights(model)
    assert names(model, embedding_parameters(model)) == tables(model)
    samples = corrupt_text(sentences(40), tokenizer, model.config, 32, seed=0)
    train_on(model, samples, Seq2Seq(), SETTINGS, directory=tmp_path / "training")
    assert unchanged(model, before) == tables(model)


def test_a_stopped_training_ends_in_the_same_bits(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise StopError

    whole, stopped, again = (small_model("phi3") for _ in range(3))
    trained(whole, tmp_path / "whole", settings=SETTINGS)
    with pytest.raises(StopError):
        trained(stopped, tmp_path / "stopped", settings=SETTINGS, on_step=stop)
    (checkpoint,) = (tmp_path / "stopped").glob("step-00000003/model.safetensors")
    with safe_open(checkpoint, "pt") as saved:
        assert set(saved.keys()) == weights(whole).keys() - tables(whole)
    faster = SETTINGS.model_copy(update={"embedding_rate": 1.0})
    with pytest.raises(UserError, match=r"embedding_rate was 0.0, now its default"):
        trained(small_model("phi3"), tmp_path / "stopped", settings=faster)
    assert trained(again, tmp_path / "stopped", settings=SETTINGS).resumed_at == 3
    assert unchanged(again, weights(whole)) == weights(whole).keys()


def test_the_rate_of_embeddings_is_a_fraction_of_the_others() -> None:
    model = small_model("olmo2")
    settings = RecoverySettings(optimizer="muon", embedding_rate=0.25)
    optimizers = make_optimizers(model, settings)
    assert {group["lr"] for group in optimizers[-1].param_groups} == {3e-4, 3e-4 * 0.25}
    set_learning_rate(optimizers, 0.5)
    groups = [group for each in optimizers for group in each.param_groups]
    slow = [group for group in groups if group["lr"] == 0.125]
    assert {group["lr"] for group in groups} == {0.5, 0.125}
    assert names(model, [p for group in slow for p in group["params"]]) == tables(model)


def test_nothing_is_left_for_adamw_without_norms() -> None:
    model = small_model("olmo")
    settings = RecoverySettings(optimizer="muon", embedding_rate=0)
    freeze_embeddings(model)
    (muon,) = make_optimizers(model, settings)
    assert isinstance(muon, torch.optim.Muon)


def test_a_slower_embedding_moves_less(tmp_path: Path) -> None:
    """The first step of Adam has the size of its rate, without decay and clipping."""
    moved = {}
    for fraction in (1.0, 0.25):
        model = small_model("llama")
        (table,) = embedding_parameters(model)
        before = table.detach().clone()
        settings = SETTINGS.model_copy(
            update={"tokens": 64, "weight_decay": 0.0, "embedding_rate": fraction}
        )
        trained(model, tmp_path / str(fraction), settings=settings)
        moved[fraction] = (table.detach() - before).abs().max()
    assert float(moved[0.25] / moved[1.0]) == pytest.approx(0.25, rel=1e-3)


def test_lora_is_refused() -> None:
    with pytest.raises(ValueError, match="embedding_rate: lora trains no embeddings"):
        RecoverySettings.model_validate({"lora": {"rank": 2}, "embedding_rate": 0})
