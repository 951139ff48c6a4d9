"""Every objective by its name: what it needs is said before, and a model learns it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.corpus.conversations import Turn, as_document
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.registry import (
    OBJECTIVES,
    TrainingData,
    check_objective,
    loss_and_rows,
    minimum_tokens,
    missing_tokens,
    objective_name,
    objective_names,
    widest_row,
)
from regrow.surgery.extend import ensure_tokens
from regrow.training.settings import RecoverySettings
from tests.tiny import sentences, write_model, write_seq2seq
from tests.training.small import train_on

torch.set_num_threads(1)
ROW = 48
TEXTS = sentences(30)
TALKS = [
    as_document((Turn("user", text[:20]), Turn("assistant", text[4:20]))) for text in sentences(30)
]
EACH = [
    (name, is_encoder_decoder)
    for is_encoder_decoder in (False, True)
    for name in objective_names(is_encoder_decoder=is_encoder_decoder)
]


def opened(home: Path, is_encoder_decoder: bool, name: str | None = None) -> tuple[Any, Any]:
    """With the tokens that the objective wants."""
    directory = write_seq2seq(home / "m", OPENBA) if is_encoder_decoder else write_model(home / "m")
    wanted = () if name is None else missing_tokens(name, load_tokenizer(directory))
    model = ensure_tokens(ModelDirectory(directory), wanted, home, lambda _: None)
    return model.load(), model.tokenizer


@pytest.mark.parametrize(("name", "is_encoder_decoder"), EACH)
def test_a_model_learns_it(tmp_path: Path, name: str, is_encoder_decoder: bool) -> None:
    model, tokenizer = opened(tmp_path, is_encoder_decoder, name)
    check_objective(name, tokenizer, model.config, ROW)
    assert 1 <= minimum_tokens(name, tokenizer, model.config, ROW) <= ROW
    texts = TALKS if OBJECTIVES[name].reads_conversations else TEXTS
    loss, samples = loss_and_rows(name, TrainingData(texts, tokenizer, model.config, ROW, 0))
    assert samples.row_length == ROW
    lengths = samples.lengths(np.arange(len(samples)))
    assert 1 <= lengths.min() <= lengths.max() <= ROW
    settings = RecoverySettings.model_validate(
        {
            "objective": name, "tokens": 3_000, "row_length": ROW, "batch_tokens": 4 * ROW,
            "learning_rate": 0.01, "precision": "fp32",
        }
    )  # fmt: skip
    result = train_on(model, samples, loss, settings, seed=0, directory=tmp_path / "t")
    losses = [value for _, value in result.curve]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.3


@pytest.mark.parametrize(("name", "is_encoder_decoder"), EACH)
def test_no_row_is_wider_than_is_said_before(
    tmp_path: Path, name: str, is_encoder_decoder: bool
) -> None:
    model, tokenizer = opened(tmp_path, is_encoder_decoder, name)
    texts = TALKS if OBJECTIVES[name].reads_conversations else [" ".join(TEXTS)]
    _, samples = loss_and_rows(name, TrainingData(texts, tokenizer, model.config, ROW, 0))
    numbers = np.arange(200)
    batch = samples.batch(numbers % len(samples), numbers)
    widest = max(array.shape[1] for array in batch.values())
    assert widest <= widest_row(name, tokenizer, model.config, ROW)
    if name in ("span-corruption", "ul2"):
        longest = int(samples.lengths(np.arange(len(samples))).max())
        assert widest == widest_row(name, tokenizer, model.config, longest)


@pytest.mark.parametrize("is_encoder_decoder", [False, True])
def test_without_a_name_it_is_the_kinds_own(tmp_path: Path, is_encoder_decoder: bool) -> None:
    model, tokenizer = opened(tmp_path, is_encoder_decoder)
    own = objective_name(None, is_encoder_decoder=is_encoder_decoder)
    assert own == ("span-corruption" if is_encoder_decoder else "causal")
    data = TrainingData(TEXTS, tokenizer, model.config, ROW, 0)
    made = [loss_and_rows(name, data)[1].identity for name in (None, own)]
    assert made[0] == made[1]


def test_a_recipe_is_read_and_its_cost_computed_without_pytorch() -> None:
    code = (
        "import sys\n"
        "import regrow.training.settings\n"
        "from regrow.objectives.registry import OBJECTIVES\n"
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules))\n"
        "import regrow.pipeline.recipe, regrow.training.cost\n"
        "shapes = [each.mean_sample(512) for each in OBJECTIVES.values()]\n"
        "print({'torch', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\nset()\n"


def test_names_are_those_that_settings_take() -> None:
    for name in OBJECTIVES:
        assert RecoverySettings.model_validate({"objective": name}).objective == name
    names = ", ".join(f"'{name}'" for name in [*OBJECTIVES][:-1])
    with pytest.raises(ValidationError, match=f"{names} or '{[*OBJECTIVES][-1]}'"):
        RecoverySettings.model_validate({"objective": "mlm"})


@pytest.mark.parametrize(
    ("name", "is_encoder_decoder", "message"),
    [
        ("causal", True, "causal is not for an encoder-decoder; give one of span-corruption, ul2"),
    ],
)
def test_what_a_kind_cannot_learn(name: str, is_encoder_decoder: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective_name(name, is_encoder_decoder=is_encoder_decoder)


def test_a_text_of_the_least_length_does_and_a_shorter_one_does_not(tmp_path: Path) -> None:
    write_seq2seq(tmp_path / "m", T5)
    model, tokenizer = load_model(tmp_path / "m"), load_tokenizer(tmp_path / "m")
    least = minimum_tokens("o-ul2", tokenizer, model.config, ROW)
    text = tokenizer.decode(tokenizer(" ".join(TEXTS))["input_ids"][: least - 1])
    assert len(tokenizer(text)["input_ids"]) == least - 1
    _, samples = loss_and_rows("o-ul2", TrainingData([text], tokenizer, model.config, ROW, 0))
    batch = samples.batch(np.arange(1), np.arange(1))
    assert batch["input_ids"].size + batch["labels"].size >= least
    shorter = tokenizer.decode(tokenizer(text)["input_ids"][:-1])
    with pytest.raises(UserError, match=f"{least - 1} tokens, less than one row of {least}"):
        loss_and_rows("o-ul2", TrainingData([shorter], tokenizer, model.config, ROW, 0))


@pytest.mark.parametrize(("name", "longest"), [("span-corruption", 169), ("ul2", 50)])
def test_rows_that_need_more_sentinels_are_refused(tmp_path: Path, name: str, longest: int) -> None:
    model, tokenizer = opened(tmp_path, True)
    check_objective(name, tokenizer, model.config, longest)
    with pytest.raises(UserError, match=f"8 sentinels; give rows of at most {longest} tokens"):
        check_objective(name, tokenizer, model.config, longest + 1)
