"""Which tokens remain: by size or by coverage of a corpus."""

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


@dataclass(frozen=True, eq=False)
class DecidingCounts:
    """What a corpus needs of a vocabulary.

    Attributes:
        counts: occurrences by id that decide, shape [largest id + 1].
        languages: occurrences by id, by name of a language.
    """

    counts: Counts
    languages: Mapping[str, Counts] = field(default_factory=dict)


def deciding_counts(counts: TokenCounts, spec: VocabularySpec) -> DecidingCounts:
    """What counted text needs. Raises UserError at a language that was not counted."""
    names = spec.only or counts.languages
    decisive = counts.of(spec.only, "only") if spec.only else counts.total
    return DecidingCounts(decisive, {name: counts.of([name], "only") for name in names})


def load_candidates(
    directory: Path, named: Mapping[int, str], spec: VocabularySpec, needs: DecidingCounts
) -> Candidates:
    """The tokens of a model directory in the order in which they are kept.

    ``named``: by id, where a config names it.

    Raises:
        UserError: the tokenizer cannot be pruned, or a token of a list does not exist.
    """
    constraints = Constraints(
        keep=read_tokens(spec.keep, "keep"),
        drop=read_tokens(spec.drop, "drop"),
        minimum=spec.minimum or 0,
        languages=needs.languages if spec.minimum else {},
        characters=spec.characters,
    )
    return vocabulary_candidates(directory, needs.counts, named, constraints)


def choose(candidates: Candidates, spec: VocabularySpec, counts: Counts) -> VocabularyChoice:
    """As many tokens as ``spec`` asks for, which has a size or a coverage."""
    if spec.size is not None:
        return candidates.choose(spec.size)
    assert spec.coverage is not None
    return candidates.choose(
        size_for_coverage(retention_order(candidates), counts, spec.coverage, candidates)
    )


def retention_order(candidates: Candidates) -> NDArray[np.int64]:
    """All tokens that may be kept, first those that must, then each after what it is merged from.

    The first ``n`` of them are a vocabulary of that size, for each ``n`` that is not too small.
    """
    kept = dict.fromkeys(sorted(candidates.required))
    for token in candidates.order:
        if token not in kept:
            kept |= dict.fromkeys(_path(token, candidates, kept))
            kept[token] = None
    return np.fromiter(kept, dtype=np.int64, count=len(kept))


def _path(token: int, candidates: Candidates, kept: Mapping[int, None]) -> list[int]:
    """The tokens that one is merged from, shorter paths first."""
    missing = missing_ancestors(token, candidates.parts, kept)
    return sorted(missing, key=lambda part: len(missing_ancestors(part, candidates.parts, kept)))


def coverage_curve(order: NDArray[np.int64], counts: Counts) -> NDArray[np.float64]:
    """The share of the occurrences that the first ``n`` tokens have, for n from 0, [tokens + 1]."""
    total = int(counts.sum())
    sums = np.concatenate([[0], counts[order].cumsum()])
    return sums / total if total else np.ones(len(sums))


def size_for_coverage(
    order: NDArray[np.int64], counts: Counts, share: float, candidates: Candidates
) -> int:
    """The least size at which a share of the occurrences stays.

    Raises:
        UserError: the tokens that must go have too much of it.
    """
    shares = coverage_curve(order, counts)
    size = int(np.searchsorted(shares, share - 1e-12))
    if size == len(shares):
        raise UserError(
            f"coverage {share:.6g}: without the dropped tokens, {shares[-1]:.6g} is the most"
        )
    return max(size, candidates.least)
