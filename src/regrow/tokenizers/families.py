"""Choose tokens and prune ``tokenizer.json``, for each family of tokenizers.

The family is read from ``tokenizer.json``. Neither torch nor transformers is loaded, unless a
directory has no ``tokenizer.json``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.tokenizers import bpe, unigram, wordpiece
from regrow.tokenizers.candidates import (
    Candidates,
    Constraints,
    Reason,
    TokenizerModel,
    VocabularyChoice,
    candidates,
    new_ids,
)
from regrow.tokenizers.sentencepiece_model import Piece, SentencePieceModel
from regrow.tokenizers.tokenizer_json import model_ids, referenced, renumber, token_ids

__all__ = [
    "Candidates",
    "Constraints",
    "Reason",
    "VocabularyChoice",
    "candidates_of",
    "check_family",
    "family_of",
    "prune_tokenizer_json",
    "pruner",
]

Json = dict[str, Any]

FAMILIES: Mapping[str, Callable[[Json, Sequence[Piece]], TokenizerModel]] = {
    "byte-level BPE": bpe.read_byte_level,
    "SentencePiece BPE": bpe.read_sentencepiece,
    "Unigram": unigram.read_unigram,
    "WordPiece": wordpiece.read_wordpiece,
}
WITH_MERGES = ("byte-level BPE", "SentencePiece BPE")
"""The families that build their tokens by merges."""
WITH_PIECES = ("SentencePiece BPE", "Unigram")
"""The families whose vocabulary can also be in a `.model` of sentencepiece."""


def family_of(tokenizer_json: Json) -> str:
    """The family of a tokenizer: one of :data:`FAMILIES`, or another type of model.

    Raises:
        UserError: the file has no vocabulary.
    """
    model = tokenizer_json.get("model") or {}
    if "vocab" not in model:
        raise UserError("tokenizer.json: model.vocab is missing; this is not a tokenizer")
    # Old files leave the type of the model out.
    kind: str = model.get("type") or _unnamed(model)
    if kind != "BPE":
        return kind
    steps = (tokenizer_json.get(key) for key in ("normalizer", "pre_tokenizer"))
    return "byte-level BPE" if any(map(_is_byte_level, steps)) else "SentencePiece BPE"


def check_family(tokenizer_json: Json) -> str:
    """The family of a tokenizer. Raises UserError if it cannot be pruned."""
    kind = family_of(tokenizer_json)
    if kind not in FAMILIES:
        raise UserError(
            f"tokenizer.json: the tokenizer is {kind}; what can be pruned is {', '.join(FAMILIES)}"
        )
    return kind


def candidates_of(
    tokenizer_json: Json,
    counts: NDArray[np.int64],
    named: Mapping[int, str] | None = None,
    constraints: Constraints | None = None,
    sentencepiece_models: Sequence[SentencePieceModel] = (),
    template_tokens: Collection[int] = (),
) -> Candidates:
    """The tokens in the order in which they are kept. Any size can be chosen from them.

    Args:
        tokenizer_json: the contents of the file.
        counts: occurrences by id, shape [largest id + 1].
        named: the ids that other files name, and where, such as "config.json: eos_token_id".
        constraints: what the user asks for.
        sentencepiece_models: the `.model` files with the same vocabulary.
        template_tokens: those of the text of chat templates.

    Raises:
        UserError: the tokenizer cannot be pruned, or the constraints cannot be met.
    """
    ids = token_ids(tokenizer_json)
    template: Reason = "template"
    return candidates(
        _model(tokenizer_json, sentencepiece_models),
        ids,
        dict.fromkeys(template_tokens, template)
        | _outside(tokenizer_json, ids, sentencepiece_models),
        counts,
        named or {},
        constraints or Constraints(),
    )


def prune_tokenizer_json(
    tokenizer_json: Json,
    kept: NDArray[np.int64],
    sentencepiece_models: Sequence[SentencePieceModel] = (),
) -> Json:
    """The contents of ``tokenizer.json`` with the ``kept`` old ids only, renumbered from 0.

    New ids are dense, in ascending order of the old ones. Ids are changed in ``added_tokens``,
    ``post_processor`` and ``padding`` too.

    Args:
        tokenizer_json: the contents of the file; it is not changed.
        kept: old ids, ascending, such as :meth:`Candidates.choose` gives.
        sentencepiece_models: the `.model` files with the same vocabulary.

    Raises:
        UserError: the tokenizer cannot be pruned; or ``kept`` is not ascending, has an id that no
            token has, or lacks a token that the guarantees of the family need. Characters may be
            missing, since :class:`Constraints` can ask for that.
    """
    return pruner(tokenizer_json, sentencepiece_models)(kept)


def pruner(
    tokenizer_json: Json, sentencepiece_models: Sequence[SentencePieceModel] = ()
) -> Callable[[NDArray[np.int64]], Json]:
    """:func:`prune_tokenizer_json` for one tokenizer and many sets of kept tokens."""
    model = _model(tokenizer_json, sentencepiece_models)
    ids = token_ids(tokenizer_json)
    outside = _outside(tokenizer_json, ids, sentencepiece_models)

    def prune(kept: NDArray[np.int64]) -> Json:
        _check_kept(model, ids, outside, kept)
        mapping = new_ids(kept)
        return {**renumber(tokenizer_json, mapping), "model": model.prune(mapping)}

    return prune


def _model(
    tokenizer_json: Json, sentencepiece_models: Sequence[SentencePieceModel]
) -> TokenizerModel:
    kind = check_family(tokenizer_json)
    ids = model_ids(tokenizer_json)
    for file in sentencepiece_models:
        file.check(kind, ids)
    return FAMILIES[kind](
        tokenizer_json, [piece for file in sentencepiece_models for piece in file.pieces]
    )


def _outside(
    tokenizer_json: Json, ids: Mapping[str, int], sentencepiece_models: Sequence[SentencePieceModel]
) -> dict[int, Reason]:
    """The tokens that must stay for reasons outside the model."""
    reasons = referenced(tokenizer_json)
    for file in sentencepiece_models:
        for content, reason in file.required().items():
            if content in ids:
                reasons.setdefault(ids[content], reason)
    return reasons


def _check_kept(
    model: TokenizerModel,
    ids: Mapping[str, int],
    outside: Mapping[int, Reason],
    kept: NDArray[np.int64],
) -> None:
    if np.any(np.diff(kept) <= 0):
        raise UserError("kept tokens: the ids are not ascending")
    content = {token: text for text, token in ids.items()}
    chosen = set(kept.tolist())
    if unknown := chosen - content.keys():
        raise UserError(f"kept tokens: tokenizer.json has no token of id {min(unknown)}")
    for token, reason in (*model.required.items(), *outside.items()):
        if token not in chosen and reason != "character":
            raise UserError(
                f"kept tokens: {content[token]!r} (id {token}) is missing, which must stay "
                f"({reason})"
            )
    for token in kept.tolist():
        for part in model.parts.get(token, ()):
            if part not in chosen:
                raise UserError(
                    f"kept tokens: {content[part]!r} (id {part}) is missing, without which "
                    f"{content[token]!r} (id {token}) cannot be built"
                )


def _unnamed(model: Json) -> str:
    if "merges" in model:
        return "BPE"
    return "Unigram" if isinstance(model["vocab"], list) else "unnamed"


def _is_byte_level(step: Json | None) -> bool:
    if step is None:
        return False
    parts = step.get("pretokenizers") or step.get("normalizers") or []
    return step["type"] == "ByteLevel" or any(map(_is_byte_level, parts))
