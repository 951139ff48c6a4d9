"""T5Gemma (Zhang et al., 2025): Gemma 2 layers in two stacks, each with its own sizes.

Cross-attention reads the encoder's hidden states and writes the decoder's. Each embedding is
multiplied by sqrt(hidden size of its stack). The head shares the embedding of the decoder.
"""

from collections.abc import Iterator, Mapping

from regrow.architectures.gemma2 import alternating
from regrow.architectures.schema import (
    Axis,
    Blueprint,
    Divides,
    Field,
    Fold,
    HeadTensors,
    LayerList,
)

_SELF_NORMS = (
    "pre_self_attn_layernorm",
    "post_self_attn_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_CROSS_NORMS = ("pre_cross_attn_layernorm", "post_cross_attn_layernorm")
_NORMS = {"encoder": _SELF_NORMS, "decoder": (*_SELF_NORMS, *_CROSS_NORMS)}


def _layer(stack: str) -> str:
    return f"model.{stack}.layers.{{{stack}.layer}}"


def _attention(module: str, stack: str, reads: str, cross: str = "") -> Iterator[tuple[str, str]]:
    head = f"{stack}.{cross}head*{stack}.head_dim"
    kv_head = f"{stack}.{cross}kv_head*{stack}.head_dim"
    yield f"{module}.q_proj.weight", f"{head}, {stack}.hidden"
    yield f"{module}.k_proj.weight", f"{kv_head}, {reads}.hidden"
    yield f"{module}.v_proj.weight", f"{kv_head}, {reads}.hidden"
    yield f"{module}.o_proj.weight", f"{stack}.hidden, {head}"
    yield f"{module}.q_proj.bias?", head
    yield f"{module}.k_proj.bias?", kv_head
    yield f"{module}.v_proj.bias?", kv_head
    yield f"{module}.o_proj.bias?", f"{stack}.hidden"


def _stack(stack: str) -> Iterator[tuple[str, str]]:
    layer = _layer(stack)
    yield f"model.{stack}.embed_tokens.weight", f"vocab, {stack}.hidden"
    for norm in _NORMS[stack]:
        yield f"{layer}.{norm}.weight", f"{stack}.hidden"
    yield from _attention(f"{layer}.self_attn", stack, reads=stack)
    yield f"{layer}.mlp.gate_proj.weight", f"{stack}.ffn, {stack}.hidden"
    yield f"{layer}.mlp.up_proj.weight", f"{stack}.ffn, {stack}.hidden"
    yield f"{layer}.mlp.down_proj.weight", f"{stack}.hidden, {stack}.ffn"
    yield f"model.{stack}.norm.weight", f"{stack}.hidden"


def _axes(stack: str) -> Iterator[Axis]:
    layer, along = _layer(stack), f"{stack}.layer"
    heads = Field(f"{stack}.num_attention_heads", default=8)
    kv_heads = Field(f"{stack}.num_key_value_heads", default=4)
    yield Axis(
        f"{stack}.hidden",
        Field(
            f"{stack}.hidden_size",
            default=2_304,
            also=("decoder.cross_attention_hidden_size",) if stack == "encoder" else (),
        ),
        sites=(*(f"{layer}.{norm}" for norm in _NORMS[stack]), f"model.{stack}.norm"),
    )
    yield Axis(
        f"{stack}.ffn",
        Field(f"{stack}.intermediate_size", default=9_216),
        along=along,
        sites=(f"{layer}.mlp.down_proj",),
    )
    for cross in ("", "cross_") if stack == "decoder" else ("",):
        yield Axis(f"{stack}.{cross}kv_head", kv_heads, along=along)
        yield Axis(
            f"{stack}.{cross}head",
            heads,
            along=along,
            groups=f"{stack}.{cross}kv_head",
            sites=(f"{layer}.{'cross' if cross else 'self'}_attn.o_proj",),
        )
    yield Axis(f"{stack}.layer", Field(f"{stack}.num_hidden_layers", default=26), sites=(layer,))


def _tensors() -> Mapping[str, str]:
    return {
        **dict(_stack("encoder")),
        **dict(_stack("decoder")),
        **dict(_attention(f"{_layer('decoder')}.cross_attn", "decoder", "encoder", "cross_")),
        "lm_head.out_proj.weight?": "vocab, decoder.hidden",
    }


def _module(**sizes: object) -> dict[str, object]:
    return dict(
        model_type="t5_gemma_module", vocab_size=61, query_pre_attn_scalar=17, sliding_window=4,
        pad_token_id=0, bos_token_id=2, eos_token_id=1, **sizes,
    )  # fmt: skip


T5GEMMA = Blueprint(
    model_type="t5gemma",
    pre_norm=False,
    architectures=("T5GemmaForConditionalGeneration",),
    axes=(
        Axis(
            "vocab",
            Field(
                "vocab_size",
                default=256_000,
                also=("encoder.vocab_size", "decoder.vocab_size"),
            ),
        ),
        *_axes("encoder"),
        *_axes("decoder"),
    ),
    fixed={f"{stack}.head_dim": Field(f"{stack}.head_dim", default=256) for stack in _NORMS},
    tensors=_tensors(),
    head=HeadTensors(
        "lm_head.out_proj.weight",
        "model.decoder.embed_tokens.weight",
    ),
    embeddings=("model.encoder.embed_tokens", "model.decoder.embed_tokens"),
    lists={f"{s}.layer_types": LayerList(f"{s}.layer", alternating) for s in _NORMS},
    constraints=(
        Divides("encoder.head", "encoder.hidden"),
        Divides("decoder.head", "decoder.hidden"),
    ),
    folds=(
        Fold("model.encoder.embed_tokens.weight", "encoder.hidden", power=-0.5),
        Fold("model.decoder.embed_tokens.weight", "decoder.hidden", power=-0.5),
        Fold("lm_head.out_proj.weight", "decoder.hidden", power=-0.5, tied=True),
        Fold("model.decoder.norm.weight", "decoder.hidden", power=0.5, offset=1.0, tied=True),
    ),
    tiny=(
        dict(
            model_type="t5gemma", architectures=["T5GemmaForConditionalGeneration"],
            is_encoder_decoder=True, vocab_size=61, tie_word_embeddings=True,
            pad_token_id=0, bos_token_id=2, eos_token_id=1,
            encoder=_module(hidden_size=24, intermediate_size=20, num_hidden_layers=3,
                            num_attention_heads=4, num_key_value_heads=2, head_dim=10,
                            layer_types=["full_attention", "sliding_attention",
                                         "full_attention"]),
            decoder=_module(hidden_size=32, intermediate_size=28, num_hidden_layers=4,
                            num_attention_heads=4, num_key_value_heads=4, head_dim=10,
                            layer_types=["sliding_attention", "full_attention",
                                         "sliding_attention", "full_attention"]),
        ),
    ),
)  # fmt: skip
