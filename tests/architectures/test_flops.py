"""FLOPs: against torch's own count on tiny models, and against the OpenBA-V2 report."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from regrow.architectures import BLUEPRINTS, Blueprint, bind
from regrow.architectures.flops import SampleShape, forward_flops, training_flops
from regrow.checkpoint.vocabulary_blueprint import vocabulary_blueprint
from regrow.models.networks import config_class, model_class
from regrow.pipeline.published import OPENBA_V2
from tests.cuts.random_cuts import TINY, TINY_IDS
from tests.tiny import tiny_layout

ENCODER, DECODER = 7, 5


def tiny_network(blueprint: Blueprint, number: int) -> Any:
    tiny = dict(blueprint.tiny[number])
    config = config_class(tiny.pop("model_type")).from_dict(tiny)
    config._attn_implementation = "eager"
    return model_class(blueprint.architectures[0])(config)


def _grouped(rows: torch.Size, weights: torch.Size, *_: Any, **__: Any) -> int:
    """Each row of [rows, inputs] is multiplied by one matrix of [experts, inputs, outputs]; or of
    [inputs, rows] and [rows, outputs], for the gradient of the matrices."""
    return 2 * rows.numel() * weights[-1]


_EXPERTS = {torch.ops.aten._grouped_mm: _grouped}
"""torch counts no product of experts itself."""


def counted(network: Any, encoder: bool, train: bool) -> int:
    """By torch, without a product that gives the angles of rotary positions."""
    ids = torch.full((1, DECODER), 3)
    inputs = dict(decoder_input_ids=ids) if encoder else dict(input_ids=ids)
    if encoder:
        inputs["input_ids"] = torch.full((1, ENCODER), 3)
    with FlopCounterMode(display=False, custom_mapping=_EXPERTS) as counter:
        logits = network(**inputs, use_cache=False).logits
        if train:
            logits.sum().backward()
    angles = sum(
        sum(count.values())
        for module, count in counter.get_flop_counts().items()
        if module.endswith(".rotary_emb")
    )
    return int(counter.get_total_flops()) - angles


@pytest.mark.parametrize(("blueprint", "number"), TINY, ids=TINY_IDS)
@pytest.mark.parametrize("train", [False, True], ids=["forward", "training"])
def test_as_torch_counts(blueprint: Blueprint, number: int, train: bool) -> None:
    encoder = blueprint.is_encoder_decoder
    layout = tiny_layout(blueprint, number)
    sample = SampleShape(text=DECODER, decoder=DECODER, encoder=ENCODER if encoder else 0)
    wanted = counted(tiny_network(blueprint, number), encoder, train)
    if train:
        assert training_flops(layout, sample, tokens=10 * DECODER) == 10 * wanted
    else:
        assert forward_flops(layout, sample).total == wanted


@pytest.mark.parametrize(
    "blueprint",
    [b for b in BLUEPRINTS if not (b.is_encoder_decoder or "expert" in b.axis_names)],
    ids=lambda b: b.model_type,
)
def test_without_a_blueprint_all_but_the_pairs_is_counted(blueprint: Blueprint) -> None:
    layout, tiny = tiny_layout(blueprint), blueprint.tiny[0]
    unknown = bind(vocabulary_blueprint(tiny, layout.shapes), tiny, layout.shapes)
    sample = SampleShape(text=DECODER, decoder=DECODER)
    found, known = forward_flops(unknown, sample), forward_flops(layout, sample)
    assert (found.decoder, found.head, found.scores) == (known.decoder, known.head, 0)


@pytest.mark.parametrize(
    "blueprint", [b for b in BLUEPRINTS if b.is_encoder_decoder], ids=lambda b: b.model_type
)
def test_only_keys_and_values_pass_at_the_encoder(blueprint: Blueprint) -> None:
    """A longer encoder input costs the decoder its keys, values and scores, and nothing else."""
    layout = tiny_layout(blueprint)
    short = forward_flops(layout, SampleShape(9, decoder=5, encoder=7))
    long = forward_flops(layout, SampleShape(9, decoder=5, encoder=14))
    assert long.decoder == short.decoder
    assert long.cross_keys_values == 2 * short.cross_keys_values > 0
    assert long.encoder == 2 * short.encoder


def test_what_a_formula_by_hand_gives() -> None:
    """OpenBA's row 4, term by term."""
    layers, hidden, ffn, width = (8, 24), 2_560, 6_912, 20 * 128
    n, m = 570, 380
    attention, mlp = 4 * width * hidden, 3 * hidden * ffn
    forward = 2 * (
        layers[0] * n * (attention + mlp)
        + layers[1] * m * (attention + 2 * width * hidden + mlp)
        + layers[1] * n * 2 * width * hidden
        + m * 250_880 * hidden
    ) + 4 * width * (layers[0] * n * n + layers[1] * (m * m + n * m))
    assert stage_flops(4) == 3 * forward * 65_000_000_000 // 568


def stage_flops(number: int) -> int:
    row = OPENBA_V2[number]
    return training_flops(openba(*row.layers, row.hidden, row.ffn, row.heads), row.sample,
                          row.tokens)  # fmt: skip


def openba(encoder: int, decoder: int, hidden: int, ffn: int, heads: int) -> Any:
    blueprint = next(b for b in BLUEPRINTS if b.model_type == "openba")
    sizes = {
        "vocab": 250_880, "hidden": hidden, "encoder.layer": encoder, "decoder.layer": decoder,
        "encoder.ffn": ffn, "decoder.ffn": ffn, "encoder.head": heads, "decoder.head": heads,
        "decoder.cross_head": heads, "head_dim": 128,
    }  # fmt: skip
    return tiny_layout(blueprint).resized(sizes)


@pytest.mark.parametrize("number", range(6))
def test_the_report_says_a_little_more_in_every_row(number: int) -> None:
    """Between 0.86 and 0.89 of the report's figures, which are rounded to a tenth."""
    row = OPENBA_V2[number]
    low, high = (stage_flops(number) / (row.flops + error) for error in (0.05e20, -0.05e20))
    assert high > 0.86
    assert low < 0.89
    assert stage_flops(number) / row.flops == pytest.approx(0.877, abs=0.014)
