"""How a smaller vocabulary spells the tokens that a cut took from it."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from regrow.tokenizers.alphabet import BYTE_TOKENS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTES = {name: bytes([byte]) for byte, name in enumerate(BYTE_TOKENS)}


def spellings(
    before: "Tokenizer", after: "Tokenizer", kept: Collection[int]
) -> dict[int, tuple[int, ...]]:
    """The tokens of `after` that spell each token of `before` that is not kept.

    The keys are ids in `before`, ascending. A token that the smaller vocabulary cannot spell alone
    is left out: one that has unknown characters, and every token of WordPiece, which marks the
    tokens inside a word.

    Args:
        before, after: The tokenizers before and after the cut.
        kept: The ids in `before` that `after` has.
    """
    names = {number: name for name, number in before.get_vocab().items()}
    texts = {n: _BYTES.get(name, name.encode()) for name, n in after.get_vocab().items()}
    found = {}
    for token in sorted(names.keys() - set(kept)):
        pieces = after.model.tokenize(names[token])
        if pieces and b"".join(texts[each.id] for each in pieces) == names[token].encode():
            found[token] = tuple(each.id for each in pieces)
    return found


def is_space(tokenizer: "Tokenizer", token: int) -> bool:
    """Whether a token is spaces and line breaks alone."""
    return not tokenizer.decode([token], skip_special_tokens=False).strip()
