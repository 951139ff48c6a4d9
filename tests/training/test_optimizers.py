"""Who updates what."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from regrow.architectures.t5 import T5
from regrow.common.errors import UserError
from regrow.models.loading import load_model
from regrow.training.optimizers import make_optimizers
from regrow.training.settings import RecoverySettings
from tests.tiny import write_seq2seq
from tests.training.small import FAMILIES, small_model

SETTINGS = RecoverySettings(optimizer="muon", weight_decay=0.3, learning_rate=0.02)


def shares(model: Any) -> tuple[set[str], set[str], set[str]]:
    """Names that Muon has, that AdamW decays, and that AdamW has without decay."""
    muon, adamw = make_optimizers(model, SETTINGS)
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [*muon.param_groups, *adamw.param_groups]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.3, 0.0]
    found = [[names[id(p)] for p in group["params"]] for group in groups]
    assert sorted(itertools.chain.from_iterable(found)) == sorted(names.values())
    return set(found[0]), set(found[1]), set(found[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_muon_has_the_matrices_of_the_layers(family: str) -> None:
    model = small_model(family)
    matrices, tables, vectors = shares(model)
    assert all(".layers." in name for name in matrices)
    assert not any(".layers." in name for name in tables)
    assert any("embed" in name for name in tables)
    assert {p.ndim for name, p in model.named_parameters() if name in vectors} == {1}


def test_a_table_of_positions_in_a_layer_is_no_matrix(tmp_path: Path) -> None:
    matrices, tables, _ = shares(load_model(write_seq2seq(tmp_path / "m", T5)))
    assert any(name.endswith("relative_attention_bias.weight") for name in tables)
    assert any(name.endswith("EncDecAttention.q.weight") for name in matrices)


def test_muon_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match="Linear: no layer with matrices for the optimizer muon"):
        make_optimizers(torch.nn.Linear(2, 2), SETTINGS)
