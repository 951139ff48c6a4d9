"""Configuration of OpenBA (arXiv 2309.10706), with the field names of its published checkpoints.

Every OpenBA directory contains this file, so it imports only transformers.
"""

from typing import Any

from transformers import PreTrainedConfig


class OpenBAConfig(PreTrainedConfig):
    """An encoder-decoder with a shallow encoder and a deep decoder.

    Attributes:
        num_layers: Layers of the encoder.
        num_decoder_layers: Layers of the decoder; None for as many as the encoder has.
        kv_channels: Head size; it may differ from `hidden_size // num_heads`.
        ffn_hidden_size: Not the size of the ffn; see `ffn_size`.
        tie_word_embeddings: If true, the decoder's output is multiplied by hidden_size**-0.5 before
            the shared head. The published code did not write the field if it was true; the
            published checkpoints say false and store a head.
    """

    model_type = "openba"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    # transformers sizes the decoder's cache by `num_hidden_layers`.
    attribute_map = {
        "num_hidden_layers": "num_decoder_layers",
        "num_attention_heads": "num_heads",
        "head_dim": "kv_channels",
    }

    vocab_size: int = 250_203
    hidden_size: int = 4_096
    kv_channels: int = 128
    ffn_hidden_size: int = 16_384
    num_layers: int = 12
    num_decoder_layers: int | None = None
    num_heads: int = 40
    add_qkv_bias: bool = True
    add_ffn_bias: bool = False
    add_lm_head_bias: bool = True
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    layer_norm_epsilon: float = 1e-5
    rope_theta: float | int = 10_000.0
    max_seq_length: int = 1_024
    decoder_max_seq_length: int = 1_024
    initializer_range: float = 0.02
    use_cache: bool = True
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_layers
        super().__post_init__(**kwargs)

    @property
    def ffn_size(self) -> int:
        """Neurons of the ffn: two thirds of `ffn_hidden_size`, rounded up to a multiple of 256."""
        return -(-int(2 * self.ffn_hidden_size / 3) // 256) * 256
