"""T5 (Raffel et al., 2020), v1.0 and v1.1: two stacks, bias by relative position, no scaling.

Block 0 of each stack holds the position bias of the whole stack, one column a head: so which
self-attention heads are kept is one choice for the stack, and a cut that drops block 0 leaves the
bias where it is, under the name of the new block 0. v1.0 shares embedding and head and multiplies
the decoder's output by hidden^-0.5; its class decides by the flag in the file that says tied.
"""

from collections.abc import Iterator, Mapping

from regrow.architectures.schema import Axis, Blueprint, Condition, Field, Fold, Head

_ENCODER = "encoder.block.{encoder.layer}.layer"
_DECODER = "decoder.block.{decoder.layer}.layer"


def _attention(module: str, head: str) -> Iterator[tuple[str, str]]:
    for part in "qkv":
        yield f"{module}.{part}.weight", f"{head}*head_dim, hidden"
    yield f"{module}.o.weight", f"hidden, {head}*head_dim"


def _ffn(layer: str, ffn: str) -> Iterator[tuple[str, str]]:
    for part in ("wi?", "wi_0?", "wi_1?"):
        yield f"{layer}.DenseReluDense.{part[:-1]}.weight?", f"{ffn}, hidden"
    yield f"{layer}.DenseReluDense.wo.weight", f"hidden, {ffn}"


def _stack(stack: str, layer: str, parts: int) -> Iterator[tuple[str, str]]:
    yield from _attention(f"{layer}.0.SelfAttention", f"{stack}.head")
    yield (
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        f"buckets, {stack}.head",
    )
    yield from _ffn(f"{layer}.{parts - 1}", f"{stack}.ffn")
    for part in range(parts):
        yield f"{layer}.{part}.layer_norm.weight", "hidden"
    yield f"{stack}.final_layer_norm.weight", "hidden"


def _tensors() -> Mapping[str, str]:
    return {
        "shared.weight": "vocab, hidden",
        "encoder.embed_tokens.weight?": "vocab, hidden",
        "decoder.embed_tokens.weight?": "vocab, hidden",
        **dict(_stack("encoder", _ENCODER, 2)),
        **dict(_stack("decoder", _DECODER, 3)),
        **dict(_attention(f"{_DECODER}.1.EncDecAttention", "decoder.cross_head")),
        "lm_head.weight?": "vocab, hidden",
    }


_HEADS = Field("num_heads", default=8)
_FFN = Field("d_ff", default=2_048)

T5 = Blueprint(
    model_type="t5",
    architectures=("T5ForConditionalGeneration", "T5WithLMHeadModel"),
    axes=(
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
        Axis(
            "encoder.ffn", _FFN, along="encoder.layer", sites=(f"{_ENCODER}.1.DenseReluDense.wo",)
        ),
        Axis(
            "decoder.ffn", _FFN, along="decoder.layer", sites=(f"{_DECODER}.2.DenseReluDense.wo",)
        ),
        Axis("encoder.head", _HEADS, sites=(f"{_ENCODER}.0.SelfAttention.o",)),
        Axis("decoder.head", _HEADS, sites=(f"{_DECODER}.0.SelfAttention.o",)),
        Axis(
            "decoder.cross_head",
            _HEADS,
            along="decoder.layer",
            sites=(f"{_DECODER}.1.EncDecAttention.o",),
        ),
        Axis(
            "encoder.layer", Field("num_layers"), sites=("encoder.block.{encoder.layer}",)
        ),
        Axis(
            "decoder.layer",
            Field("num_decoder_layers", default="encoder.layer"),
            sites=("decoder.block.{decoder.layer}",),
        ),
    ),
    fixed={
        "head_dim": Field("d_kv", default=64),
        "buckets": Field("relative_attention_num_buckets", default=32),
    },
    tensors=_tensors(),
    head=Head(
        "lm_head.weight",
        "shared.weight",
        aliases=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        ties_when_absent=True,
    ),
    embeddings=("encoder.embed_tokens", "decoder.embed_tokens"),
    folds=(
        Fold(
            "decoder.final_layer_norm.weight",
            "hidden",
            power=0.5,
            when=(
                Condition("tie_word_embeddings", (False,), default=True, negate=True),
                # What transformers 5 writes; there the flag is always true.
                Condition("scale_decoder_outputs", (False,), default=True, negate=True),
            ),
        ),
    ),
    # v1.0 checkpoints carry a bias of the cross-attention that the network never had.
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    tiny=(
        dict(
            model_type="t5", architectures=["T5ForConditionalGeneration"], vocab_size=61,
            d_model=24, d_kv=10, d_ff=20, num_layers=3, num_decoder_layers=4, num_heads=4,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False, is_encoder_decoder=True,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
            relative_attention_num_buckets=8, relative_attention_max_distance=16,
        ),
        dict(
            model_type="t5", architectures=["T5ForConditionalGeneration"], vocab_size=61,
            d_model=24, d_kv=10, d_ff=20, num_layers=3, num_heads=4, is_encoder_decoder=True,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
            relative_attention_num_buckets=8, relative_attention_max_distance=16,
        ),
    ),
)  # fmt: skip
