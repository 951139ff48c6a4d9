"""The network of OpenBA (arXiv 2309.10706, section 3), for transformers 5.

Pre-norm blocks with LayerNorm, rotary positions in self-attention and none in cross-attention, and
a gated ffn. Tensors have the names, shapes and row orders of the published checkpoints: for each
head query, key, value in `qkv`; for each head key, value in `kv`; gate, then up in `fc_in`.

There is no table of positions, so a sequence may be longer than those of the training. Keys and
values of cross-attention are computed once for each source. Every OpenBA directory contains this
file, so it imports only torch, transformers and the configuration file beside it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_openba import OpenBAConfig

# The cache of a model's output was called past_key_values before transformers 5.24.
_CACHE = "cache" if "cache" in Seq2SeqLMOutput.__dataclass_fields__ else "past_key_values"

Rotary = tuple[Tensor, Tensor]


def rotary(positions: Tensor, size: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Cosines and sines, each [batch, 1, length, size], of positions [batch, length]."""
    even = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None, :, None].float() * (1.0 / theta ** (even / size))
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(states: Tensor, turn: Rotary) -> Tensor:
    """Rotate states [batch, heads, length, size]: dimension i pairs with i + size / 2."""
    cos, sin = turn
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, softmax in float32; `attention_mask` is added to the scores."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention by the configured implementation.

    Gives states [batch, length, heads * size], and the weights if the implementation returns them.
    """
    config: Any = module.config
    function: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
        config._attn_implementation, eager_attention
    )
    states, weights = function(
        module, query, key, value, mask,
        scaling=config.kv_channels**-0.5,
        dropout=config.attention_dropout if module.training else 0.0,
        **kwargs,
    )  # fmt: skip
    return states.flatten(2).contiguous(), weights


class OpenBASelfAttention(nn.Module):
    """Self-attention; `qkv` has rows [head, (query, key, value), size]."""

    def __init__(self, config: OpenBAConfig, layer_idx: int, is_causal: bool) -> None:
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, is_causal
        width = config.num_heads * config.kv_channels
        self.qkv = nn.Linear(config.hidden_size, 3 * width, bias=config.add_qkv_bias)
        self.o = nn.Linear(width, config.hidden_size, bias=config.add_qkv_bias)

    def forward(
        self, hidden: Tensor, turn: Rotary, mask: Any, cache: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        states = self.qkv(hidden).unflatten(-1, (-1, 3, self.config.kv_channels))
        query, key, value = states.permute(3, 0, 2, 1, 4)
        query, key = rotate(query, turn), rotate(key, turn)
        if cache is not None:
            key, value = cache.self_attention_cache.update(key, value, self.layer_idx)
        states, weights = attend(self, query, key, value, mask, **kwargs)
        return self.o(states), weights


class OpenBACrossAttention(nn.Module):
    """Attention from the decoder to the encoder; `kv` has rows [head, (key, value), size]."""

    is_causal = False

    def __init__(self, config: OpenBAConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        width = config.num_heads * config.kv_channels
        self.q = nn.Linear(config.hidden_size, width, bias=config.add_qkv_bias)
        self.kv = nn.Linear(config.hidden_size, 2 * width, bias=config.add_qkv_bias)
        self.o = nn.Linear(width, config.hidden_size, bias=config.add_qkv_bias)

    def forward(
        self, hidden: Tensor, source: Tensor, mask: Any, cache: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        size = self.config.kv_channels
        query = self.q(hidden).unflatten(-1, (-1, size)).transpose(1, 2)
        if cache is not None and cache.is_updated.get(self.layer_idx):
            layer = cache.cross_attention_cache.layers[self.layer_idx]
            key, value = layer.keys, layer.values
        else:
            key, value = self.kv(source).unflatten(-1, (-1, 2, size)).permute(3, 0, 2, 1, 4)
            if cache is not None:
                key, value = cache.cross_attention_cache.update(key, value, self.layer_idx)
                cache.is_updated[self.layer_idx] = True
        states, weights = attend(self, query, key, value, mask, **kwargs)
        return self.o(states), weights


class OpenBAMLP(nn.Module):
    """Gated ffn; `fc_in` has the rows of the gate, then the rows of the up projection."""

    def __init__(self, config: OpenBAConfig) -> None:
        super().__init__()
        self.fc_in = nn.Linear(config.hidden_size, 2 * config.ffn_size, bias=config.add_ffn_bias)
        self.fc_out = nn.Linear(config.ffn_size, config.hidden_size, bias=config.add_ffn_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.fc_in(hidden).chunk(2, dim=-1)
        return self.fc_out(nn.functional.silu(gate) * up)


def layer_norm(config: OpenBAConfig) -> nn.LayerNorm:
    """LayerNorm with weight and bias over the residual stream."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)


class OpenBAEncoderBlock(GradientCheckpointingLayer):
    """Self-attention and ffn."""

    def __init__(self, config: OpenBAConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = layer_norm(config)
        self.self_attn = OpenBASelfAttention(config, layer_idx, is_causal=False)
        self.post_attn_layernorm = layer_norm(config)
        self.mlp = OpenBAMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor, turn: Rotary, mask: Any, **kwargs: Any) -> Tensor:
        states, _ = self.self_attn(self.input_layernorm(hidden), turn, mask, **kwargs)
        hidden = hidden + self.dropout(states)
        return hidden + self.dropout(self.mlp(self.post_attn_layernorm(hidden)))


class OpenBADecoderBlock(GradientCheckpointingLayer):
    """Causal self-attention, cross-attention and ffn."""

    def __init__(self, config: OpenBAConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = layer_norm(config)
        self.self_attn = OpenBASelfAttention(config, layer_idx, is_causal=True)
        self.post_attn_layernorm = layer_norm(config)
        self.inter_attn = OpenBACrossAttention(config, layer_idx)
        self.post_inter_attn_layernorm = layer_norm(config)
        self.mlp = OpenBAMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden: Tensor,
        source: Tensor,
        turn: Rotary,
        mask: Any,
        source_mask: Any,
        kv: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        states, _ = self.self_attn(self.input_layernorm(hidden), turn, mask, kv, **kwargs)
        hidden = hidden + self.dropout(states)
        states = self.post_attn_layernorm(hidden)
        states, _ = self.inter_attn(states, source, source_mask, kv, **kwargs)
        hidden = hidden + self.dropout(states)
        return hidden + self.dropout(self.mlp(self.post_inter_attn_layernorm(hidden)))


class OpenBAPreTrainedModel(PreTrainedModel):
    """How all parts are loaded, saved, split over devices and initialised."""

    config: Any
    config_class = OpenBAConfig
    base_model_prefix = "openba"
    supports_gradient_checkpointing = True
    _no_split_modules = ["OpenBAEncoderBlock", "OpenBADecoderBlock"]
    _skip_keys_device_placement = ["cache", "past_key_values", "kv"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True


class _Stack(OpenBAPreTrainedModel):
    """The encoder or the decoder. Only the model registers the shared embedding as a module."""

    block_class: type[nn.Module]

    def __init__(self, config: OpenBAConfig, embedding: nn.Module, layers: Any) -> None:
        super().__init__(config)
        self.share(embedding)
        self.block = nn.ModuleList(self.block_class(config, i) for i in range(layers))
        self.final_layernorm = layer_norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.gradient_checkpointing = False
        self.post_init()

    def share(self, embedding: nn.Module) -> None:
        """Use this module as the input embedding."""
        object.__setattr__(self, "embed_tokens", embedding)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def embed(self, ids: Tensor | None, embeds: Tensor | None) -> Tensor:
        """Embed ids, or take given embeddings; raise ValueError unless exactly one is given."""
        if (ids is None) is (embeds is None):
            raise ValueError("give either ids or embeddings")
        return self.dropout(self.embed_tokens(ids) if embeds is None else embeds)

    def turn(self, hidden: Tensor, positions: Tensor) -> Rotary:
        """Rotary cosines and sines in the dtype of the hidden states."""
        config = self.config
        return rotary(positions, config.kv_channels, config.rope_theta, hidden.dtype)


class OpenBAEncoder(_Stack):
    """The encoder: from source tokens to hidden states."""

    block_class = OpenBAEncoderBlock
    _can_record_outputs = {
        "hidden_states": OpenBAEncoderBlock,
        "attentions": OutputRecorder(OpenBASelfAttention, index=1),
    }

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Hidden states [batch, length, hidden] of source ids [batch, length].

        `attention_mask`: [batch, length], 0 for padding; or [batch, 1, length, length].
        """
        for name in ("cache", "past_key_values", "use_cache"):
            kwargs.pop(name, None)
        hidden = self.embed(input_ids, inputs_embeds)
        if position_ids is None:
            position_ids = torch.arange(hidden.shape[1], device=hidden.device)[None]
        mask = create_bidirectional_mask(self.config, hidden, attention_mask)
        turn = self.turn(hidden, position_ids)
        for block in self.block:
            hidden = block(hidden, turn, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.dropout(self.final_layernorm(hidden)))


class OpenBADecoder(_Stack):
    """The decoder: from target tokens and the encoder's hidden states to hidden states."""

    block_class = OpenBADecoderBlock
    _can_record_outputs = {
        "hidden_states": OpenBADecoderBlock,
        "attentions": OutputRecorder(OpenBASelfAttention, index=1),
        "cross_attentions": OutputRecorder(OpenBACrossAttention, index=1),
    }

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Hidden states [batch, length, hidden] of target ids [batch, length].

        `encoder_hidden_states`: [batch, source length, hidden]. `attention_mask`: of the target.
        `encoder_attention_mask`: of the source. Both have the form of the encoder's mask. `cache`
        and `past_key_values` are two names of the same argument.
        """
        if encoder_hidden_states is None:
            raise ValueError("encoder_hidden_states is missing: the decoder reads the encoder")
        kv = past_key_values if cache is None else cache
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            kv = None
        elif kv is None and use_cache and not self.training:
            kv = EncoderDecoderCache(DynamicCache(), DynamicCache())
        hidden = self.embed(input_ids, inputs_embeds)
        if position_ids is None:
            seen = kv.get_seq_length() if kv is not None else 0
            position_ids = (torch.arange(hidden.shape[1], device=hidden.device) + seen)[None]
        own = None if kv is None else kv.self_attention_cache
        mask = create_causal_mask(self.config, hidden, attention_mask, own, position_ids)
        source_mask = create_bidirectional_mask(
            self.config, hidden, encoder_attention_mask, encoder_hidden_states
        )
        turn = self.turn(hidden, position_ids)
        for block in self.block:
            hidden = block(
                hidden, encoder_hidden_states, turn, mask, source_mask, kv=kv, **kwargs
            )  # fmt: skip
        hidden = self.dropout(self.final_layernorm(hidden))
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden, **{_CACHE: kv})


class OpenBAForConditionalGeneration(OpenBAPreTrainedModel, GenerationMixin):
    """OpenBA with its language-model head."""

    _tied_weights_keys = {"lm_head.weight": "shared_embedding.weight"}
    # Some checkpoints store the shared embedding again under these names.
    _keys_to_ignore_on_load_unexpected = [r"^(encoder|decoder)\.embed_tokens\.weight$"]

    def __init__(self, config: OpenBAConfig) -> None:
        super().__init__(config)
        self.shared_embedding: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = OpenBAEncoder(config, self.shared_embedding, config.num_layers)
        self.decoder = OpenBADecoder(config, self.shared_embedding, config.num_decoder_layers)
        bias = config.add_lm_head_bias
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=bias)
        self.loss_type = "ForMaskedLM"
        self.post_init()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "shared_embedding":  # adapters and quantisers put their own module here
            for stack in ("encoder", "decoder"):
                if stack in self._modules:
                    getattr(self, stack).share(value)

    def get_input_embeddings(self) -> nn.Module:
        return self.shared_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.shared_embedding = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: Any = None,
        cache: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Logits [batch, target length, vocab], and the loss if there are `labels`.

        `labels`: [batch, target length], -100 where a position has no loss. If no decoder input is
        given, it is made from the labels.
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                **kwargs,
            )
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            use_cache=use_cache,
            cache=past_key_values if cache is None else cache,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = hidden[:, kept]
        if self.config.tie_word_embeddings:
            hidden = hidden * self.config.hidden_size**-0.5
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
            **{_CACHE: outputs.get(_CACHE)},
        )

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The decoder's input [batch, length]: the start token, then the labels shifted by one."""
        ids = labels.new_full(labels.shape, self.config.decoder_start_token_id)
        ids[:, 1:] = labels[:, :-1]
        return ids.masked_fill_(ids == -100, self.config.pad_token_id)
