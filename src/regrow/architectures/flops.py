"""Floating-point operations (FLOPs) of a model, from its labelled tensors.

A matrix costs 2 * size at each position. Attention costs 2 * width for each pair of positions in
its scores, and the same again in their weighted sum; all pairs count, also under a causal mask. The
keys and values of cross-attention are computed at the positions of the encoder. An embedding is a
lookup and costs nothing. The head costs the same whether it is tied or not. Norms, biases,
activation functions and softmax are left out: far less than 1% in any large model.

A blueprint of the vocabulary alone does not know attention. Then the pairs of positions are left
out, and every matrix but the embedding counts at each position, which is too much for a mixture of
experts.

The backward pass computes two products for each product of the forward pass, so training costs
three times the forward pass. Recomputation (activation checkpointing) is not counted.
`docs/openba-v2.md` has the formula written out for OpenBA.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from regrow.architectures import LabelledTensor, Layout
from regrow.architectures.schema import axis_kind

_KEYS_AND_VALUES = re.compile(r"\.(k|v|kv|k_proj|v_proj)\.weight")
"""Matrices of cross-attention that read the encoder's output; its queries read the decoder."""
_TRAINING = 3


@dataclass(frozen=True)
class Sample:
    """The size of one sample.

    `text`: its tokens of source text. `decoder`, `encoder`: positions in each stack. In a model
    with one stack, `decoder` holds the positions and `encoder` is 0.
    """

    text: int
    decoder: int
    encoder: int = 0


@dataclass(frozen=True)
class Flops:
    """FLOPs of one forward pass over one sample, by part.

    `encoder`, `decoder`: the matrices of each stack. `cross_keys_values`: the keys and values of
    cross-attention. `scores`: attention scores and weighted sums.
    """

    encoder: int
    decoder: int
    cross_keys_values: int
    scores: int
    head: int

    @property
    def total(self) -> int:
        return self.encoder + self.decoder + self.cross_keys_values + self.scores + self.head


def forward_flops(layout: Layout, sample: Sample) -> Flops:
    """FLOPs of a forward pass over one sample, at the sizes of the layout.

    `Layout.resized` gives the layout after a cut.
    """
    costs = {"encoder": 0, "decoder": 0, "cross_keys_values": 0, "scores": 0}
    if layout.blueprint.vocabulary_only:
        for tensor in layout.tensors.values():
            if len(tensor.shape) == 2 and not tensor.dims.names:
                encoder = layout.blueprint.is_encoder_decoder and "encoder" in tensor.name
                positions = sample.encoder if encoder else sample.decoder
                costs["encoder" if encoder else "decoder"] += 2 * prod(tensor.shape) * positions
        return Flops(**costs, head=2 * _head_size(layout) * sample.decoder)
    for tensor in _matrices(layout):
        assert tensor.layer is not None
        layers = layout.sizes[tensor.layer[0]]
        out, into = (d.size(layout.sizes) for d in tensor.dims.dimensions)
        encoder = layout.blueprint.axis(tensor.layer[0]).stack == "encoder"
        cross = any("cross_" in name for name in tensor.dims.names)
        positions = sample.encoder if encoder else sample.decoder
        if cross and _KEYS_AND_VALUES.search(tensor.pattern):
            costs["cross_keys_values"] += 2 * layers * out * into * sample.encoder
        else:
            costs["encoder" if encoder else "decoder"] += 2 * layers * out * into * positions
        if _heads(tensor.dims.dimensions[1].names):
            # The projection after an attention reads as many channels as its queries have.
            attended = sample.encoder if cross else positions
            costs["scores"] += 2 * 2 * layers * into * positions * attended
    return Flops(**costs, head=2 * _head_size(layout) * sample.decoder)


def training_flops(layout: Layout, sample: Sample, tokens: int) -> int:
    """FLOPs of training on `tokens` tokens of source text, split into samples like this one."""
    return _TRAINING * forward_flops(layout, sample).total * tokens // sample.text


def _matrices(layout: Layout) -> Iterator[LabelledTensor]:
    """One tensor for each pattern of a matrix inside the layers.

    They have a hidden dimension and one of heads or ffn, which no embedding and no table has.
    """
    for tensor in {tensor.pattern: tensor for tensor in layout.tensors.values()}.values():
        kinds = {axis_kind(name) for name in tensor.dims.names}
        if len(tensor.dims.dimensions) == 2 and "hidden" in kinds and kinds & _INNER:
            yield tensor


_INNER = {"head", "kv_head", "ffn"}


def _heads(names: frozenset[str]) -> bool:
    return any(axis_kind(name) == "head" for name in names)


def _head_size(layout: Layout) -> int:
    """Parameters of the matrix that gives the logits, tied or not."""
    head, blueprint = layout.blueprint.head, layout.blueprint
    names = (head.weight, f"{head.weight}?", head.embedding)
    pattern = next(name for name in names if name in blueprint.tensors)
    rows, columns = blueprint.dims(pattern).shape(layout.sizes)
    return rows * columns
