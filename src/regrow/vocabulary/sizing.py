"""How large a vocabulary a corpus needs: coverage, tokens per character and parameters by size."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regrow.architectures import Layout
from regrow.checkpoint.bind import open_layout
from regrow.common.errors import UserError
from regrow.corpus.named_files import NamedFile
from regrow.tokenizers.config_ids import check_rows, referenced_ids
from regrow.tokenizers.encoding import id_count, open_tokenizer
from regrow.tokenizers.families import Candidates, VocabularyChoice
from regrow.tokenizers.fertility import Fertility, fertility_by_language
from regrow.tokenizers.tokenizer_files import vocabulary_pruner
from regrow.tokenizers.tokenizer_json import build_tokenizer
from regrow.vocabulary.selection import (
    Counts,
    DecidingCounts,
    choose,
    coverage_curve,
    deciding_counts,
    load_candidates,
    retention_order,
    size_for_coverage,
)
from regrow.vocabulary.text_samples import LanguageSamples, samples_by_language, unchanged_files
from regrow.vocabulary.token_counting import fingerprint
from regrow.vocabulary.token_counts import TokenCounts
from regrow.vocabulary.vocabulary_spec import VocabularySpec

WANTED = 0.999
"""Share of the tokens of each language that the suggested size covers."""
_STRAY = 0.01
"""A language with a smaller share of the corpus than this has no say in the suggestion."""
_ROUND = 128
"""Sizes are suggested in multiples of this, which processors like."""
_SHOWN = (0.99, 0.995, 0.999, 0.9999, 1.0)
_POINTS = 96


@dataclass(frozen=True)
class SizePlan:
    """A size of the vocabulary.

    Attributes:
        size: Tokens.
        why: What it is: the present size, a coverage, the suggestion, or what was asked for.
        coverage: Share of the tokens of the corpus that stay; what else is there is spelled with
            several tokens each.
        languages: The same by language.
        parameters: Of the whole model, then.
        per_character: Tokens per character, by language; empty without a sample. Of what was
            counted, where the sample is some of that: at the present size as counted, at others so
            many times that as in the sample.
        unknown: Share of the characters of the sample that become unknown, by language.
    """

    size: int
    why: str
    coverage: float
    languages: Mapping[str, float]
    parameters: int
    per_character: Mapping[str, float]
    unknown: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class VocabularyPlan:
    """What a corpus needs of the vocabulary of a model.

    Attributes:
        model: The directory.
        counts: The file of counts.
        tokenizer_sha256: Whose vocabulary it is.
        tokens, characters: Of the corpus.
        shares: The share of the tokens of the corpus that each language has.
        sampled: Characters of the sample, by language.
        least: The smallest size there can be, and why it must be so large.
        sizes: The present size, then smaller ones, largest first.
        suggested: The size that is suggested.
        chosen: The size that was asked for, or else the suggested one.
        choice: The tokens that are kept at that size.
        token_counts: Occurrences by id that decided.
        every_character: Whether every character is kept that no bytes stand in for.
        curve: Sizes and the share that they do not cover, of all and by language.
    """

    model: Path
    counts: Path
    tokenizer_sha256: str
    tokens: int
    characters: int
    shares: Mapping[str, float]
    sampled: Mapping[str, int]
    least: int
    sizes: tuple[SizePlan, ...]
    suggested: int
    chosen: int
    choice: VocabularyChoice
    token_counts: Counts
    every_character: bool
    curve: Mapping[str, tuple[tuple[int, float], ...]]

    def longer(self, size: int, language: str | None = None) -> float | None:
        """How many times as many tokens the text of a language has at a size; None: of the corpus.

        As in the sample, language by language. None where nothing is measured.
        """
        before, after = self.sizes[0].per_character, self.at(size).per_character
        weights = {
            name: self.shares[name] for name in before if before[name] and language in (None, name)
        }
        total = sum(weights.values())
        if not total:
            return None
        return sum(part * after[name] / before[name] for name, part in weights.items()) / total

    def at(self, size: int) -> SizePlan:
        """The plan of a size that is among them."""
        return next(plan for plan in self.sizes if plan.size == size)


def plan_vocabulary(
    directory: Path,
    counts_path: Path,
    spec: VocabularySpec,
    texts: Sequence[NamedFile] | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> VocabularyPlan:
    """Plan the vocabulary of a model for a corpus that was counted. Nothing is written.

    ``texts``: what tokens per character are measured on; None takes some of what was counted, where
    it is still there.

    Raises:
        UserError: counts, tokenizer and model do not belong together, or ``spec`` cannot be met.
    """
    counts = TokenCounts.load(counts_path)
    tokenizer = open_tokenizer(directory)
    sha256 = fingerprint(tokenizer)
    counts.check_tokenizer(sha256, str(counts_path), directory)
    layout, _ = open_layout(directory)
    check_rows(id_count(tokenizer), layout.sizes["vocab"])
    needs = deciding_counts(counts, spec)
    if not needs.counts.sum():
        raise UserError(f"{counts_path}: no text was counted")
    notify("ordering the tokens")
    candidates = load_candidates(directory, ids_in_configs(directory, layout), spec, needs)
    order = retention_order(candidates)
    suggested = _suggested(candidates, order, needs)
    choice = (
        candidates.choose(suggested)
        if spec.size is None and spec.coverage is None
        else choose(candidates, spec, needs.counts)
    )
    files = unchanged_files(counts.files) if texts is None else texts
    sample = samples_by_language(files, tuple(needs.languages))
    wanted = _sizes(candidates, order, needs, suggested, len(choice.kept))
    present = layout.sizes["vocab"]
    now = fertility_by_language(tokenizer, sample)
    counted = (
        _corpus_fertility(counts, needs, tuple(sample)) if texts is None else _per_character(now)
    )
    rows = [_row(present, "now", layout, needs, None, counted, now)]
    prune = vocabulary_pruner(directory)
    wanted.pop(present, None)
    for size, why in sorted(wanted.items(), reverse=True):
        notify(f"measuring {size:,} tokens")
        kept = choice if size == len(choice.kept) else candidates.choose(size)
        then = _pruned_fertility(prune(kept.kept), sample) if sample else {}
        rows.append(_row(size, why, layout, needs, kept, _scaled(counted, now, then), then))
    total = int(needs.counts.sum())
    return VocabularyPlan(
        model=directory,
        counts=counts_path,
        tokenizer_sha256=sha256,
        tokens=total,
        characters=counts.characters(tuple(needs.languages)),
        shares={name: int(own.sum()) / total for name, own in needs.languages.items()},
        sampled={name: sum(map(len, own)) for name, own in sample.items()},
        least=candidates.least,
        sizes=tuple(rows),
        suggested=suggested,
        chosen=len(choice.kept),
        choice=choice,
        token_counts=needs.counts,
        every_character=spec.characters,
        curve=_curves(candidates, order, needs),
    )


def ids_in_configs(directory: Path, layout: Layout) -> dict[int, str]:
    """The ids that config.json and generation_config.json name, and where."""
    from regrow.common.files import read_json_object

    config = read_json_object(directory / "config.json")
    path = directory / "generation_config.json"
    generation = read_json_object(path) if path.is_file() else None
    return referenced_ids(config, generation, layout.sizes["vocab"])


def _suggested(candidates: Candidates, order: Counts, needs: DecidingCounts) -> int:
    """The least round size that covers what is wanted, of all text and of each language."""
    total = int(needs.counts.sum())
    all_of_it = [needs.counts]
    all_of_it += [own for own in needs.languages.values() if own.sum() >= _STRAY * total]
    least = max(
        size_for_coverage(
            order, own, min(WANTED, float(coverage_curve(order, own)[-1])), candidates
        )
        for own in all_of_it
    )
    return min(-(-least // _ROUND) * _ROUND, candidates.most)


def _sizes(
    candidates: Candidates, order: Counts, needs: DecidingCounts, suggested: int, chosen: int
) -> dict[int, str]:
    """Sizes to show, and why."""
    found: dict[int, str] = {}
    shares = coverage_curve(order, needs.counts)
    for share in _SHOWN:
        if share <= shares[-1]:
            size = size_for_coverage(order, needs.counts, share, candidates)
            found.setdefault(size, "the least" if size == candidates.least else f"{share:.6g}")
    found[chosen] = "asked for"
    found[suggested] = "suggested"
    return found


def _row(
    size: int,
    why: str,
    layout: Layout,
    needs: DecidingCounts,
    choice: VocabularyChoice | None,
    per_character: Mapping[str, float],
    fertility: Mapping[str, Fertility],
) -> SizePlan:
    def coverage(counts: Counts) -> float:
        return 1.0 if choice is None else float(counts[choice.kept].sum() / max(1, counts.sum()))

    return SizePlan(
        size,
        why,
        coverage(needs.counts),
        {name: coverage(own) for name, own in needs.languages.items()},
        layout.parameters({"vocab": size}),
        per_character,
        {name: measured.unknown_share for name, measured in fertility.items()},
    )


def _curves(
    candidates: Candidates, order: Counts, needs: DecidingCounts
) -> dict[str, tuple[tuple[int, float], ...]]:
    """What is not covered, at sizes that grow by a factor."""
    first, last = max(1, candidates.least), len(order)
    sizes = np.unique(np.geomspace(first, last, _POINTS).round().astype(int))
    curves = {}
    for name, own in {"all": needs.counts, **needs.languages}.items():
        shares = 1 - coverage_curve(order, own)[sizes]
        curves[name] = tuple(zip(sizes.tolist(), shares.tolist(), strict=True))
    return curves


def _pruned_fertility(contents: dict[str, Any], sample: LanguageSamples) -> dict[str, Fertility]:
    """On a sample, with the tokenizer of these contents."""
    return fertility_by_language(build_tokenizer(json.dumps(contents)), sample)


def _per_character(fertility: Mapping[str, Fertility]) -> dict[str, float]:
    return {name: measured.tokens_per_character for name, measured in fertility.items()}


def _corpus_fertility(
    counts: TokenCounts, needs: DecidingCounts, languages: Sequence[str]
) -> dict[str, float]:
    """Tokens per character of the whole corpus, by language."""
    return {
        name: int(needs.languages[name].sum()) / counts.characters((name,)) for name in languages
    }


def _scaled(
    corpus: Mapping[str, float], before: Mapping[str, Fertility], after: Mapping[str, Fertility]
) -> dict[str, float]:
    """Tokens per character of the corpus, changed by the factor by which a sample's changed."""
    old, new = _per_character(before), _per_character(after)
    return {name: corpus[name] * (new[name] / old[name] if old[name] else 1.0) for name in new}


def unknown_shares(
    directory: Path, choice: VocabularyChoice, sample: LanguageSamples
) -> Mapping[str, float]:
    """The share of the characters of a sample that become unknown, by language."""
    fertility = _pruned_fertility(vocabulary_pruner(directory)(choice.kept), sample)
    return {name: measured.unknown_share for name, measured in fertility.items()}
