"""The token ids of a text. The name of a special token in a text, such as `</s>`, is text.

A text may say that it means the tokens (`TextWithSpecialTokens`), such as a conversation that a
chat template wrote.
"""

import json
import re
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from regrow.models.loading import library_errors

Tokenizer = Any
"""A transformers tokenizer; its package is not imported here."""

SENTINEL = re.compile("\u2581?<extra_id_[0-9]+>")
"""The names of T5's sentinels, which mT5 has as normal pieces of the vocabulary."""
_UNMATCHED = "\U0010ffff"
"""Before the name of a piece that no text may become; Unicode assigns no character to it."""


class TextWithSpecialTokens(str):
    """A text in which the names of special tokens stand for these tokens. So do its slices."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> "TextWithSpecialTokens":
        return TextWithSpecialTokens(super().__getitem__(key))


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of each text, without special tokens around it."""
    found: list[list[int]] = [[] for _ in texts]
    for kind in (True, False):
        places = [
            n for n, text in enumerate(texts) if isinstance(text, TextWithSpecialTokens) == kind
        ]
        if places:
            chosen = [texts[n] for n in places]
            with library_errors("the tokenizer cannot encode the text"):
                if kind:
                    ids = tokenizer(chosen, add_special_tokens=False, verbose=False)["input_ids"]
                else:
                    ids = _encode_as_text(chosen, tokenizer)
            for place, each in zip(places, ids, strict=True):
                found[place] = each
    return found


def encode_with_spans(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
    """As `encode`, of one text, and the first and the last character (excluded) of each token.

    `tokenizer`: a fast one.
    """
    options = {} if isinstance(text, TextWithSpecialTokens) else {"split_special_tokens": True}
    with library_errors("the tokenizer cannot encode the text"):
        found = tokenizer(
            text, add_special_tokens=False, verbose=False, return_offsets_mapping=True, **options
        )
        if options and _finds_special(text, found["input_ids"], tokenizer):
            inner = _without_special_pieces(tokenizer).encode(text, add_special_tokens=False)
            return inner.ids, inner.offsets
        return found["input_ids"], found["offset_mapping"]


def _encode_as_text(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    encoded: list[list[int]] = tokenizer(
        texts, add_special_tokens=False, verbose=False, split_special_tokens=True
    )["input_ids"]
    if not tokenizer.is_fast:
        return encoded
    for number, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
        if _finds_special(text, ids, tokenizer):
            inner = _without_special_pieces(tokenizer)
            encoded[number] = inner.encode(text, add_special_tokens=False).ids
    return encoded


def _finds_special(text: str, ids: list[int], tokenizer: Tokenizer) -> bool:
    """Whether special tokens that are pieces of a Unigram vocabulary were found in a text."""
    unknown = tokenizer.unk_token
    return not _special_ids(tokenizer).isdisjoint(ids) or bool(unknown and unknown in text)


_Known = WeakKeyDictionary[Any, tuple[int, Any]]
_special: _Known = WeakKeyDictionary()
_plain: _Known = WeakKeyDictionary()


def _special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of special tokens and sentinels, without that of the unknown token."""
    size = len(tokenizer)  # tokens may be added
    known = _special.get(tokenizer)
    if known is None or known[0] != size:
        added = tokenizer.added_tokens_decoder.items()
        ids = {number for number, token in added if token.special} | {*tokenizer.all_special_ids}
        ids |= {
            number for name, number in tokenizer.get_vocab().items() if SENTINEL.fullmatch(name)
        }
        known = size, frozenset(ids - {tokenizer.unk_token_id})
        _special[tokenizer] = known
    found: frozenset[int] = known[1]
    return found


def _without_special_pieces(tokenizer: Tokenizer) -> Any:
    """The tokenizer of the `tokenizers` library with the same ids, which finds no special token."""
    size = len(tokenizer)
    known = _plain.get(tokenizer)
    if known is None or known[0] != size:
        known = size, _rename_special_pieces(tokenizer)
        _plain[tokenizer] = known
    return known[1]


def _rename_special_pieces(tokenizer: Tokenizer) -> Any:
    from tokenizers import Tokenizer as Backend

    contents = json.loads(tokenizer.backend_tokenizer.to_str())
    model, special = contents["model"], _special_ids(tokenizer)
    if model["type"] == "Unigram":
        special |= {model["unk_id"]} - {None}
        model["vocab"] = [
            [_UNMATCHED + name if number in special else name, score]
            for number, (name, score) in enumerate(model["vocab"])
        ]
    else:
        names = {name for name, number in model["vocab"].items() if number in special}
        # Without the merges that make a special token, or are made from one.
        model["merges"] = [
            pair for pair in model.get("merges", []) if names.isdisjoint((*pair, "".join(pair)))
        ]
        model["vocab"] = {
            _UNMATCHED + name if number in special else name: number
            for name, number in model["vocab"].items()
        }
    for token in contents["added_tokens"]:
        if token["id"] in special:
            token["content"] = _UNMATCHED + token["content"]
    # The templates of a post-processor name special tokens, which are not added here.
    contents["post_processor"] = contents["truncation"] = contents["padding"] = None
    found = Backend.from_str(json.dumps(contents))
    found.encode_special_tokens = True
    return found
