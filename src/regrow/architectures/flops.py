"""Floating-point operations (FLOPs) of a model, from its labelled tensors.

- A matrix costs 2 * size operations for each position that is multiplied by it.
- Attention costs 2 * width for each pair of positions in its scores, and as much again in the
  weighted sum of values. All pairs are counted, also under a causal mask. The keys and values of
  cross-attention are computed at the positions of the encoder.
- A matrix of experts costs as much as those of the experts that compute one token.
- The embedding is a lookup and costs nothing. The head costs the same whether it is tied or not.
- Norms, biases, activations and softmax are left out: far less than 1% in any large model.

For an architecture without a blueprint of its own, attention scores are left out, and every matrix
except the embedding is counted at every position. For a mixture of experts this is too much.

The backward pass computes two matrix products for each product of the forward pass, so training
costs three times the forward pass. Activation checkpointing is not counted; it would add to this.
`docs/openba-v2.md` writes the formula out for OpenBA.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from regrow.architectures import LabelledTensor, Layout
from regrow.architectures.schema import ACTIVE_EXPERTS, axis_kind

_KEYS_AND_VALUES = re.compile(r"\.(k|v|kv|k_proj|v_proj)\.weight")
"""Cross-attention multiplies the encoder's output by these; queries come from the decoder."""
_TRAINING = 3


@dataclass(frozen=True)
class SampleShape:
    """How much text one training sample holds, and how many positions it fills.

    Attributes:
        text: Tokens of text.
        decoder: Positions in the decoder; in a decoder-only model, in its one stack.
        encoder: Positions in the encoder; 0 in a decoder-only model.
    """

    text: int
    decoder: int
    encoder: int = 0


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass over one sample.

    Attributes:
        encoder: Matrices of the encoder's layers.
        decoder: Matrices of the decoder's layers, except `cross_keys_values`.
        cross_keys_values: Key and value projections of cross-attention.
        scores: Attention scores and weighted sums of values, in all stacks.
        head: The matrix that gives the logits.
    """

    encoder: int
    decoder: int
    cross_keys_values: int
    scores: int
    head: int

    @property
    def total(self) -> int:
        return self.encoder + self.decoder + self.cross_keys_values + self.scores + self.head


def forward_flops(layout: Layout, sample: SampleShape) -> Flops:
    """Operations of a forward pass over one sample.

    `layout`: its sizes are counted; `Layout.resized` gives a layout with the sizes after a cut.
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
        if tensor.expert is not None:
            layers *= min(layout.sizes[tensor.expert[0]], layout.sizes[ACTIVE_EXPERTS])
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


def training_flops(layout: Layout, sample: SampleShape, tokens: int) -> int:
    """Operations of training on `tokens` tokens of text, in samples of this shape."""
    return _TRAINING * forward_flops(layout, sample).total * tokens // sample.text


def _matrices(layout: Layout) -> Iterator[LabelledTensor]:
    """One tensor for each pattern of matrices inside the layers.

    Such a matrix has a hidden dimension and a head, ffn or expert dimension, or is of one expert;
    embeddings and tables of positions are not.
    """
    for tensor in {tensor.pattern: tensor for tensor in layout.tensors.values()}.values():
        kinds = {axis_kind(name) for name in tensor.dims.names}
        is_inner = kinds & _INNER or tensor.expert is not None
        if len(tensor.dims.dimensions) == 2 and "hidden" in kinds and is_inner:
            yield tensor


_INNER = {"head", "kv_head", "ffn", "expert"}


def _heads(names: frozenset[str]) -> bool:
    return any(axis_kind(name) == "head" for name in names)


def _head_size(layout: Layout) -> int:
    """Elements of the matrix that gives the logits, tied or not."""
    head, blueprint = layout.blueprint.head, layout.blueprint
    names = (head.weight, f"{head.weight}?", head.embedding)
    pattern = next(name for name in names if name in blueprint.tensors)
    rows, columns = blueprint.dims(pattern).shape(layout.sizes)
    return rows * columns
