"""Scores from text: what is dead scores lowest, in every family, however the text is batched."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regrow.architectures import BLUEPRINTS, Blueprint, Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import Checkpoint
from regrow.common.errors import UserError
from regrow.cuts.choose_indices import choose
from regrow.scoring.calibration import Calibration, CalibrationText
from regrow.scoring.observe import Seen, observe
from regrow.scoring.registry import DEFAULT, SCORES
from regrow.scoring.score import score, score_model
from tests.scoring.models import (
    BY_TYPE,
    default_statistics,
    kill,
    kill_layer,
    load,
    statistic,
    text,
)
from tests.tiny import tiny_layout
from tests.training.small import VOCAB as BYTES
from tests.training.small import byte_tokenizer

CASES = [
    pytest.param(blueprint, number, id=f"{blueprint.model_type}-{number}")
    for blueprint in BLUEPRINTS
    for number in range(len(blueprint.tiny))
]
LLAMA = BY_TYPE["llama"]
POST_NORM = ("bart",)
"""Families where a dead layer is no pass-through: its norms still act on what enters."""


@pytest.mark.parametrize(("blueprint", "number"), CASES)
def test_the_dead_score_lowest(blueprint: Blueprint, number: int, tmp_path: Path) -> None:
    for axis in blueprint.axes:
        if axis.kind in ("vocab", "kv_head"):
            continue
        if axis.kind == "layer" and blueprint.model_type in POST_NORM:
            continue
        model, layout, _ = load(blueprint, tmp_path / axis.name, number)
        group = 1
        if axis.kind == "layer":
            dead = layout.sizes[axis.name] - 2
            kill_layer(model, layout, axis.name, dead)
        elif axis.groups:
            # Heads write nothing when the values that they read are 0.
            group = layout.sizes[axis.name] // layout.sizes[axis.groups]
            dead = group
            kill(model, layout, {axis.groups: 1}, (str(axis.along), 1))
        else:
            dead = 3
            kill(model, layout, {axis.name: dead}, (axis.along, 1) if axis.along else None)
        scores = score_model(model, layout, [axis.name], calibration=text())[axis.name]
        row = scores[1] if axis.along else scores
        if axis.kind == "expert":  # a router chooses some experts for no token of so few
            assert row[dead] == pytest.approx(0, abs=1e-9)
            assert (np.delete(row, dead) > 1e-5).sum() >= 2
            continue
        lowest = np.sort(np.argsort(row, kind="stable")[:group])
        assert lowest.tolist() == list(range(dead, dead + group)), axis.name
        assert row[lowest] == pytest.approx(0, abs=1e-9)
        assert np.delete(row, lowest).min() > 1e-5
        if axis.along:
            assert np.delete(scores, 1, axis=0).min() > 1e-5


@pytest.mark.parametrize(("blueprint", "number"), CASES)
def test_shapes_fit_choose_and_batches_do_not_matter(
    blueprint: Blueprint, number: int, tmp_path: Path
) -> None:
    model, layout, _ = load(blueprint, tmp_path / "m", number)
    axes = [name for name in blueprint.axis_names if name != "vocab"]
    scores = score_model(model, layout, axes, calibration=text())
    assert scores.keys() == set(axes)
    for name, values in scores.items():
        along = blueprint.axis(name).along
        size = layout.sizes[name]
        assert values.shape == ((layout.sizes[along], size) if along else (size,))
        assert values.dtype == np.float64
    sizes = {
        a.name: layout.sizes[a.name] - a.multiple
        for a in blueprint.axes
        if a.kind in ("ffn", "layer")
    }
    assert choose(layout, "m", sizes, scores).sizes == sizes

    statistics = default_statistics(blueprint)
    together = observe(model, layout, statistics, text(), batch_tokens=10_000)
    apart = observe(model, layout, statistics, text(), batch_tokens=1)
    for name, values in together.items():
        np.testing.assert_allclose(apart[name], values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by", [None, "taylor", "wanda"])
def test_products_in_bfloat16_change_little(by: str | None, tmp_path: Path) -> None:
    """Text scores of the same model, with matrices multiplied in float32 and in bfloat16."""
    model, layout, _ = load(LLAMA, tmp_path / "m")
    found = [
        score_model(
            model, layout, ["ffn", "hidden", "head"], calibration=text(), by=by, precision=each
        )
        for each in ("fp32", "bf16")
    ]
    for name, wide in found[0].items():
        narrow = found[1][name]
        assert not (narrow == wide).all()
        assert np.linalg.norm(narrow - wide) < 0.05 * np.linalg.norm(wide)


def test_influence_is_one_minus_cosine_of_the_hidden_states(tmp_path: Path) -> None:
    model, layout, _ = load(LLAMA, tmp_path / "m")
    calibration = text((8, 8, 8))
    found = score_model(model, layout, ["layer"], calibration=calibration)["layer"]
    ids = torch.from_numpy(np.stack(calibration.pieces))
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    # The last of them has passed the final norm.
    for layer in range(layout.sizes["layer"] - 1):
        cosine = torch.cosine_similarity(states[layer], states[layer + 1], dim=-1)
        assert found[layer] == pytest.approx(1 - cosine.mean().item(), abs=1e-6)


def test_against_what_the_next_module_reads(tmp_path: Path) -> None:
    model, layout, _ = load(LLAMA, tmp_path / "m")
    seen: dict[str, torch.Tensor] = {}

    def read(name: str) -> None:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args: seen.__setitem__(name, args[0])
        )

    names = ("self_attn.o_proj", "mlp.down_proj", "self_attn.q_proj", "mlp.up_proj")
    for name in names:
        for layer in range(layout.sizes["layer"]):
            read(f"model.layers.{layer}.{name}")
    read("lm_head")
    calibration = text((8, 8, 8))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(np.stack(calibration.pieces)))
    expected = dict(seen)
    scores = score_model(model, layout, ["head", "ffn", "hidden"], calibration=calibration)
    streams = []
    for layer in range(layout.sizes["layer"]):
        added = []
        for head in range(layout.sizes["head"]):
            columns = slice(head * 10, head * 10 + 10)
            weight = model.model.layers[layer].self_attn.o_proj.weight[:, columns]
            written = expected[f"model.layers.{layer}.self_attn.o_proj"][..., columns] @ weight.T
            added.append(written.norm(dim=-1).mean().item())
        assert scores["head"][layer] == pytest.approx(added)
        ffn = expected[f"model.layers.{layer}.mlp.down_proj"].abs().mean((0, 1))
        assert scores["ffn"][layer] == pytest.approx(ffn.numpy())
        streams += [
            expected[f"model.layers.{layer}.{name}"] for name in ("self_attn.q_proj", "mlp.up_proj")
        ]
    streams.append(expected["lm_head"])
    hidden = sum(stream.abs().mean((0, 1)) for stream in streams)
    assert scores["hidden"] == pytest.approx(np.asarray(hidden))


def test_key_value_heads_score_the_mean_of_their_query_heads(tmp_path: Path) -> None:
    model, layout, checkpoint = load(LLAMA, tmp_path / "m")
    for scores in (
        score_model(model, layout, ["kv_head"], calibration=text()),
        score(ModelDirectory(checkpoint.directory), ["kv_head"], by="random"),
    ):
        groups = scores["head"].reshape(layout.sizes["layer"], layout.sizes["kv_head"], -1)
        assert (scores["kv_head"] == groups.mean(-1)).all()


def test_no_hook_stays(tmp_path: Path) -> None:
    model, layout, _ = load(LLAMA, tmp_path / "m")
    score_model(model, layout, ["hidden", "layer", "ffn", "head"], calibration=text())
    assert not any(module._forward_hooks for module in model.modules())


def test_not_finite(tmp_path: Path) -> None:
    model, layout, _ = load(LLAMA, tmp_path / "m")
    model.model.layers[2].mlp.up_proj.weight.data[4, 0] = float("inf")
    with pytest.raises(UserError, match="ffn: the activation is NaN or infinite at site 2 of 4"):
        score_model(model, layout, ["ffn"], calibration=text())


@pytest.mark.parametrize(
    ("axis", "by", "message"),
    [
        ("ffn", "influence", "by: influence scores layer, not ffn; give random or activation"),
        (
            "layer",
            "activation",
            "by: activation scores hidden, ffn, kv_head, head, expert, not layer; give ra",
        ),
        ("ffn", "gradient", "by 'gradient': no such score; those that are: random, activation"),
        ("vocab", None, "vocab: no score by default"),
        ("ffn", None, "ffn: scoring by activation needs a text"),
    ],
)
def test_what_does_not_go_together(axis: str, by: str | None, message: str, tmp_path: Path) -> None:
    _, _, checkpoint = load(LLAMA, tmp_path / "m")
    with pytest.raises(UserError, match=message) as caught:
        score(ModelDirectory(checkpoint.directory), [axis], by=by)
    assert "\n" not in str(caught.value)


def test_no_tokenizer_or_that_of_another_model(tmp_path: Path) -> None:
    _, _, checkpoint = load(LLAMA, tmp_path / "m")
    with pytest.raises(UserError, match="no tokenizer that transformers can load") as caught:
        score(
            ModelDirectory(checkpoint.directory),
            ["ffn"],
            text=CalibrationText(lambda: iter(["text" * 500])),
        )
    assert "\n" not in str(caught.value)
    broken = '{"version": "1.0", "added_tokens": [], "model": {"type": "nope"}}'
    (checkpoint.directory / "tokenizer.json").write_text(broken)
    with pytest.raises(UserError, match="no tokenizer that transformers can load"):
        score(
            ModelDirectory(checkpoint.directory),
            ["ffn"],
            text=CalibrationText(lambda: iter(["text" * 500])),
        )
    byte_tokenizer().save_pretrained(checkpoint.directory)
    with pytest.raises(UserError, match="gives the id 257, but the embedding has 61 rows"):
        score(
            ModelDirectory(checkpoint.directory),
            ["ffn"],
            text=CalibrationText(lambda: iter(["text" * 500])),
        )


def test_a_model_that_transformers_refuses(tmp_path: Path) -> None:
    _, _, checkpoint = load(LLAMA, tmp_path / "m", vocab_size=BYTES)
    byte_tokenizer().save_pretrained(checkpoint.directory)
    path = checkpoint.directory / "config.json"
    path.write_text(json.dumps({**checkpoint.config, "hidden_act": "nope"}))
    with pytest.raises(UserError, match=r"model that transformers cannot load .*nope") as caught:
        score(
            ModelDirectory(checkpoint.directory),
            ["ffn"],
            text=CalibrationText(lambda: iter(["text" * 500]), 200),
        )
    assert str(checkpoint.directory) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_how_the_text_is_batched_does_not_matter(family: str, tmp_path: Path) -> None:
    model, layout, _ = load(BY_TYPE[family], tmp_path / "m")
    names = [axis.name for axis in BY_TYPE[family].axes if axis.kind == "ffn"]
    statistics = dict.fromkeys(names, statistic("activation", "ffn"))

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 80))
    def check(lengths: list[int], batch_tokens: int) -> None:
        calibration = text(lengths)
        alone = [
            observe(model, layout, statistics, Calibration((piece,)))
            for piece in calibration.pieces
        ]
        together = observe(model, layout, statistics, calibration, batch_tokens=batch_tokens)
        weights = [len(piece) for piece in calibration.pieces]
        for name in names:
            expected = np.average([found[name] for found in alone], axis=0, weights=weights)
            np.testing.assert_allclose(together[name], expected, rtol=1e-4, atol=1e-6)

    check()


def test_every_kind_has_a_default_that_can_score_it() -> None:
    assert all(kind in SCORES[name].kinds for kind, name in DEFAULT.items())
    assert DEFAULT.keys() == set(SCORES["random"].kinds) - {"vocab"}


def test_from_a_directory_and_text(tmp_path: Path) -> None:
    _, _, checkpoint = load(LLAMA, tmp_path / "m", vocab_size=BYTES)
    byte_tokenizer().save_pretrained(checkpoint.directory)
    documents = [f"Document {i} says {i * i} things." for i in range(40)]
    said: list[str] = []

    def found(seed: int) -> dict[str, object]:
        scores = score(
            ModelDirectory(checkpoint.directory), ["layer", "ffn"],
            text=CalibrationText(lambda: iter(documents), 100), seed=seed, notify=said.append,
        )  # fmt: skip
        return {name: values.tolist() for name, values in scores.items()}

    assert found(1) == found(1)
    assert json.dumps(found(1)) != json.dumps(found(2))
    assert said[0] == "scoring on 100 tokens"
    random = score(ModelDirectory(checkpoint.directory), ["layer", "ffn"], by="random", seed=1)
    assert {name: values.shape for name, values in random.items()} == {
        "layer": (4,),
        "ffn": (4, 20),
    }
    assert tiny_layout(LLAMA).sizes["ffn"] == 20


# --- a function of the user --------------------------------------------------------------------


def test_a_function_of_the_user(tmp_path: Path) -> None:
    _, _, checkpoint = load(LLAMA, tmp_path / "m", vocab_size=BYTES)
    byte_tokenizer().save_pretrained(checkpoint.directory)
    asked: list[tuple[str, int | None]] = []

    def function(
        layout: Layout, axis: str, opened: Checkpoint, calibration: Calibration | None
    ) -> NDArray[np.float64]:
        assert opened.directory == checkpoint.directory
        asked.append((axis, calibration.tokens if calibration else None))
        size = layout.sizes[axis]
        rows = np.arange(4 * size).reshape(4, size) if axis != "head" else np.arange(size)
        return rows.astype(np.float32)

    scores = score(ModelDirectory(checkpoint.directory), ["ffn", "kv_head"], by=function)
    assert scores["ffn"].tolist() == np.arange(80.0).reshape(4, 20).tolist()
    assert scores["head"].tolist() == [0, 1, 2, 3, 4, 5]
    assert scores["kv_head"].tolist() == [0.5, 2.5, 4.5]
    documents = [f"Document {i} says {i * i} things." for i in range(40)]
    score(
        ModelDirectory(checkpoint.directory), ["ffn"], by=function,
        text=CalibrationText(lambda: iter(documents), 100),
    )  # fmt: skip
    assert asked == [("ffn", None), ("head", None), ("ffn", 100)]


@pytest.mark.parametrize(
    ("axis", "result", "message"),
    [
        ("ffn", np.zeros(19), "ffn: the function gave scores of shape [19]; [20] or [4, 20] is"),
        ("hidden", np.zeros((4, 24)), "hidden: the function gave scores of shape [4, 24]; [24] is"),
        ("layer", 3.0, "layer: the function gave scores of shape []; [4] is wanted"),
        ("layer", None, "layer: the function gave scores of shape []; [4] is wanted"),
        ("layer", "high", "layer: the function must give an array of numbers, [4], not str"),
        ("layer", [1, [2], 3, 4], "layer: the function must give an array of numbers, [4], not"),
        (
            "layer",
            [1, 2, np.nan, 4],
            "layer: the function gave a score that is NaN or infinite, at",
        ),
    ],
)
def test_a_function_that_gives_no_scores(
    axis: str, result: Any, message: str, tmp_path: Path
) -> None:
    _, _, checkpoint = load(LLAMA, tmp_path / "m")
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        score(ModelDirectory(checkpoint.directory), [axis], by=lambda *_: result)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "qwen3_moe"])
def test_experts_by_what_they_add(model_type: str, tmp_path: Path) -> None:
    """Written out token by token: the weight of an expert times the norm of what it gives."""
    model, _, _ = load(BY_TYPE[model_type], tmp_path / "m")
    block = model.model.layers[1].mlp
    entered = torch.randn(1, 40, 24, generator=torch.Generator().manual_seed(0))
    expected = np.zeros(5)
    with torch.no_grad():
        _, weights, chosen = block.gate(entered)
        for token in range(40):
            for weight, number in zip(weights[token], chosen[token].tolist(), strict=True):
                gate, up = (block.experts.gate_up_proj[number] @ entered[0, token]).chunk(2)
                wrote = block.experts.down_proj[number] @ (torch.nn.functional.silu(gate) * up)
                expected[number] += float(weight * wrote.norm()) / 40
        seen = Seen(block, entered[0], block(entered)[0], 5)
        found = statistic("activation", "expert")(seen)
    assert found.shape == (40, 5)
    assert ((found > 0).sum(1) == 2).all()
    assert found.mean(0).numpy() == pytest.approx(expected, rel=1e-4)
