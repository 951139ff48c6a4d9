"""Which objectives there are, and for which models."""

from regrow.common.errors import UserError

FOR_DECODERS = (
    "causal", "prefix-lm", "fill-in-the-middle", "span-corruption", "ul2", "d-ul2",
    "o-ul2",
)  # fmt: skip
FOR_ENCODER_DECODERS = ("span-corruption", "ul2", "d-ul2", "o-ul2")
"""The first of either is what such a model is trained with where nothing is named."""


def objective_name(named: str | None, *, is_encoder_decoder: bool) -> str:
    """The objective of a model: as named, or the one that its kind is trained with.

    Raises UserError where a model of this kind cannot learn what is named.
    """
    names = FOR_ENCODER_DECODERS if is_encoder_decoder else FOR_DECODERS
    if named is None:
        return names[0]
    if named not in names:
        kind = "an encoder-decoder" if is_encoder_decoder else "a decoder"
        raise UserError(f"{named} is not for {kind}; give one of {', '.join(names)}")
    return named
