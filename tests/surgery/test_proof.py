"""Every blueprint is proved, and wrong ones are refused."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from regrow.architectures import BLUEPRINTS, Blueprint
from regrow.architectures.schema import Field, Fold
from regrow.common.errors import UserError
from regrow.cuts.claims import ProofError
from regrow.surgery.proof import prove
from tests.tiny import tiny_layout as bind_tiny

CASES = [
    pytest.param(blueprint, tiny, number, id=f"{blueprint.model_type}-{number}")
    for blueprint in BLUEPRINTS
    for number, tiny in enumerate(blueprint.tiny)
]


@pytest.mark.parametrize(("blueprint", "tiny", "seed"), CASES)
def test_blueprint_is_proved(blueprint: Blueprint, tiny: Mapping[str, Any], seed: int) -> None:
    findings = prove(blueprint, tiny, seed)
    permuted = sum(f.claim.startswith("permute") for f in findings)
    assert permuted == sum(axis.kind != "layer" for axis in blueprint.axes)
    assert len(findings) - permuted == len(blueprint.axes)


def _labelled(blueprint: Blueprint, changes: Mapping[str, str]) -> Blueprint:
    assert changes.keys() <= blueprint.tensors.keys()
    return replace(blueprint, tensors={**blueprint.tensors, **changes})


_BY_TYPE = {blueprint.model_type: blueprint for blueprint in BLUEPRINTS}
_LLAMA = _BY_TYPE["llama"]
_NEOX = _BY_TYPE["gpt_neox"]
_GEMMA2 = _BY_TYPE["gemma2"]
_GEMMA3 = _BY_TYPE["gemma3_text"]
_MISTRAL = _BY_TYPE["mistral"]
_GRANITE = _BY_TYPE["granite"]
_QWEN2 = _BY_TYPE["qwen2"]
_QWEN3 = _BY_TYPE["qwen3"]
_MIXTRAL = _BY_TYPE["mixtral"]
_OLMOE = _BY_TYPE["olmoe"]
_OLMO2 = _BY_TYPE["olmo2"]
_PHI3 = _BY_TYPE["phi3"]
_T5 = _BY_TYPE["t5"]
_T5GEMMA = _BY_TYPE["t5gemma"]
_MT5 = _BY_TYPE["mt5"]
_UMT5 = _BY_TYPE["umt5"]
_BART = _BY_TYPE["bart"]
_MBART = _BY_TYPE["mbart"]
_OPENBA = _BY_TYPE["openba"]
_QKV = "gpt_neox.layers.{layer}.attention.query_key_value"
_ATTENTION = "model.layers.{layer}.self_attn"
_BLOCK_0 = "decoder.block.0.layer.0.SelfAttention"
_CROSS = "model.decoder.layers.{decoder.layer}.encoder_attn"

WRONG = {
    "llama: no rule for hidden and heads": (replace(_LLAMA, constraints=()), 0),
    "llama: heads inside out": (
        _labelled(
            _LLAMA,
            {"model.layers.{layer}.self_attn.q_proj.weight": "head_dim*head, hidden"},
        ),
        0,
    ),
    "llama: a norm declared fixed": (
        _labelled(_LLAMA, {"model.layers.{layer}.input_layernorm.weight": "24"}),
        0,
    ),
    "gpt_neox: query, key, value as blocks": (
        _labelled(_NEOX, {f"{_QKV}.weight": "3*head*head_dim, hidden"}),
        0,
    ),
    "gpt_neox: only the bias as blocks": (
        _labelled(_NEOX, {f"{_QKV}.bias?": "3*head*head_dim"}),
        0,
    ),
    "gemma2: nothing folded": (replace(_GEMMA2, folds=()), 0),
    "gemma2: untied, nothing folded": (replace(_GEMMA2, folds=()), 1),
    "gemma2: only the embedding folded": (replace(_GEMMA2, folds=_GEMMA2.folds[:1]), 0),
    "gemma2: norm stored as itself": (
        replace(
            _GEMMA2, folds=(_GEMMA2.folds[0], replace(_GEMMA2.folds[1], offset=0.0))
        ),
        0,
    ),
    "gemma2: attention pattern not sliced": (replace(_GEMMA2, lists={}), 0),
    "gemma2: attention pattern made anew": (replace(_GEMMA2, lists={}), 1),
    "gemma3: attention pattern made anew": (replace(_GEMMA3, lists={}), 0),
    "gemma3: nothing folded": (replace(_GEMMA3, folds=()), 1),
    "qwen2: windows made anew": (replace(_QWEN2, lists={}), 0),
    "qwen3: heads inside out": (
        _labelled(_QWEN3, {f"{_ATTENTION}.q_proj.weight": "head_dim*head, hidden"}),
        0,
    ),
    "mixtral: routers keep all experts": (
        _labelled(
            _MIXTRAL,
            {"model.layers.{layer}.block_sparse_moe.gate.weight": "5, hidden"},
        ),
        0,
    ),
    "olmoe: norms of all heads forgotten": (
        replace(_OLMOE, axes=tuple(replace(each, inside_norms=()) for each in _OLMOE.axes)),
        0,
    ),
    "mistral: heads not tied to key-value heads": (
        replace(
            _MISTRAL,
            axes=tuple(replace(a, groups=None) if a.name == "head" else a for a in _MISTRAL.axes),
        ),
        0,
    ),
    "granite: heads inside out": (
        _labelled(_GRANITE, {f"{_ATTENTION}.o_proj.weight": "hidden, head_dim*head"}),
        0,
    ),
    "granite: gate declared fixed": (
        _labelled(_GRANITE, {"model.layers.{layer}.mlp.gate_proj.weight": "20, hidden"}),
        1,
    ),
    "granite: a multiplier taken for a size": (
        replace(_GRANITE, folds=(Fold("model.embed_tokens.weight", "hidden", power=-0.5),)),
        0,
    ),
    "granite: tied, a multiplier taken for a size": (
        replace(_GRANITE, folds=(Fold("model.norm.weight", "hidden", power=0.5, tied=True),)),
        1,
    ),
    "olmo2: query norm inside out": (
        _labelled(_OLMO2, {"model.layers.{layer}.self_attn.q_norm.weight": "head_dim*head"}),
        0,
    ),
    "olmo2: heads not tied to key-value heads": (
        replace(
            _OLMO2,
            axes=tuple(replace(a, groups=None) if a.name == "head" else a for a in _OLMO2.axes),
        ),
        0,
    ),
    "phi3: key block first": (
        _labelled(
            _PHI3,
            {
                "model.layers.{layer}.self_attn.qkv_proj.weight": (
                    "kv_head*head_dim + head*head_dim + kv_head*head_dim, hidden"
                )
            },
        ),
        0,
    ),
    "phi3: gate and up interleaved": (
        _labelled(_PHI3, {"model.layers.{layer}.mlp.gate_up_proj.weight": "ffn*2, hidden"}),
        0,
    ),
    "phi3: longrope unnoticed": (replace(_PHI3, constraints=()), 1),
    "t5: v1.0 not folded": (replace(_T5, folds=()), 1),
    "t5: v1.1 folded as v1.0": (
        replace(_T5, folds=tuple(replace(fold, when=()) for fold in _T5.folds)),
        0,
    ),
    "t5: heads chosen layer by layer": (
        replace(
            _T5,
            axes=tuple(
                replace(a, along="decoder.layer") if a.name == "decoder.head" else a
                for a in _T5.axes
            ),
        ),
        0,
    ),
    "t5gemma: cross-attention reads the decoder": (
        _labelled(
            _T5GEMMA,
            {
                "model.decoder.layers.{decoder.layer}.cross_attn.k_proj.weight": (
                    "decoder.cross_kv_head*decoder.head_dim, decoder.hidden"
                )
            },
        ),
        0,
    ),
    "t5gemma: cross-attention shares the choice of self-attention": (
        _labelled(
            _T5GEMMA,
            {
                "model.decoder.layers.{decoder.layer}.cross_attn.o_proj.weight": (
                    "decoder.hidden, decoder.head*decoder.head_dim"
                )
            },
        ),
        0,
    ),
    "t5gemma: encoder's scale forgotten": (replace(_T5GEMMA, folds=_T5GEMMA.folds[1:]), 0),
    "mt5: folded as T5 v1.0": (replace(_MT5, folds=_T5.folds), 1),
    "mt5: columns of the position bias not heads": (
        _labelled(_MT5, {f"{_BLOCK_0}.relative_attention_bias.weight": "buckets, 4"}),
        0,
    ),
    "mt5: heads of self-attention in cross-attention": (
        _labelled(
            _MT5,
            {
                "decoder.block.{decoder.layer}.layer.1.EncDecAttention.o.weight": (
                    "hidden, decoder.head*head_dim"
                )
            },
        ),
        0,
    ),
    "umt5: not folded": (replace(_UMT5, folds=()), 1),
    "umt5: folded though untied": (
        replace(_UMT5, folds=tuple(replace(fold, when=()) for fold in _UMT5.folds)),
        0,
    ),
    "umt5: columns of the position bias not heads": (
        _labelled(
            _UMT5,
            {
                "encoder.block.{encoder.layer}.layer.0.SelfAttention.relative_attention_bias.weight"
                : "buckets, 4"
            },
        ),
        0,
    ),
    "bart: the scale not refused": (
        replace(_BART, needs=(), tiny=({**_BART.tiny[0], "scale_embedding": True},)),
        0,
    ),
    "bart: heads of self-attention in cross-attention": (
        _labelled(_BART, {f"{_CROSS}.out_proj.weight": "hidden, decoder.head*decoder.head_dim"}),
        0,
    ),
    "bart: positions not cut": (
        _labelled(_BART, {"model.encoder.embed_positions.weight": "2 + position, 24"}),
        0,
    ),
    "bart: heads cut without hidden": (
        replace(_BART, fixed={**_BART.fixed, "encoder.head_dim": Field(None, default=3)}),
        0,
    ),
    "mbart: the last norm without its bias": (replace(_MBART, folds=_MBART.folds[:-1]), 0),
    "mbart: the embedding not folded": (replace(_MBART, folds=_MBART.folds[4:]), 0),
    "mbart: folded though not scaled": (
        replace(_MBART, folds=tuple(replace(fold, when=()) for fold in _MBART.folds)),
        1,
    ),
    "mbart: bias of the logits not cut": (_labelled(_MBART, {"final_logits_bias?": "1, 61"}), 0),
    "openba: query, key, value as blocks": (
        _labelled(
            _OPENBA,
            {
                "encoder.block.{encoder.layer}.self_attn.qkv.weight": (
                    "3*encoder.head*head_dim, hidden"
                )
            },
        ),
        0,
    ),
    "openba: tied, not folded": (replace(_OPENBA, folds=()), 1),
}  # fmt: skip


@pytest.mark.parametrize(("blueprint", "number"), WRONG.values(), ids=WRONG.keys())
def test_wrong_blueprint_is_rejected(blueprint: Blueprint, number: int) -> None:
    with pytest.raises(ProofError):
        [prove(blueprint, blueprint.tiny[number], seed) for seed in range(4)]


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda b: b.model_type)
def test_every_unlabelled_tensor_is_noticed(blueprint: Blueprint) -> None:
    held = {tensor.pattern for tensor in bind_tiny(blueprint).tensors.values()}
    for pattern in blueprint.tensors:
        tensors = {name: dims for name, dims in blueprint.tensors.items() if name != pattern}
        unlabelled = replace(blueprint, tensors=tensors)
        if pattern.removesuffix("?") in held:
            with pytest.raises(UserError, match="unknown"):
                bind_tiny(unlabelled)
        else:
            assert pattern.endswith("?")
