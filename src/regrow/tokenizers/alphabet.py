"""The characters and tokens by which vocabularies write bytes and spaces."""

from collections.abc import Collection
from typing import Any

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_REST = sorted(set(range(0x100)).difference(_PRINTABLE))
_BYTE_LEVEL = {b: chr(b) for b in _PRINTABLE} | {b: chr(0x100 + n) for n, b in enumerate(_REST)}

BYTE_ALPHABET = frozenset(_BYTE_LEVEL.values())
"""The 256 characters that stand for bytes (Radford et al. 2019, section 2.2, as GPT-2 has them)."""
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(0x100))
"""SentencePiece's tokens for the 256 bytes, for characters that have no piece."""
SPACE = "\u2581"
"""SentencePiece's character for a space."""


def to_byte_level(text: str) -> str:
    """A text as byte-level vocabularies write it: one character for each byte of its UTF-8."""
    return "".join(_BYTE_LEVEL[byte] for byte in text.encode("utf-8", "surrogatepass"))


def to_sentencepiece(text: str) -> str:
    """A text as SentencePiece's vocabularies write it, with ``▁`` for each space."""
    return text.replace(" ", SPACE)


def tokens_for_alphabet(vocab: Collection[str], alphabet: Collection[str]) -> list[str]:
    """The tokens that are needed to write every character of ``alphabet`` that can be written.

    These are the characters that are tokens, and all tokens with a character that is not a token.
    """
    missing = set(alphabet).difference(vocab)
    return [token for token in vocab if token in alphabet or not missing.isdisjoint(token)]


def has_byte_fallback(tokenizer_json: dict[str, Any]) -> bool:
    """Whether each character without a token is encoded to the tokens of its bytes."""
    model = tokenizer_json["model"]
    if not model.get("byte_fallback"):
        return False
    vocab = model["vocab"]
    contents = vocab.keys() if isinstance(vocab, dict) else {piece for piece, _ in vocab}
    return contents >= set(BYTE_TOKENS)
