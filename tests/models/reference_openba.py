"""OpenBA written out as it was published, the second way by which the network is tested.

One head at a time, scores in float32, -10,000 where nothing may be seen, a table of rotations, and
no cache. It shares nothing with the package.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
HIDDEN = -10_000.0


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    y = x @ weights[f"{name}.weight"].T
    bias = weights.get(f"{name}.bias")
    return y if bias is None else y + bias


def norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def rotated(x: Tensor) -> Tensor:
    """[length, size], from a table with a row for each position."""
    length, size = x.shape
    rates = 1.0 / (10_000 ** (torch.arange(0, size, 2).float() / size))
    table = torch.outer(torch.arange(length).float(), rates)
    half = size // 2
    low, high = x[:, :half], x[:, half:]
    cos, sin = table.cos(), table.sin()
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=1)


def head(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """One head: [queries, size]; `seen` [queries, keys] says which keys may be seen."""
    scores = (q @ k.T).float() / q.shape[1] ** 0.5
    return torch.softmax(scores + HIDDEN * (~seen).float(), dim=1) @ v


def self_attention(x: Tensor, seen: Tensor, weights: Weights, name: str, size: int) -> Tensor:
    fused = linear(x, weights, f"{name}.qkv")
    out = []
    for start in range(0, fused.shape[1], 3 * size):
        q, k, v = (fused[:, start + i * size : start + (i + 1) * size] for i in range(3))
        out.append(head(rotated(q), rotated(k), v, seen))
    return linear(torch.cat(out, 1), weights, f"{name}.o")


def cross_attention(
    x: Tensor, source: Tensor, seen: Tensor, weights: Weights, name: str, size: int
) -> Tensor:
    queries = linear(x, weights, f"{name}.q")
    fused = linear(source, weights, f"{name}.kv")
    out = []
    for number in range(queries.shape[1] // size):
        q = queries[:, number * size : (number + 1) * size]
        k = fused[:, 2 * number * size : (2 * number + 1) * size]
        v = fused[:, (2 * number + 1) * size : (2 * number + 2) * size]
        out.append(head(q, k, v, seen))
    return linear(torch.cat(out, 1), weights, f"{name}.o")


def ffn(x: Tensor, weights: Weights, name: str) -> Tensor:
    both = linear(x, weights, f"{name}.fc_in")
    gate, up = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
    return linear(gate * torch.sigmoid(gate) * up, weights, f"{name}.fc_out")


def logits(config: Any, weights: Weights, source: Tensor, mask: Tensor, target: Tensor) -> Tensor:
    """[target length, vocab] of one pair; `mask` [source length], 0 for padding."""
    size = config.kv_channels
    x = weights["shared_embedding.weight"][source]
    seen = mask.bool()[None].expand(len(source), -1)
    for i in range(config.num_layers):
        block = f"encoder.block.{i}"
        normed = norm(x, weights, f"{block}.input_layernorm")
        x = x + self_attention(normed, seen, weights, f"{block}.self_attn", size)
        x = x + ffn(norm(x, weights, f"{block}.post_attn_layernorm"), weights, f"{block}.mlp")
    encoded = norm(x, weights, "encoder.final_layernorm")

    x = weights["shared_embedding.weight"][target]
    causal = torch.ones(len(target), len(target)).tril().bool()
    from_target = mask.bool()[None].expand(len(target), -1)
    for i in range(config.num_decoder_layers):
        block = f"decoder.block.{i}"
        normed = norm(x, weights, f"{block}.input_layernorm")
        x = x + self_attention(normed, causal, weights, f"{block}.self_attn", size)
        normed = norm(x, weights, f"{block}.post_attn_layernorm")
        x = x + cross_attention(normed, encoded, from_target, weights, f"{block}.inter_attn", size)
        x = x + ffn(norm(x, weights, f"{block}.post_inter_attn_layernorm"), weights, f"{block}.mlp")
    x = norm(x, weights, "decoder.final_layernorm")
    if config.tie_word_embeddings:
        x = x * config.hidden_size**-0.5
    return linear(x, weights, "lm_head")
