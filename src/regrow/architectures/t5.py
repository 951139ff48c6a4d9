"""T5 (Raffel et al., 2020) and mT5 (Xue et al., 2021): two stacks with a relative position bias.

T5 v1.0, v1.1 and Flan-T5 share one model type. mT5 is v1.1 with its own type. UMT5 has the bias in
every block (`umt5.py`). In T5 and mT5, block 0 of each stack holds the position bias of the whole
stack, with one column for each head. So the kept self-attention heads are one choice for the whole
stack. A cut that drops block 0 keeps the bias, under the name of the new block 0.

v1.0 has a tied head and multiplies the decoder's output by hidden^-0.5. The classes of T5 and UMT5
multiply where the flag in the file says tied. The class of mT5 never multiplies.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from regrow.architectures.schema import Axis, Blueprint, Condition, Field, Fold, HeadTensors

_ENCODER = "encoder.block.{encoder.layer}.layer"
_DECODER = "decoder.block.{decoder.layer}.layer"

SCALED = (
    Condition("tie_word_embeddings", (False,), default=True, negate=True),
    # What transformers 5 writes; there the flag is always true.
    Condition("scale_decoder_outputs", (False,), default=True, negate=True),
)
"""By config.json the head is tied and the decoder's output scaled."""
_NEVER = Condition("tie_word_embeddings", ())
"""Never holds: transformers 5 always saves mT5's flag as true, also for an untied model."""

_CROSS_BIAS = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
"""Old checkpoints hold a bias of cross-attention that the network does not use."""


def _attention(module: str, head: str) -> Iterator[tuple[str, str]]:
    for part in "qkv":
        yield f"{module}.{part}.weight", f"{head}*head_dim, hidden"
    yield f"{module}.o.weight", f"hidden, {head}*head_dim"


def _ffn(layer: str, ffn: str) -> Iterator[tuple[str, str]]:
    for part in ("wi?", "wi_0?", "wi_1?"):
        yield f"{layer}.DenseReluDense.{part[:-1]}.weight?", f"{ffn}, hidden"
    yield f"{layer}.DenseReluDense.wo.weight", f"hidden, {ffn}"


def _stack(stack: str, layer: str, parts: int, biased: str) -> Iterator[tuple[str, str]]:
    yield from _attention(f"{layer}.0.SelfAttention", f"{stack}.head")
    yield f"{biased}.0.SelfAttention.relative_attention_bias.weight", f"buckets, {stack}.head"
    yield from _ffn(f"{layer}.{parts - 1}", f"{stack}.ffn")
    for part in range(parts):
        yield f"{layer}.{part}.layer_norm.weight", "hidden"
    yield f"{stack}.final_layer_norm.weight", "hidden"


def _tensors(every_block: bool) -> Mapping[str, str]:
    first = {stack: f"{stack}.block.0.layer" for stack in ("encoder", "decoder")}
    biased = {"encoder": _ENCODER, "decoder": _DECODER} if every_block else first
    return {
        "shared.weight": "vocab, hidden",
        "encoder.embed_tokens.weight?": "vocab, hidden",
        "decoder.embed_tokens.weight?": "vocab, hidden",
        **dict(_stack("encoder", _ENCODER, 2, biased["encoder"])),
        **dict(_stack("decoder", _DECODER, 3, biased["decoder"])),
        **dict(_attention(f"{_DECODER}.1.EncDecAttention", "decoder.cross_head")),
        "lm_head.weight?": "vocab, hidden",
    }


def _axes(ffn: Field, heads: Field, every_block: bool) -> tuple[Axis, ...]:
    encoder, decoder = "encoder.layer", "decoder.layer"
    chosen = (encoder, decoder) if every_block else (None, None)
    return (
        Axis("vocab", Field("vocab_size")),
        Axis(
            "hidden",
            Field("d_model"),
            sites=(
                f"{_ENCODER}.0.layer_norm",
                f"{_ENCODER}.1.layer_norm",
                "encoder.final_layer_norm",
                f"{_DECODER}.0.layer_norm",
                f"{_DECODER}.1.layer_norm",
                f"{_DECODER}.2.layer_norm",
                "decoder.final_layer_norm",
            ),
        ),
        Axis("encoder.ffn", ffn, encoder, sites=(f"{_ENCODER}.1.DenseReluDense.wo",)),
        Axis("decoder.ffn", ffn, decoder, sites=(f"{_DECODER}.2.DenseReluDense.wo",)),
        Axis("encoder.head", heads, chosen[0], sites=(f"{_ENCODER}.0.SelfAttention.o",)),
        Axis("decoder.head", heads, chosen[1], sites=(f"{_DECODER}.0.SelfAttention.o",)),
        Axis("decoder.cross_head", heads, decoder, sites=(f"{_DECODER}.1.EncDecAttention.o",)),
        Axis(encoder, Field("num_layers"), sites=("encoder.block.{encoder.layer}",)),
        Axis(
            decoder,
            # Without the mirror, transformers 5.24 makes a cache of as many layers as the encoder.
            Field("num_decoder_layers", default=encoder, mirrors=("decoder_layers",)),
            sites=("decoder.block.{decoder.layer}",),
        ),
    )


@dataclass(frozen=True)
class DefaultSizes:
    """The sizes of a class where the config names none."""

    ffn: int
    heads: int


def t5_like(
    model_type: str,
    architectures: tuple[str, ...],
    *,
    defaults: DefaultSizes,
    scaled: tuple[Condition, ...],
    tiny: tuple[Mapping[str, Any], ...],
    ignored: tuple[str, ...] = (),
    bias_in_every_block: bool = False,
) -> Blueprint:
    """The blueprint of an architecture of T5's kind.

    `defaults`: of its class. `scaled`: the class multiplies the decoder's
    output by hidden^-0.5 where all of these hold; empty for a class that never does.
    """
    same = dict(
        model_type=model_type, architectures=[architectures[0]], vocab_size=61, d_model=24,
        d_kv=10, d_ff=20, num_layers=3, num_heads=4, is_encoder_decoder=True, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0, relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
    )  # fmt: skip
    return Blueprint(
        model_type=model_type,
        architectures=architectures,
        axes=_axes(
            Field("d_ff", default=defaults.ffn),
            Field("num_heads", default=defaults.heads),
            bias_in_every_block,
        ),
        fixed={
            "head_dim": Field("d_kv", default=64),
            "buckets": Field("relative_attention_num_buckets", default=32),
        },
        tensors=_tensors(bias_in_every_block),
        head=HeadTensors(
            "lm_head.weight",
            "shared.weight",
            aliases=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
            ties_when_absent=True,
            tied_when=scaled or (_NEVER,),
        ),
        embeddings=("encoder.embed_tokens", "decoder.embed_tokens"),
        folds=(Fold("decoder.final_layer_norm.weight", "hidden", power=0.5, when=scaled),)
        if scaled
        else (),
        ignored=ignored,
        tiny=tuple({**same, **more} for more in tiny),
    )


T5 = t5_like(
    "t5",
    ("T5ForConditionalGeneration", "T5WithLMHeadModel"),
    defaults=DefaultSizes(ffn=2_048, heads=8),
    scaled=SCALED,
    ignored=(_CROSS_BIAS,),
    tiny=(
        # v1.1 and Flan-T5
        dict(num_decoder_layers=4, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        # v1.0
        dict(),
    ),
)

MT5 = t5_like(
    "mt5",
    ("MT5ForConditionalGeneration",),
    defaults=DefaultSizes(ffn=1_024, heads=6),
    scaled=(),
    ignored=(_CROSS_BIAS,),
    tiny=(
        dict(num_decoder_layers=4, tie_word_embeddings=False),
        dict(feed_forward_proj="relu"),
    ),
)
