"""Prove a blueprint on a tiny model, made and carved as a user's model is.

Bind, cut, carve to files, load with plain transformers. `regrow.cuts.claims` says what is compared.
"""

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from regrow.architectures import Blueprint
from regrow.architectures.assembled import taken_apart
from regrow.architectures.schema import read_field
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from regrow.cuts.claims import Finding, ProofError, check_claims, in_float64, random_values
from regrow.cuts.cut import Cut
from regrow.models.networks import config_class, model_class
from regrow.surgery.carve import carve
from regrow.surgery.result_files import plan_checked_carve


def prove(blueprint: Blueprint, tiny: Mapping[str, Any], seed: int = 0) -> tuple[Finding, ...]:
    """Prove a blueprint on a model of the config `tiny`; returns all comparisons.

    Raises ProofError at the first claim that does not hold.
    """
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name, in_float64():
        directory = Path(name)
        source = directory / "uncut"
        _write_random_model(blueprint, tiny, source, random)
        checkpoint = open_checkpoint(source)
        try:
            layout = bind_checkpoint(checkpoint, blueprint)
        except UserError as error:
            raise ProofError(f"bind: {error}") from None
        if problem := layout.size_problem({}):
            raise ProofError(f"bind: {problem}")

        def carved(cut: Cut) -> Any:
            out = Path(tempfile.mkdtemp(dir=directory)) / "carved"
            try:
                plan = plan_checked_carve(checkpoint, layout, cut)
                check_on_meta(plan.config, blueprint, plan.shapes)
                carve(plan, out)
            except UserError as error:
                raise ProofError(f"{cut.words()}: {error}") from None
            return _load(blueprint, out)

        model = _load(blueprint, source)
        return check_claims(model, layout, checkpoint.fingerprint, carved, random)


def _write_random_model(
    blueprint: Blueprint, tiny: Mapping[str, Any], out: Path, random: np.random.Generator
) -> None:
    """Write a random model of this config in float64, without a head that the config ties."""
    values = {k: v for k, v in copy.deepcopy(dict(tiny)).items() if k != "model_type"}
    config = config_class(tiny["model_type"]).from_dict(values)
    model = model_class(blueprint.architectures[0])(config)
    head = blueprint.head
    state: dict[str, Tensor] = {
        name: random_values(tuple(tensor.shape), random)
        for name, tensor in model.state_dict().items()
    }
    for alias in head.aliases:
        state.pop(alias, None)
    if read_field(tiny, "tie_word_embeddings") is not False:
        state.pop(head.weight, None)
    state = {name: each.contiguous() for name, each in taken_apart(blueprint, state).items()}
    out.mkdir()
    save_file(state, str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps({**tiny, "dtype": "float64"}), encoding="utf-8")


def _load(blueprint: Blueprint, directory: Path) -> Any:
    cls = model_class(blueprint.architectures[0])
    model, info = cls.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="eager",
        experts_implementation="eager", output_loading_info=True,
    )  # fmt: skip
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise ProofError(f"{directory.name}: {kind}: {sorted(info[kind])[0]}")
    return model.eval()
