"""Choose tokens by size, or by coverage of a corpus."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.tokenizers.candidates import missing_ancestors
from regrow.tokenizers.families import Candidates, Constraints, VocabularyChoice
from regrow.tokenizers.tokenizer_files import vocabulary_candidates
from regrow.vocabulary.token_counts import TokenCounts
from regrow.vocabulary.vocabulary_spec import VocabularySpec, read_tokens

Counts = NDArray[np.int64]
_ROUNDING = 1e-12
"""How much less than a share is still the share."""


@dataclass(frozen=True, eq=False)
class DecidingCounts:
    """The token counts that decide which tokens stay.

    Attributes:
        counts: occurrences by id, shape [largest id + 1].
        languages: the same for each language, by name.
    """

    counts: Counts
    languages: Mapping[str, Counts] = field(default_factory=dict)


def deciding_counts(counts: TokenCounts, spec: VocabularySpec) -> DecidingCounts:
    """The counts of the languages of ``spec``. Raises UserError if one was not counted."""
    names = spec.only or counts.languages
    decisive = counts.of(spec.only, "only") if spec.only else counts.total
    return DecidingCounts(decisive, {name: counts.of([name], "only") for name in names})


def load_candidates(
    directory: Path, named: Mapping[int, str], spec: VocabularySpec, deciding: DecidingCounts
) -> Candidates:
    """The tokens of a model directory in the order in which they are kept.

    ``named``: the ids that a config names, and where.

    Raises:
        UserError: the tokenizer cannot be pruned, or a token to keep or drop does not exist.
    """
    constraints = Constraints(
        keep=read_tokens(spec.keep, "keep"),
        drop=read_tokens(spec.drop, "drop"),
        minimum=spec.minimum or 0,
        languages=deciding.languages if spec.minimum else {},
        characters=spec.characters,
    )
    return vocabulary_candidates(directory, deciding.counts, named, constraints)


def choose(candidates: Candidates, spec: VocabularySpec, counts: Counts) -> VocabularyChoice:
    """The tokens for ``spec``, which has a size or a coverage."""
    if spec.size is not None:
        return candidates.choose(spec.size)
    assert spec.coverage is not None
    size = size_for_coverage(retention_order(candidates), counts, spec.coverage, candidates)
    choice = candidates.choose(size)
    # If the last of the tokens in order is only a part of one that does not fit, another token is
    # chosen in its place, which may occur less often.
    while counts[choice.kept].sum() < (spec.coverage - _ROUNDING) * counts.sum():
        size += 1
        choice = candidates.choose(size)
    return choice


def retention_order(candidates: Candidates) -> NDArray[np.int64]:
    """All tokens in the order of keeping: each comes after the tokens that it is merged from.

    Required tokens are first. The first ``n`` tokens are a vocabulary of size ``n``, if ``n`` is at
    least the number of required tokens.
    """
    kept = dict.fromkeys(sorted(candidates.required))
    for token in candidates.order:
        if token not in kept:
            kept |= dict.fromkeys(_path(token, candidates, kept))
            kept[token] = None
    return np.fromiter(kept, dtype=np.int64, count=len(kept))


def _path(token: int, candidates: Candidates, kept: Mapping[int, None]) -> list[int]:
    """The tokens that a token is merged from, those with fewer ancestors first."""
    missing = missing_ancestors(token, candidates.parts, kept)
    return sorted(missing, key=lambda part: len(missing_ancestors(part, candidates.parts, kept)))


def coverage_curve(order: NDArray[np.int64], counts: Counts) -> NDArray[np.float64]:
    """The share of all occurrences that the first ``n`` tokens have, for n from 0, [tokens + 1]."""
    total = int(counts.sum())
    sums = np.concatenate([[0], counts[order].cumsum()])
    return sums / total if total else np.ones(len(sums))


def size_for_coverage(
    order: NDArray[np.int64], counts: Counts, share: float, candidates: Candidates
) -> int:
    """The least size whose tokens in order cover a share of the occurrences.

    Raises:
        UserError: the tokens to drop have too many of the occurrences.
    """
    shares = coverage_curve(order, counts)
    size = int(np.searchsorted(shares, share - _ROUNDING))
    if size == len(shares):
        raise UserError(
            f"coverage {share:.6g}: without the dropped tokens, {shares[-1]:.6g} is the most"
        )
    return max(size, candidates.least)
