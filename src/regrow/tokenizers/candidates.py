"""Which tokens stay, and why: required tokens, those that are asked for, then the most frequent."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError

Reason = Literal[
    "special",
    "added",
    "config",
    "template",
    "byte",
    "character",
    "score",
    "list",
    "language",
    "count",
    "merge ancestor",
]
"""Why a token stays.

- special, added: it is a special or an added token.
- config: a config names its id.
- template: it is in the text of a chat template.
- byte, character: it writes a byte or a space, or a character.
- score: unknown text is scored by it.
- list: the user asks for it.
- language: it is among the most frequent tokens of a language.
- count: it is frequent.
- merge ancestor: a token that stays is merged from it.
"""

MergeParts = Mapping[int, tuple[int, ...]]
"""The ids of the tokens that a token is merged from, by its id."""


@dataclass(frozen=True, eq=False)
class VocabularyChoice:
    """The tokens to keep.

    Attributes:
        kept: old ids, ascending, shape [size], int64. The new id of ``kept[i]`` is ``i``.
        reasons: why each kept token stays, in the order of ``kept``.
    """

    kept: NDArray[np.int64]
    reasons: tuple[Reason, ...]

    def mapping(self) -> dict[int, int]:
        """New id by old id, kept tokens only."""
        return new_ids(self.kept)


def new_ids(kept: NDArray[np.int64]) -> dict[int, int]:
    """New id by old id: dense, from 0, in ascending order of old ids."""
    return {int(old): new for new, old in enumerate(kept)}


@dataclass(frozen=True)
class Constraints:
    """What a user asks for beside the size of a vocabulary.

    Attributes:
        keep: tokens to keep, as the vocabulary writes them or as text: " the" finds "Ġthe".
        drop: tokens to drop, written in the same way.
        minimum: so many of the most frequent tokens of each language stay; fewer if its text has
            fewer.
        languages: occurrences by id, shape [largest id + 1], by name of the language.
        characters: if the tokenizer has no tokens for bytes, keep all characters. Otherwise text
            with a dropped character becomes unknown.
    """

    keep: Collection[str] = ()
    drop: Collection[str] = ()
    minimum: int = 0
    languages: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    characters: bool = True


@dataclass(frozen=True)
class TokenizerModel:
    """The model of a tokenizer of any family, as far as pruning needs it.

    Attributes:
        required: the tokens of the model that must stay, and why.
        parts: the tokens that a token is merged from, by its id; they stay if it stays.
        unreachable: the tokens that no text is encoded to.
        rank: by id; of two tokens of equal count, the one of lower rank is kept first.
        as_token: a text as the vocabulary writes it.
        prune: the new contents of ``model`` in ``tokenizer.json``, given the new id by old id.
    """

    required: Mapping[int, Reason]
    parts: MergeParts
    unreachable: Collection[int]
    rank: Mapping[int, float]
    as_token: Callable[[str], str]
    prune: Callable[[Mapping[int, int]], dict[str, Any]]


@dataclass(frozen=True)
class Candidates:
    """The tokens in the order in which they are kept. Any size can be chosen from them.

    Attributes:
        required: the tokens that must stay, and why.
        order: the others, the most important first. Tokens that are merged from a dropped token are
            not among them.
        parts: see :class:`TokenizerModel`.
    """

    required: Mapping[int, Reason]
    order: tuple[int, ...]
    parts: MergeParts

    @property
    def least(self) -> int:
        """The smallest size there is."""
        return len(self.required)

    @property
    def most(self) -> int:
        """The largest size there is."""
        return len(self.required.keys() | self.order)

    def choose(self, size: int) -> VocabularyChoice:
        """Choose exactly ``size`` tokens: those that must stay, then the others in their order.

        Each token comes with the tokens that it is merged from. If they do not all fit into the
        size, the token is skipped.

        One pass gives the exact size. A skipped token never fits later: each token that is added
        later makes its path shorter by at most one, and also takes one place. And as long as
        tokens are left, the shortest of them needs no other token, so it fits.

        Raises:
            UserError: ``size`` is smaller than the required tokens or larger than all tokens.
        """
        if size > self.most:
            raise UserError(f"vocabulary size {size:,} is above the {self.most:,} tokens there are")
        if size < self.least:
            counted = Counter(self.required.values()).items()
            tally = ", ".join(f"{n:,} {reason}" for reason, n in counted)
            raise UserError(
                f"vocabulary size {size:,} is too small: the least is {self.least:,}, "
                f"since these must stay: {tally}"
            )
        reasons = dict(self.required)
        for token in self.order:
            room = size - len(reasons)
            if room == 0:
                break
            if token in reasons:
                reasons[token] = "count"
                continue
            path = missing_ancestors(token, self.parts, reasons)
            if len(path) < room:
                reasons |= dict.fromkeys(path, "merge ancestor")
                reasons[token] = "count"
        kept = sorted(reasons)
        return VocabularyChoice(np.array(kept, dtype=np.int64), tuple(reasons[i] for i in kept))


def candidates(
    model: TokenizerModel,
    ids: Mapping[str, int],
    referenced: Mapping[int, Reason],
    counts: NDArray[np.int64],
    named: Mapping[int, str],
    constraints: Constraints,
) -> Candidates:
    """Put the tokens in the order in which they are kept.

    More frequent tokens come first; equal counts are in order of rank. Tokens that no text is
    encoded to come last.

    Args:
        model: the model of the tokenizer.
        ids: of all tokens, by content.
        referenced: the ids that the tokenizer needs outside its model, and why.
        counts: occurrences by id, shape [largest id + 1].
        named: the ids that other files name, and where, such as "config.json: eos_token_id".
        constraints: what the user asks for.

    Raises:
        UserError: ``counts`` is of another tokenizer, ``named`` has an id that no token has, or the
            constraints cannot be met.
    """
    contents = {token: content for content, token in ids.items()}
    rows = max(contents, default=-1) + 1
    _check_counts(counts, rows, "token counts")
    for language, own in constraints.languages.items():
        _check_counts(own, rows, f"token counts of {language}")
    for token, where in named.items():
        if token not in contents:
            raise UserError(f"{where} is {token}, but tokenizer.json has no token of that id")

    config: Reason = "config"
    reasons: dict[int, Reason] = {}
    for token, reason in (
        *referenced.items(),
        *((token, config) for token in named),
        *model.required.items(),
    ):
        if reason != "character" or constraints.characters:
            reasons.setdefault(token, reason)
    for token in find_tokens(constraints.keep, ids, model.as_token, "keep"):
        reasons.setdefault(token, "list")
    for token in list(reasons):
        reasons |= dict.fromkeys(missing_ancestors(token, model.parts, reasons), "merge ancestor")
    dropped = find_tokens(constraints.drop, ids, model.as_token, "drop")
    for token in dropped:
        if token in reasons:
            raise UserError(f"{contents[token]!r} must stay ({reasons[token]})", key="drop")

    lost = _built_from(dropped, model.parts)
    able = [token for token in contents if token not in lost]

    def in_order(tokens: Iterable[int], of: NDArray[np.int64]) -> list[int]:
        def priority(token: int) -> tuple[bool, int, float, int]:
            return token in model.unreachable, -int(of[token]), model.rank.get(token, np.inf), token

        return sorted(tokens, key=priority)

    for own in constraints.languages.values():
        for token in in_order((i for i in able if own[i]), own)[: constraints.minimum]:
            reasons |= dict.fromkeys(
                missing_ancestors(token, model.parts, reasons), "merge ancestor"
            )
            if reasons.get(token, "merge ancestor") == "merge ancestor":
                reasons[token] = "language"
    free = (i for i in able if reasons.get(i, "merge ancestor") == "merge ancestor")
    return Candidates(reasons, tuple(in_order(free, counts)), model.parts)


def missing_ancestors(token: int, parts: MergeParts, kept: Collection[int]) -> set[int]:
    """The tokens that a token is merged from, at any depth, without those that are kept."""
    path: set[int] = set()
    todo = [token]
    while todo:
        for part in parts.get(todo.pop(), ()):
            if part not in kept and part not in path:
                path.add(part)
                todo.append(part)
    return path


def find_tokens(
    tokens: Iterable[str], ids: Mapping[str, int], as_token: Callable[[str], str], key: str
) -> list[int]:
    """The ids of tokens that are written as in the vocabulary or as text.

    Raises:
        UserError: one does not exist; the message suggests similar tokens. ``key``: of the error.
    """
    found = []
    for token in tokens:
        content = token if token in ids else as_token(token)
        if content not in ids:
            near = ", ".join(map(repr, get_close_matches(content, ids, n=3)))
            raise UserError(
                f"the vocabulary has no token {token!r}"
                + (f"; near it are {near}" if near else ""),
                key=key,
            )
        found.append(ids[content])
    return found


def _built_from(tokens: Iterable[int], parts: MergeParts) -> set[int]:
    """The tokens and all that are merged from one of them."""
    products: dict[int, list[int]] = {}
    for product, of in parts.items():
        for part in of:
            products.setdefault(part, []).append(product)
    found = set(tokens)
    todo = list(found)
    while todo:
        more = [p for p in products.get(todo.pop(), ()) if p not in found]
        found.update(more)
        todo += more
    return found


def _check_counts(counts: NDArray[np.int64], rows: int, what: str) -> None:
    if counts.shape != (rows,):
        raise UserError(
            f"{what}: {len(counts):,} entries, but the tokenizer has ids up to {rows - 1:,}; "
            "count with the tokenizer that is pruned"
        )
