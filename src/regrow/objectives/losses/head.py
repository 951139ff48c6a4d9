"""The head of a language model, and the hidden states that it reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regrow.common.errors import UserError
from regrow.models.document_attention import packed_mask, uses_document_attention
from regrow.objectives.losses.cross_entropy import summed_cross_entropy

_CHECKED_TOKENS = 8


@dataclass(frozen=True)
class Head:
    """From hidden states to logits: ``cap(scale * (input_scale * hidden @ weight.T + bias))``.

    Attributes:
        weight: [vocab, hidden].
        bias: [vocab], or None.
        input_scale: Factor of the hidden states (tied T5 v1.0, tied OpenBA).
        scale: Factor of the logits (Cohere, Granite).
        softcap: Bound of the logits (Gemma 2), or None.
    """

    weight: Tensor
    bias: Tensor | None
    input_scale: float
    scale: float
    softcap: float | None

    def logits(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, vocab]. All logits are in memory: only for a few tokens."""
        hidden = hidden * self.input_scale
        logits = self.scale * nn.functional.linear(hidden, self.weight, self.bias)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def loss(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats: the sum over tokens, and that of each token, [tokens].

        `hidden`: [tokens, hidden]. `targets`: token ids, [tokens].
        """
        if self.input_scale != 1.0:
            hidden = hidden * self.input_scale
        return summed_cross_entropy(
            hidden, self.weight, targets, bias=self.bias, scale=self.scale, softcap=self.softcap
        )


def head_of(model: nn.Module) -> Head:
    """The head of a transformers language model, read from its layers and its config."""
    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    config: Any = model.config
    scale = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    bias = getattr(layer, "bias", None)
    if bias is None and (buffer := getattr(model, "final_logits_bias", None)) is not None:
        bias = buffer[0]
    return Head(
        weight=layer.weight,
        bias=bias,
        input_scale=layer.weight.shape[1] ** -0.5 if _scales_its_output(config) else 1.0,
        scale=scale / divisor,
        softcap=getattr(getattr(config, "decoder", config), "final_logit_softcapping", None),
    )


def _scales_its_output(config: Any) -> bool:
    """Whether the class multiplies the head's inputs by hidden**-0.5."""
    if config.model_type == "openba":
        return bool(config.tie_word_embeddings)
    return bool(getattr(config, "scale_decoder_outputs", False))


def hidden_states(model: nn.Module, **inputs: Tensor) -> Tensor:
    """The inputs of a decoder's head, [batch, tokens, hidden], computed without a cache.

    `inputs`: of the model's forward pass. If there are `position_ids` and no `attention_mask`,
    attention stays within each of the texts that are packed into a row.
    """
    if (
        uses_document_attention(model)
        and "position_ids" in inputs
        and "attention_mask" not in inputs
    ):
        inputs["attention_mask"] = packed_mask(inputs["position_ids"])
    decoder: Any = model.base_model
    hidden: Tensor = decoder(use_cache=False, **inputs).last_hidden_state
    return hidden


def decoder_states(
    model: Any, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor
) -> Tensor:
    """The inputs of an encoder-decoder's head, [batch, target length, hidden].

    `input_ids`, `attention_mask`: [batch, source length]. `decoder_input_ids`: [batch, target
    length], padded on the right, so that causal attention never sees the padding.
    """
    source = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)
    hidden: Tensor = model.get_decoder()(
        input_ids=decoder_input_ids,
        attention_mask=torch.ones_like(decoder_input_ids),
        encoder_hidden_states=source.last_hidden_state,
        encoder_attention_mask=attention_mask,
        use_cache=False,
    ).last_hidden_state
    return hidden


def check_head(model: nn.Module) -> None:
    """Compares the logits of `head_of` with the model's own logits on a few tokens.

    Raises:
        UserError: they differ, because the model does something between hidden states and logits
            that `Head` cannot express.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(_device(model).type, enabled=False):
            head = head_of(model)
            tokens = torch.arange(_CHECKED_TOKENS, device=_device(model))[None] % len(head.weight)
            if model.config.is_encoder_decoder:  # type: ignore[union-attr]
                ones = torch.ones_like(tokens)
                hidden = decoder_states(model, tokens, ones, tokens)
                given = {
                    "attention_mask": ones,
                    "decoder_input_ids": tokens,
                    "decoder_attention_mask": ones,
                }
            else:
                hidden, given = hidden_states(model, input_ids=tokens), {}
            ours = head.logits(hidden[0])
            own = model(input_ids=tokens, use_cache=False, **given).logits[0]
    finally:
        model.train(was_training)
    difference = ((ours - own).float().norm() / own.float().norm()).item()
    # `not <` also refuses NaN.
    if not difference < (1e-3 if own.dtype == torch.float32 else 3e-2):
        raise UserError(
            f"{type(model).__name__}: its logits differ by {difference:.2g} from those of its last "
            "layer; only heads with a scale, a soft-cap and a bias can be trained and measured"
        )


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


_OFFSETS = (0, 2)
"""Additional rows of a position table: none, or two (BART)."""


def learned_positions(model: Any) -> int | None:
    """The number of learned position embeddings; None if a model has none."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tokens = model.get_input_embeddings().num_embeddings  # each stack may have its own
    tables = {m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)} - {tokens}
    if known is None or all(rows - known not in _OFFSETS for rows in tables):
        return None
    return int(known)


def check_positions(
    model: Any, length: int, widest: Callable[[int], int] = lambda length: length
) -> None:
    """Raises UserError if a row has more positions than the model has learned.

    `model`: its weights are not read. `length`: the most text tokens in a row. `widest`: the most
    slots of a row with so much text.
    """
    known = learned_positions(model)
    if known is None or max(length, widest(length)) <= known:
        return
    fitting = min(length, known)
    while widest(fitting) > known:
        fitting -= 1
    name = type(model).__name__
    if fitting == known:
        problem = f"{name} knows {known} positions; give at most so many"
    else:
        problem = (
            f"{name} knows {known} positions, and a row has up to {widest(length)} with its "
            f"special tokens; give at most {fitting}"
        )
    raise UserError(problem, key="row_length", value=length)
