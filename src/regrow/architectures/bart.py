"""BART (Lewis et al., 2020) and mBART (Liu et al., 2020): learned positions, LayerNorm, biases.

Each stack has its own heads and ffn. BART has a norm after each part. mBART has a norm before each
part, and one more at the end of each stack. One table serves both embeddings and the head. No
config field holds the head size, so hidden and the heads of both stacks are cut in proportion.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from regrow.architectures.schema import (
    Axis,
    Blueprint,
    Condition,
    Field,
    Fold,
    HeadTensors,
    Quotient,
)

_STACKS = ("encoder", "decoder")
_SHARED = "model.shared.weight"
_ALIASES = tuple(f"model.{stack}.embed_tokens.weight" for stack in _STACKS)
_HEAD = "lm_head.weight"
_BIAS = "final_logits_bias"
_SCALED = Condition("scale_embedding", (True,), default=False)

_NEEDS_TIED = (
    Condition("tie_word_embeddings", (True,), default=True),
    "untied, both stacks and the head have a table each; only the shared one is cut",
)
_NEEDS_UNSCALED = (
    Condition("scale_embedding", (True,), default=False, negate=True),
    "the embedding is scaled by hidden**0.5, and what would make up for it before the head lies in "
    "the last decoder layer, which a later cut may drop",
)


def _layer(stack: str) -> str:
    return f"model.{stack}.layers.{{{stack}.layer}}"


def _norms(stack: str, final: bool) -> tuple[str, ...]:
    """Names of all norms over the residual stream. `final`: each stack ends with a norm (mBART)."""
    cross = ("encoder_attn_layer_norm",) if stack == "decoder" else ()
    inside = ("self_attn_layer_norm", *cross, "final_layer_norm")
    return (
        f"model.{stack}.layernorm_embedding",
        *(f"{_layer(stack)}.{norm}" for norm in inside),
        *((f"model.{stack}.layer_norm",) if final else ()),
    )


def _linear(module: str, out: str, into: str) -> Iterator[tuple[str, str]]:
    yield f"{module}.weight", f"{out}, {into}"
    yield f"{module}.bias", out


def _attention(module: str, heads: str) -> Iterator[tuple[str, str]]:
    for part in "qkv":
        yield from _linear(f"{module}.{part}_proj", heads, "hidden")
    yield from _linear(f"{module}.out_proj", "hidden", heads)


def _stack(stack: str, final: bool) -> Iterator[tuple[str, str]]:
    layer = _layer(stack)
    yield f"model.{stack}.embed_tokens.weight?", "vocab, hidden"
    yield f"model.{stack}.embed_positions.weight", "2 + position, hidden"
    for norm in _norms(stack, final):
        yield f"{norm}.weight", "hidden"
        yield f"{norm}.bias", "hidden"
    yield from _attention(f"{layer}.self_attn", f"{stack}.head*{stack}.head_dim")
    if stack == "decoder":
        yield from _attention(f"{layer}.encoder_attn", "decoder.cross_head*decoder.head_dim")
    yield from _linear(f"{layer}.fc1", f"{stack}.ffn", "hidden")
    yield from _linear(f"{layer}.fc2", "hidden", f"{stack}.ffn")


def _axes(stack: str) -> Iterator[Axis]:
    layer, along = _layer(stack), f"{stack}.layer"
    ffn = Field(f"{stack}_ffn_dim", default=4_096)
    # The class also reads some fields of the encoder under names that other families have.
    also = ("num_attention_heads",) if stack == "encoder" else ()
    heads = Field(f"{stack}_attention_heads", default=16, also=also)
    yield Axis(f"{stack}.ffn", ffn, along, sites=(f"{layer}.fc2",))
    yield Axis(f"{stack}.head", heads, along, sites=(f"{layer}.self_attn.out_proj",))
    if stack == "decoder":
        yield Axis("decoder.cross_head", heads, along, sites=(f"{layer}.encoder_attn.out_proj",))
    # Older files repeat the number of encoder layers in this field, and the class reads it.
    also = ("num_hidden_layers",) if stack == "encoder" else ()
    yield Axis(along, Field(f"{stack}_layers", default=12, also=also), sites=(layer,))


def _folds() -> Iterator[Fold]:
    """Folds of mBART with scale_embedding. The norm before the head has a weight and a bias."""
    for table in (_SHARED, *_ALIASES, _HEAD):
        yield Fold(table, "hidden", power=-0.5, when=(_SCALED,))
    for part in ("weight", "bias"):
        yield Fold(f"model.decoder.layer_norm.{part}", "hidden", power=0.5, when=(_SCALED,))


def _blueprint(
    model_type: str, architecture: str, tiny: tuple[Mapping[str, Any], ...], *, final: bool
) -> Blueprint:
    return Blueprint(
        model_type=model_type,
        pre_norm=final,
        rotates=False,
        architectures=(architecture,),
        axes=(
            Axis("vocab", Field("vocab_size", default=50_265)),
            Axis(
                "hidden",
                Field("d_model", default=1_024),
                sites=(*_norms("encoder", final), *_norms("decoder", final)),
            ),
            *_axes("encoder"),
            *_axes("decoder"),
        ),
        fixed={
            "encoder.head_dim": Field(None, default=Quotient("hidden", "encoder.head")),
            "decoder.head_dim": Field(None, default=Quotient("hidden", "decoder.head")),
            "position": Field("max_position_embeddings", default=1_024),
        },
        tensors={
            _SHARED: "vocab, hidden",
            **dict(_stack("encoder", final)),
            **dict(_stack("decoder", final)),
            f"{_BIAS}?": "1, vocab",  # absent from a file, it is zeros
            f"{_HEAD}?": "vocab, hidden",
        },
        head=HeadTensors(_HEAD, _SHARED, aliases=_ALIASES, bias=_BIAS),
        embeddings=tuple(
            f"model.{stack}.{table}"
            for stack in _STACKS
            for table in ("embed_tokens", "embed_positions")
        ),
        folds=tuple(_folds()) if final else (),
        buffers=(_BIAS,),
        ignored=(r"(model\.)?(encoder|decoder)\.version",),
        needs=(_NEEDS_TIED,) if final else (_NEEDS_TIED, _NEEDS_UNSCALED),
        tiny=tuple({"model_type": model_type, "architectures": [architecture], **t} for t in tiny),
    )


def _tiny(heads: tuple[int, int], **more: object) -> Mapping[str, Any]:
    return dict(
        is_encoder_decoder=True, vocab_size=61, d_model=24, encoder_layers=3, decoder_layers=4,
        encoder_ffn_dim=20, decoder_ffn_dim=28, encoder_attention_heads=heads[0],
        decoder_attention_heads=heads[1], max_position_embeddings=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, **more,
    )  # fmt: skip


BART = _blueprint(
    "bart",
    "BartForConditionalGeneration",
    (_tiny((8, 4), scale_embedding=False), _tiny((4, 4), num_hidden_layers=3)),
    final=False,
)
MBART = _blueprint(
    "mbart",
    "MBartForConditionalGeneration",
    (_tiny((8, 4), scale_embedding=True), _tiny((4, 4), num_hidden_layers=3)),
    final=True,
)
