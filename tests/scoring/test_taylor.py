"""First-order Taylor scores against activation times gradient that is written out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regrow.architectures import BLUEPRINTS, Blueprint, Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.objectives.rows.denoisers import DenoisingTokens, noise_and_spans
from regrow.objectives.rows.examples import draw_spans, write_examples
from regrow.scoring import score as score_module
from regrow.scoring.calibration import Calibration, CalibrationText
from regrow.scoring.observe import observe_gradients
from regrow.scoring.score import score, score_model
from tests.scoring.models import BY_TYPE, kill, load, statistic, text
from tests.tiny import add_tokenizer, sentences, write_model, write_seq2seq

LLAMA = BY_TYPE["llama"]
CASES = [
    pytest.param(blueprint, number, id=f"{blueprint.model_type}-{number}")
    for blueprint in BLUEPRINTS
    for number in range(len(blueprint.tiny))
]
MARKS = DenoisingTokens(prefixes={}, sentinels=tuple(range(60, 50, -1)), eos=1, pad=0, start=0)


def calibration(lengths: tuple[int, ...] = (11, 9, 9, 4, 1), seed: int = 0) -> Calibration:
    return replace(text(lengths, seed), denoising=MARKS)


def scored(model: Any, layout: Layout, axes: list[str], text: Calibration) -> dict[str, Any]:
    return score_model(model, layout, axes, by="taylor", calibration=text)


def widths(blueprint: Blueprint) -> list[str]:
    return [axis.name for axis in blueprint.axes if axis.kind in ("hidden", "ffn", "head")]


def test_written_out_for_llama(tmp_path: Path) -> None:
    model, layout, _ = load(LLAMA, tmp_path / "m")
    rows = text((8, 8, 8))
    found = scored(model, layout, ["hidden", "ffn", "kv_head"], rows)

    kept: dict[str, torch.Tensor] = {}

    def keep(name: str, place: str) -> Any:
        def hook(_: Any, args: Any, output: Any) -> None:
            kept[name] = args[0] if place == "in" else output
            kept[name].retain_grad()

        return model.get_submodule(name).register_forward_hook(hook)

    layers = [f"model.layers.{layer}" for layer in range(4)]
    norms = [f"{each}.{norm}_layernorm" for each in layers for norm in ("input", "post_attention")]
    for name in (*norms, "model.norm"):
        keep(name, "out")
    for each in layers:
        keep(f"{each}.mlp.down_proj", "in")
        keep(f"{each}.self_attn.o_proj", "in")
    ids = torch.from_numpy(np.stack(rows.pieces))
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    loss: Any = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum")
    loss.backward()

    def change(name: str) -> torch.Tensor:
        gradient = kept[name].grad
        assert gradient is not None
        return (kept[name] * gradient).detach().flatten(0, 1).double()

    hidden = sum(change(name).abs().mean(0) for name in (*norms, "model.norm"))
    assert found["hidden"] == pytest.approx(np.asarray(hidden), rel=1e-4)
    for layer, each in enumerate(layers):
        ffn = change(f"{each}.mlp.down_proj").abs().mean(0)
        assert found["ffn"][layer] == pytest.approx(ffn.numpy(), rel=1e-4)
        heads = change(f"{each}.self_attn.o_proj").reshape(24, 6, 10).sum(-1).abs().mean(0)
        assert found["head"][layer] == pytest.approx(heads.numpy(), rel=1e-4, abs=1e-8)
        pairs = heads.reshape(3, 2).mean(-1)
        assert found["kv_head"][layer] == pytest.approx(pairs.numpy(), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize(("blueprint", "number"), CASES)
def test_the_dead_score_zero(blueprint: Blueprint, number: int, tmp_path: Path) -> None:
    for name in widths(blueprint):
        axis = blueprint.axis(name)
        model, layout, _ = load(blueprint, tmp_path / name, number)
        group, dead, killed = 1, 3, name
        if axis.groups:
            group = layout.sizes[name] // layout.sizes[axis.groups]
            dead, killed = group, axis.groups
        index = dead // group
        kill(model, layout, {killed: index}, (axis.along, 1) if axis.along else None)
        scores = scored(model, layout, [name], calibration())[name]
        row = scores[1] if axis.along else scores
        assert row[dead : dead + group] == pytest.approx(0, abs=1e-9)
        others = np.delete(row, range(dead, dead + group))
        assert (others > 1e-7).mean() > 0.7  # relu silences some


@pytest.mark.parametrize(("blueprint", "number"), CASES)
def test_batches_change_nothing_but_rounding(
    blueprint: Blueprint, number: int, tmp_path: Path
) -> None:
    model, layout, _ = load(blueprint, tmp_path / "m", number)
    statistics = {n: statistic("taylor", blueprint.axis(n).kind) for n in widths(blueprint)}
    together = observe_gradients(model, layout, statistics, calibration(), batch_tokens=10_000)
    again = observe_gradients(model, layout, statistics, calibration(), batch_tokens=10_000)
    apart = observe_gradients(model, layout, statistics, calibration(), batch_tokens=1)
    for name, values in together.items():
        assert (again[name] == values).all()
        np.testing.assert_allclose(apart[name], values, rtol=2e-3, atol=1e-6)


def test_the_loss_changes_as_the_score_says(tmp_path: Path) -> None:
    """A neuron that is damped by a little: to first order, the loss falls or rises so much."""
    model, layout, _ = load(LLAMA, tmp_path / "m")
    rows = text((2,))  # one prediction, so that nothing cancels between tokens
    found = scored(model, layout, ["ffn"], rows)["ffn"][3]
    ids = torch.from_numpy(np.stack(rows.pieces))
    model.double()

    def loss() -> float:
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, 0]
        return float(torch.nn.functional.cross_entropy(logits, ids[0, 1]))

    before, little, neuron = loss(), 0.01, found.argmax()
    column = model.model.layers[3].mlp.down_proj.weight.data[:, neuron]
    column *= 1 - little
    # The mean over two tokens, of which the last predicts nothing.
    assert abs(loss() - before) / little / 2 == pytest.approx(found[neuron], rel=0.02)


def test_nothing_stays_behind(tmp_path: Path) -> None:
    model, layout, _ = load(LLAMA, tmp_path / "m")
    model.model.norm.weight.requires_grad_(False)
    scored(model, layout, ["hidden"], text())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["model.norm.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_number_types(dtype: torch.dtype, tmp_path: Path) -> None:
    model, layout, _ = load(LLAMA, tmp_path / "m")
    exact = scored(model, layout, ["ffn"], text())["ffn"]
    found = scored(model.to(dtype), layout, ["ffn"], text())["ffn"]
    assert found.dtype == np.float64
    assert np.corrcoef(exact.ravel(), found.ravel())[0, 1] > 0.99


# --- from a directory --------------------------------------------------------------------------


def documents() -> CalibrationText:
    return CalibrationText(lambda: iter(sentences(60)), 400)


def test_a_decoder_from_its_directory(tmp_path: Path) -> None:
    model = ModelDirectory(write_model(tmp_path / "m"))
    runs = [
        score(
            model,
            ["ffn", "head"],
            by="taylor",
            text=documents(),
            seed=seed,
        )
        for seed in (0, 0, 1)
    ]
    assert (runs[0]["ffn"] == runs[1]["ffn"]).all()
    assert (runs[0]["ffn"] != runs[2]["ffn"]).any()
    assert (runs[0]["ffn"] > 0).all()


def test_written_out_for_t5(tmp_path: Path) -> None:
    """The classes of transformers shift the labels themselves, and compute the loss."""
    model, layout, _ = load(BY_TYPE["t5"], tmp_path / "m")
    rows = replace(text((60, 60, 60)), denoising=MARKS, seed=4)
    found = scored(model, layout, ["encoder.ffn", "decoder.ffn"], rows)
    other = scored(model, layout, ["encoder.ffn"], replace(rows, seed=5))["encoder.ffn"]
    assert (other != found["encoder.ffn"]).any()
    lengths = np.full(3, 60)
    noise, spans = noise_and_spans(lengths, np.full(3, 3.0), np.full(3, 0.15))
    drawn = draw_spans(4, np.arange(3), lengths, noise, spans)
    line = np.concatenate(rows.pieces).astype(np.int32)
    made = write_examples(line, np.arange(0, 180, 60), drawn, None, MARKS)

    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: Any, args: Any, __: Any) -> None:
            kept[name] = args[0]
            kept[name].retain_grad()

        return model.get_submodule(name).register_forward_hook(hook)

    layers = [
        (axis, layer, f"{stack}.block.{layer}.layer.{place}.DenseReluDense.wo")
        for axis, stack, place in (("encoder.ffn", "encoder", 1), ("decoder.ffn", "decoder", 2))
        for layer in range(layout.sizes[f"{stack}.layer"])
    ]
    for _, _, name in layers:
        keep(name)
    labels = torch.from_numpy(made["labels"])
    mask = torch.from_numpy(made["attention_mask"])
    ids = torch.from_numpy(made["input_ids"])
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    (loss * (labels != -100).sum()).backward()
    in_text = {"encoder.ffn": mask.bool(), "decoder.ffn": labels != -100}
    for axis, layer, name in layers:
        gradient = kept[name].grad
        assert gradient is not None
        change = (kept[name] * gradient).detach().double()[in_text[axis]]
        expected = change.abs().mean(0).numpy()
        assert found[axis][layer] == pytest.approx(expected, rel=1e-4, abs=1e-9), name


def test_an_encoder_decoder_fills_in_spans(tmp_path: Path) -> None:
    model = ModelDirectory(write_seq2seq(tmp_path / "m", BY_TYPE["t5"]))
    text = CalibrationText(lambda: iter(sentences(60)), 400)
    found = score(model, ["encoder.ffn"], by="taylor", text=text)["encoder.ffn"]
    assert found.shape == (3, 20)
    assert (found >= 0).all()
    assert found.max() > 0


def test_sentinels_are_needed(tmp_path: Path) -> None:
    directory = write_seq2seq(tmp_path / "m", BY_TYPE["t5"])
    add_tokenizer(directory)
    model = ModelDirectory(directory)
    with pytest.raises(UserError, match="no sentinel <extra_id_0>"):
        score(model, ["encoder.ffn"], by="taylor", text=documents())


def test_a_text_is_needed_that_predicts_something(tmp_path: Path) -> None:
    model, layout, checkpoint = load(LLAMA, tmp_path / "m")
    with pytest.raises(UserError, match="ffn: scoring by taylor needs a text; give one"):
        score(ModelDirectory(checkpoint.directory), ["ffn"], by="taylor")
    with pytest.raises(UserError, match="each document is a single token; give longer"):
        scored(model, layout, ["ffn"], text((1, 1)))


def test_a_model_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelDirectory(write_model(tmp_path / "m"))
    monkeypatch.setattr(score_module, "available_memory", lambda: 1000)
    monkeypatch.setattr(score_module, "resolve_precision", lambda *_: "fp32")
    with pytest.raises(UserError) as caught:
        score(model, ["ffn"], by="taylor", text=documents())
    assert str(caught.value) == (
        f"{tmp_path / 'm'}: 0.0 GB of float32 weights do not fit in 0.0 GB of free memory, and "
        "taylor needs all of them at once; score by random or activation or magnitude or wanda"
    )
    with pytest.raises(UserError, match=r"by: taylor scores .*, head, not layer; give random or"):
        score(model, ["layer"], by="taylor", text=documents())


def test_not_finite(tmp_path: Path) -> None:
    model, layout, _ = load(LLAMA, tmp_path / "m")
    model.model.layers[2].mlp.up_proj.weight.data[4, 0] = float("inf")
    with pytest.raises(UserError, match="its logits differ by nan from those of its last layer"):
        scored(model, layout, ["ffn"], text())
