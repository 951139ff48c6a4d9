"""UMT5 (Chung et al., 2023): T5 v1.1 with a position bias in every block.

Each block therefore has its own choice of self-attention heads, and a dropped block takes its bias
with it.
"""

from regrow.architectures.t5 import SCALED, DefaultSizes, t5_like

UMT5 = t5_like(
    "umt5",
    ("UMT5ForConditionalGeneration",),
    defaults=DefaultSizes(ffn=1_024, heads=6),
    scaled=SCALED,
    bias_in_every_block=True,
    tiny=(
        dict(num_decoder_layers=4, tie_word_embeddings=False),
        dict(feed_forward_proj="relu"),
    ),
)
