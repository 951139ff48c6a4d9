"""OpenBA (arXiv 2309.10706): a shallow encoder and a deep decoder, in the published layout.

Fused attention matrices hold query, key and value head by head; those of cross-attention hold key
and value. The size of the ffn is two thirds of the config's `ffn_hidden_size`, rounded up to a
multiple of 256. Both stacks share one field for the ffn, and one for the heads. The published head
is untied and has a bias; with the tying flag, the class multiplies the decoder's output by
hidden**-0.5.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from regrow.architectures.schema import Axis, Blueprint, Codec, Condition, Field, Fold, HeadTensors

_STEP = 256
_TIED = Condition("tie_word_embeddings", (True,), default=True)


def ffn_size(value: int) -> int:
    """The size of the ffn: two thirds of the config's value, rounded up to a multiple of 256."""
    return -(-int(2 * value / 3) // _STEP) * _STEP


def ffn_value(size: int) -> int:
    """A config value that gives this size; for 11,008 and 6,912 the published one."""
    if size % _STEP:
        raise ValueError(f"{size:,} is not a multiple of {_STEP}")
    return 3 * size // 2 - _STEP // 2


def _block(stack: str) -> str:
    return f"{stack}.block.{{{stack}.layer}}"


def _norms(stack: str) -> tuple[str, ...]:
    cross = ("post_inter_attn_layernorm",) if stack == "decoder" else ()
    inside = ("input_layernorm", "post_attn_layernorm", *cross)
    return (*(f"{_block(stack)}.{norm}" for norm in inside), f"{stack}.final_layernorm")


def _linear(module: str, out: str, into: str) -> Iterator[tuple[str, str]]:
    yield f"{module}.weight", f"{out}, {into}"
    yield f"{module}.bias?", out


def _stack(stack: str) -> Iterator[tuple[str, str]]:
    block = _block(stack)
    for norm in _norms(stack):
        yield f"{norm}.weight", "hidden"
        yield f"{norm}.bias", "hidden"
    yield from _linear(f"{block}.self_attn.qkv", f"{stack}.head*3*head_dim", "hidden")
    yield from _linear(f"{block}.self_attn.o", "hidden", f"{stack}.head*head_dim")
    if stack == "decoder":
        cross = "decoder.cross_head"
        yield from _linear(f"{block}.inter_attn.q", f"{cross}*head_dim", "hidden")
        yield from _linear(f"{block}.inter_attn.kv", f"{cross}*2*head_dim", "hidden")
        yield from _linear(f"{block}.inter_attn.o", "hidden", f"{cross}*head_dim")
    yield from _linear(f"{block}.mlp.fc_in", f"{stack}.ffn + {stack}.ffn", "hidden")
    yield from _linear(f"{block}.mlp.fc_out", "hidden", f"{stack}.ffn")


def _axes(stack: str, layers: Field) -> Iterator[Axis]:
    block, along = _block(stack), f"{stack}.layer"
    ffn = Field("ffn_hidden_size", codec=Codec(ffn_size, ffn_value))
    heads = Field("num_heads")
    yield Axis(f"{stack}.ffn", ffn, along, sites=(f"{block}.mlp.fc_out",), multiple=_STEP)
    yield Axis(f"{stack}.head", heads, along, sites=(f"{block}.self_attn.o",))
    if stack == "decoder":
        yield Axis("decoder.cross_head", heads, along, sites=(f"{block}.inter_attn.o",))
    yield Axis(along, layers, sites=(block,))


def _tiny(**more: Any) -> Mapping[str, Any]:
    return dict(
        model_type="openba", architectures=["OpenBAForConditionalGeneration"], vocab_size=61,
        hidden_size=24, kv_channels=10, ffn_hidden_size=640, num_layers=3, num_decoder_layers=4,
        num_heads=4, is_encoder_decoder=True, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, **more,
    )  # fmt: skip


OPENBA = Blueprint(
    model_type="openba",
    architectures=("OpenBAForConditionalGeneration",),
    axes=(
        Axis("vocab", Field("vocab_size")),
        Axis("hidden", Field("hidden_size"), sites=(*_norms("encoder"), *_norms("decoder"))),
        *_axes("encoder", Field("num_layers")),
        *_axes("decoder", Field("num_decoder_layers", default="encoder.layer")),
    ),
    fixed={"head_dim": Field("kv_channels", default=128)},
    tensors={
        "shared_embedding.weight": "vocab, hidden",
        **dict(_stack("encoder")),
        **dict(_stack("decoder")),
        "lm_head.weight?": "vocab, hidden",
        "lm_head.bias?": "vocab",
    },
    head=HeadTensors(
        "lm_head.weight",
        "shared_embedding.weight",
        copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        bias="lm_head.bias",
        tied_when=(_TIED,),
    ),
    embeddings=("shared_embedding",),
    folds=tuple(
        Fold(
            f"decoder.final_layernorm.{part}",
            "hidden",
            power=0.5,
            when=(_TIED,),
        )
        for part in ("weight", "bias")
    ),
    tiny=(
        _tiny(tie_word_embeddings=False),
        _tiny(tie_word_embeddings=True, add_qkv_bias=False, add_ffn_bias=True,
              add_lm_head_bias=False),
    ),
)  # fmt: skip
