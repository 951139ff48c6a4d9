"""Published numbers of the OpenBA-V2 report (arXiv 2405.05957, tables 1 and 3).

A recipe says what to do; this module holds what the report measured for the same models, so that a
plan can be compared with the report.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from regrow.architectures.flops import SampleShape


@dataclass(frozen=True)
class Training:
    """One row of table 1: a model and its training.

    Attributes:
        name: The name of the model in the report.
        parameters: As printed in the report.
        layers: Layers of the encoder and of the decoder.
        hidden: Hidden size.
        ffn: Inner size of the feed-forward networks.
        heads: Attention heads.
        sample: Shape of one training sample.
        tokens: Tokens of source text in the training.
        objective: As printed in the report.
        flops: Floating-point operations of the training, as printed.
        loss: Right after the cut, and after the training; None if table 3 does not have it.
    """

    name: str
    parameters: str
    layers: tuple[int, int]
    hidden: int
    ffn: int
    heads: int
    sample: SampleShape
    tokens: int
    objective: str
    flops: float
    loss: tuple[float | None, float | None] = (None, None)

    def is_of(self, model_type: str, sizes: Mapping[str, int]) -> bool:
        """Whether a model has the sizes of this row; the vocabulary size is not compared."""
        return model_type == "openba" and (
            (sizes["encoder.layer"], sizes["decoder.layer"], sizes["hidden"]),
            (sizes["decoder.ffn"], sizes["decoder.head"]),
        ) == ((*self.layers, self.hidden), (self.ffn, self.heads))


# The report gives 570 and 380 positions. They hold a text of 568 tokens: the longest source is a
# prefix, 567 tokens, a sentinel and eos; the longest target is 284 tokens, 95 sentinels and eos.
_UL2 = SampleShape(text=568, encoder=570, decoder=380)
# The report gives no lengths; these are from the script that was released with it.
_O_UL2 = SampleShape(text=2_048, encoder=1_040, decoder=1_040)
_WIDE, _NARROW = (4_096, 11_008, 40), (2_560, 6_912, 20)

OPENBA_V2: tuple[Training, ...] = (
    Training("OpenBA", "15B", (12, 36), *_WIDE, _UL2, 350_000_000_000, "UL2", 277.1e20,
             loss=(None, 1.73)),
    Training("stage 1", "12.3B", (10, 30), *_WIDE, _UL2, 10_000_000_000, "D-UL2", 6.7e20,
             loss=(1.85, 1.76)),
    Training("stage 2", "11.0B", (8, 27), *_WIDE, _UL2, 10_000_000_000, "D-UL2", 5.9e20,
             loss=(1.90, 1.80)),
    Training("stage 3", "9.9B", (8, 24), *_WIDE, _UL2, 15_000_000_000, "D-UL2", 8.1e20,
             loss=(1.89, 1.82)),
    Training("stage 4", "3.8B", (8, 24), *_NARROW, _UL2, 65_000_000_000, "D-UL2", 13.0e20,
             loss=(2.28, None)),
    Training("stage 5", "3.8B", (8, 24), *_NARROW, _O_UL2, 700_000_000_000, "O-UL2", 99.1e20),
)  # fmt: skip


def published_original(model_type: str, sizes: Mapping[str, int]) -> Training | None:
    """The report's training of the original model; None if these are not its sizes."""
    first = OPENBA_V2[0]
    return first if first.is_of(model_type, sizes) else None


def published_training(
    model_type: str, sizes: Mapping[str, int], tokens: int, text: int
) -> Training | None:
    """The row of the report with these sizes, tokens, and `text` tokens in a sample; or None."""
    for row in OPENBA_V2[1:]:
        if row.is_of(model_type, sizes) and (row.tokens, row.sample.text) == (tokens, text):
            return row
    return None
