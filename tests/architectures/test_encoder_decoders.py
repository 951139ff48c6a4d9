"""What is particular to T5 and its kin, and to BART and mBART: which checkpoints are refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from regrow.architectures import Blueprint, bind
from regrow.architectures.bart import BART, MBART
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import MT5, T5
from regrow.architectures.umt5 import UMT5
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from regrow.cuts.cut import Cut
from regrow.models.networks import model_class
from regrow.surgery.carve import carve
from regrow.surgery.result_files import plan_output
from tests.surgery.carving import axis_cut
from tests.tiny import tiny_layout, tiny_shapes, write_tiny

# T5 and its kin


def test_flan_t5_is_among_the_configs_that_are_proved() -> None:
    """A gated ffn and a head of its own, in files of type t5."""
    layout = tiny_layout(T5, 0)
    assert not layout.tied
    assert list(layout.folds()) == []
    assert "decoder.block.0.layer.2.DenseReluDense.wi_1.weight" in layout.tensors
    assert "decoder.block.0.layer.2.DenseReluDense.wi.weight" not in layout.tensors


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("blueprint", "block"),
    [(T5, 0), (MT5, 0), (UMT5, 0), (UMT5, 2)],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_missing_position_bias_is_refused(blueprint: Blueprint, block: int, stack: str) -> None:
    shapes = tiny_shapes(blueprint, blueprint.tiny[0])
    name = f"{stack}.block.{block}.layer.0.SelfAttention.relative_attention_bias.weight"
    del shapes[name]
    with pytest.raises(UserError) as error:
        bind(blueprint, blueprint.tiny[0], shapes)
    kind = blueprint.model_type
    assert str(error.value) == f"{name}: missing, though {kind} with these sizes has it"


def test_position_bias_of_a_later_block_is_refused() -> None:
    """As where somebody dropped block 0, or wrote the bias of each block."""
    shapes = tiny_shapes(T5, T5.tiny[0])
    bias = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    shapes[bias.format(1)] = shapes.pop(bias.format(0))
    with pytest.raises(UserError, match=r"^encoder\.block\.1\.layer\.0\.SelfAttention\.relative"):
        bind(T5, T5.tiny[0], shapes)


def test_every_block_of_umt5_keeps_its_own_bias(tmp_path: Path) -> None:
    source = write_tiny(UMT5, tmp_path / "in")
    checkpoint = open_checkpoint(source)
    cut = Cut(checkpoint.fingerprint, {"encoder.layer": axis_cut(3, [1, 2])})
    carve(plan_output(ModelDirectory(checkpoint.directory), cut), tmp_path / "out")
    before = load_file(source / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    bias = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(after[bias.format(0)], before[bias.format(1)])
    assert torch.equal(after[bias.format(1)], before[bias.format(2)])


def _with_head(
    blueprint: Blueprint, out: Path, number: int, difference: float, **changes: Any
) -> Path:
    """A checkpoint that stores a head, its embedding but for one number."""
    source = write_tiny(blueprint, out, number)
    state = load_file(source / "model.safetensors")
    head = state[blueprint.head.embedding].clone()
    head[-1, -1] += difference
    save_file(
        {**state, blueprint.head.weight: head},
        source / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = {**json.loads((source / "config.json").read_text()), **changes}
    (source / "config.json").write_text(json.dumps(config))
    return source


TIED: dict[str, tuple[Blueprint, Mapping[str, Any]]] = {
    "t5 v1.0 as published": (T5, {}),
    "t5 v1.0 with the flag": (T5, {"tie_word_embeddings": True}),
    "t5 v1.0 as transformers 5 saves it": (
        T5,
        {"tie_word_embeddings": True, "scale_decoder_outputs": True},
    ),
    "umt5": (UMT5, {"tie_word_embeddings": True}),
    "openba": (OPENBA, {}),
    "bart": (BART, {"tie_word_embeddings": True}),
}


@pytest.mark.parametrize(("blueprint", "changes"), TIED.values(), ids=TIED.keys())
def test_head_that_differs_is_refused_where_the_config_ties_it(
    blueprint: Blueprint, changes: Mapping[str, Any], tmp_path: Path
) -> None:
    same = _with_head(blueprint, tmp_path / "same", 1, 0.0, **changes)
    assert bind_checkpoint(open_checkpoint(same)).tied
    differs = _with_head(blueprint, tmp_path / "differs", 1, 1e-3, **changes)
    with pytest.raises(UserError, match=r"lm_head\.weight differs from .*by config\.json it is"):
        bind_checkpoint(open_checkpoint(differs))


@pytest.mark.parametrize("blueprint", [T5, MT5, UMT5], ids=lambda b: b.model_type)
def test_head_of_its_own_as_transformers_saves_it(blueprint: Blueprint, tmp_path: Path) -> None:
    """Saved again, config.json says tied, whatever the head is."""
    model = model_class(blueprint.architectures[0])
    model.from_pretrained(write_tiny(blueprint, tmp_path / "in")).save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is True
    layout = bind_checkpoint(open_checkpoint(tmp_path / "out"))
    assert not layout.tied
    assert list(layout.folds()) == []


# BART and mBART


@pytest.mark.parametrize(
    ("blueprint", "changes"),
    [
        (BART, {"tie_word_embeddings": False}),
        (BART, {"scale_embedding": True}),
        (MBART, {"tie_word_embeddings": False}),
    ],
    ids=lambda value: getattr(value, "model_type", None) or next(iter(value)),
)
def test_what_is_not_described_is_refused(blueprint: Blueprint, changes: Mapping[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^config\.json: {next(iter(changes))}: ") as error:
        bind(blueprint, {**blueprint.tiny[0], **changes}, {})
    assert "\n" not in str(error.value)


def test_mbart_folds_only_where_it_scales() -> None:
    assert len(list(tiny_layout(MBART, 0).folds())) == 6
    assert list(tiny_layout(MBART, 1).folds()) == []


def test_all_names_of_the_table_follow_a_cut(tmp_path: Path) -> None:
    """With mBART's fold, in a file that stores the shared table under every name."""
    source = write_tiny(MBART, tmp_path / "in")
    state = load_file(source / "model.safetensors")
    table = state[MBART.head.embedding]
    names = (*MBART.head.aliases, MBART.head.weight)
    save_file(
        {**state, **{name: table.clone() for name in names}},
        source / "model.safetensors",
        metadata={"format": "pt"},
    )
    checkpoint = open_checkpoint(source)
    axes = {
        "hidden": axis_cut(24, range(6)),
        "encoder.head": axis_cut(8, [0, 1]),
        "decoder.head": axis_cut(4, [2]),
        "decoder.cross_head": axis_cut(4, [3]),
    }
    plan = plan_output(ModelDirectory(checkpoint.directory), Cut(checkpoint.fingerprint, axes))
    carve(plan, tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    for name in (MBART.head.embedding, *names):
        assert torch.equal(after[name], table[:, :6] * 2.0)  # (6 / 24)^-0.5


def test_older_count_of_layers_follows_the_encoder(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(BART, tmp_path / "in", 1))
    cut = Cut(checkpoint.fingerprint, {"encoder.layer": axis_cut(3, [0, 2])})
    config = plan_output(ModelDirectory(checkpoint.directory), cut).config
    assert (config["encoder_layers"], config["num_hidden_layers"]) == (2, 2)
    assert config["decoder_layers"] == 4


@pytest.mark.parametrize("blueprint", [BART, MBART], ids=lambda b: b.model_type)
def test_bias_of_the_logits_may_be_lacking(blueprint: Blueprint, tmp_path: Path) -> None:
    """The class fills it with zeros, before the cut and after."""
    source = write_tiny(blueprint, tmp_path / "in")
    state = load_file(source / "model.safetensors")
    del state["final_logits_bias"]
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(source)
    layout = bind_checkpoint(checkpoint)
    assert layout.parameters() == tiny_layout(blueprint).parameters()
    cut = Cut(checkpoint.fingerprint, {"vocab": axis_cut(61, [*range(20), *range(30, 61)])})
    carve(plan_output(ModelDirectory(checkpoint.directory), cut), tmp_path / "out")
    model, found = model_class(blueprint.architectures[0]).from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.final_logits_bias.shape == (1, 51)
    assert not model.final_logits_bias.any()
