"""How large a vocabulary a corpus needs: coverage, fertility and parameters by size."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.corpus.named_files import NamedFile
from regrow.tokenizers.config_ids import check_rows, referenced_ids
from regrow.tokenizers.encoding import count_tokens, id_count, open_tokenizer
from regrow.tokenizers.families import Candidates, VocabularyChoice
from regrow.tokenizers.fertility import Fertility, fertility_by_language
from regrow.tokenizers.tokenizer_files import vocabulary_pruner
from regrow.tokenizers.tokenizer_json import build_tokenizer
from regrow.vocabulary.scripts import ALL, SCRIPTS
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
"""Languages with a smaller share of the corpus do not change the suggestion."""
ROUND = 128
"""The suggested size is a multiple of this, which is faster on many processors."""
_SHOWN = (0.99, 0.995, 0.999, 0.9999, 1.0)
_POINTS = 96


@dataclass(frozen=True)
class SizePlan:
    """A size of the vocabulary.

    Attributes:
        size: Tokens.
        why: The present size, a coverage, the suggestion, or what was asked for.
        coverage: Share of the tokens of the corpus that stay. Each other token becomes several.
        languages: The same by language.
        parameters: Of the whole model with this size.
        per_character: Tokens per character, by language; empty without a sample. If the sample is
            part of the corpus, these are numbers of the corpus: counted at the present size, and
            at other sizes scaled by the change in the sample.
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
    """Vocabulary sizes for a model and a corpus, and the tokens that are kept at one of them.

    Attributes:
        model: The directory.
        counts: The file of counts.
        tokenizer_sha256: Of the tokenizer of the model.
        tokens, characters: Of the corpus.
        shares: The share of each language in the tokens of the corpus.
        sampled: Characters of the sample, by language.
        least: The smallest possible size.
        sizes: The present size, then smaller ones, largest first.
        suggested: The size that is suggested.
        chosen: The size that was asked for, or the suggested size.
        choice: The tokens that are kept at that size.
        token_counts: Occurrences by id, [largest id + 1].
        every_character: Whether all characters are kept for which there are no byte tokens.
        curve: Sizes and the share of tokens that each does not cover, of all text and by language.
        unseen: Estimated share of the tokens of more text like the corpus that the corpus lacks.
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
    unseen: float

    @property
    def is_text_too_small(self) -> bool:
        """Whether more is lost by what the corpus lacks than by what the chosen size drops.

        Then the least frequent tokens are kept or dropped by chance. A loss below one token in a
        thousand never counts.
        """
        return self.unseen > max(1 - self.at(self.chosen).coverage, 1 - WANTED)

    def longer(self, size: int, language: str | None = None) -> float | None:
        """The tokens of a text at a size, as a multiple of its tokens at the present size.

        Measured on the sample, language by language. ``language``: None for the whole corpus. The
        result is None without a sample.
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
        """The plan of one of the sizes."""
        return next(plan for plan in self.sizes if plan.size == size)


def plan_vocabulary(
    model: ModelDirectory,
    counts_path: Path,
    spec: VocabularySpec,
    texts: Sequence[NamedFile] | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> VocabularyPlan:
    """Plan the vocabulary of a model for a corpus that was counted. Nothing is written.

    Args:
        model: the model.
        counts_path: the file of counts.
        spec: which tokens must stay, and perhaps a size or a coverage.
        texts: the text on which fertility is measured; None takes a sample of the counted files
            that have not changed.
        notify: is told what is done.

    Raises:
        UserError: counts, tokenizer and model do not belong together, ``spec`` cannot be met, or
            ``texts`` has no text of what was counted.
    """
    directory, layout = model.path, model.layout
    counts = TokenCounts.load(counts_path)
    tokenizer = open_tokenizer(directory)
    sha256 = fingerprint(tokenizer)
    counts.check_tokenizer(sha256, str(counts_path), directory)
    check_rows(id_count(tokenizer), layout.sizes["vocab"])
    deciding = deciding_counts(counts, spec)
    if not deciding.counts.sum():
        raise UserError(f"{counts_path}: no text was counted")
    notify("ordering the tokens")
    candidates = load_candidates(directory, ids_in_configs(directory, layout), spec, deciding)
    order = retention_order(candidates)
    suggested = _suggested(candidates, order, deciding)
    choice = (
        candidates.choose(suggested)
        if spec.size is None and spec.coverage is None
        else choose(candidates, spec, deciding.counts)
    )
    files = unchanged_files(counts.files) if texts is None else texts
    if texts is not None:
        _check_sources(texts, counts.languages)
    sample = samples_by_language(files, tuple(deciding.languages))
    if texts and not sample:
        raise UserError(f"{texts[0].path}: no text of {', '.join(deciding.languages)}", key="text")
    if texts is None and not sample:
        notify("how much longer text gets is not measured: the text that was counted is gone")
    wanted = _sizes(candidates, order, deciding, suggested, len(choice.kept))
    present = layout.sizes["vocab"]
    now = fertility_by_language(tokenizer, sample)
    counted = (
        _corpus_fertility(counts, deciding, tuple(sample)) if texts is None else _per_character(now)
    )
    rows = [_row(present, "now", layout, deciding, None, counted, now)]
    prune = vocabulary_pruner(directory)
    wanted.pop(present, None)
    for size, why in sorted(wanted.items(), reverse=True):
        notify(f"measuring {size:,} tokens")
        kept = choice if size == len(choice.kept) else candidates.choose(size)
        then = _pruned_fertility(prune(kept.kept), sample) if sample else {}
        rows.append(_row(size, why, layout, deciding, kept, _scaled(counted, now, then), then))
    total = int(deciding.counts.sum())
    return VocabularyPlan(
        model=directory,
        counts=counts_path,
        tokenizer_sha256=sha256,
        tokens=total,
        characters=counts.characters(tuple(deciding.languages)),
        shares={name: int(own.sum()) / total for name, own in deciding.languages.items()},
        sampled={name: sum(map(len, own)) for name, own in sample.items()},
        least=candidates.least,
        sizes=tuple(rows),
        suggested=suggested,
        chosen=len(choice.kept),
        choice=choice,
        token_counts=deciding.counts,
        every_character=spec.characters,
        curve=_curves(candidates, order, deciding),
        unseen=unseen_share(deciding.counts),
    )


def _check_sources(texts: Sequence[NamedFile], languages: Iterable[str]) -> None:
    """Raise UserError if a text is of no language that was counted."""
    known = [*languages]
    if any(name in SCRIPTS for name in known):
        return  # texts are told apart by their scripts
    for source, path in texts:
        if source not in known:
            raise UserError(
                f"{path}: its source is called {source}, and those that were counted "
                f"{', '.join(known)}; name it: {known[0]}={path}",
                key="text",
            )


def unseen_share(counts: Counts) -> float:
    """The share of new text's tokens that do not occur in a text with these counts, estimated.

    It is the share of the tokens that occur once (Good 1953, "The population frequencies of species
    and the estimation of population parameters"). `counts`: occurrences by id.
    """
    return float((counts == 1).sum() / counts.sum())


@dataclass(frozen=True)
class VocabularyCurve:
    """How much of a text smaller vocabularies cover.

    Attributes:
        size: Of the present vocabulary, in tokens.
        tokens: Of the text.
        used: How many different tokens the text has.
        suggested: The size that `plan_vocabulary` suggests for this text.
        not_covered: Sizes, and the share of the tokens of the text that each does not have.
    """

    size: int
    tokens: int
    used: int
    suggested: int
    not_covered: tuple[tuple[int, float], ...]


def vocabulary_curve(model: ModelDirectory, documents: Iterable[str]) -> VocabularyCurve:
    """Count the tokens of a text, and how many of them smaller vocabularies keep.

    The tokens are kept in the order in which a cut keeps them, by their counts in this text.

    Raises UserError if the tokenizer cannot be pruned, or the text is empty.
    """
    counts = count_tokens(model.path, documents)
    if not counts.any():
        raise UserError("the text has no token")
    deciding = DecidingCounts(counts)
    named = ids_in_configs(model.path, model.layout)
    candidates = load_candidates(model.path, named, VocabularySpec(), deciding)
    order = retention_order(candidates)
    return VocabularyCurve(
        model.layout.sizes["vocab"], int(counts.sum()), int(np.count_nonzero(counts)),
        _suggested(candidates, order, deciding), _curves(candidates, order, deciding)[ALL],
    )  # fmt: skip


def ids_in_configs(directory: Path, layout: Layout) -> dict[int, str]:
    """The ids that config.json and generation_config.json name, and where."""
    from regrow.common.files import read_json_object

    config = read_json_object(directory / "config.json")
    path = directory / "generation_config.json"
    generation = read_json_object(path) if path.is_file() else None
    return referenced_ids(config, generation, layout.sizes["vocab"])


def _suggested(candidates: Candidates, order: Counts, deciding: DecidingCounts) -> int:
    """The least round size that covers `WANTED` of all text and of each large language."""
    total = int(deciding.counts.sum())
    all_of_it = [deciding.counts]
    all_of_it += [own for own in deciding.languages.values() if own.sum() >= _STRAY * total]
    least = max(
        size_for_coverage(
            order, own, min(WANTED, float(coverage_curve(order, own)[-1])), candidates
        )
        for own in all_of_it
    )
    return min(-(-least // ROUND) * ROUND, candidates.most)


def _sizes(
    candidates: Candidates, order: Counts, deciding: DecidingCounts, suggested: int, chosen: int
) -> dict[int, str]:
    """The sizes to show, and why each is shown."""
    found: dict[int, str] = {}
    shares = coverage_curve(order, deciding.counts)
    for share in _SHOWN:
        if share <= shares[-1]:
            size = size_for_coverage(order, deciding.counts, share, candidates)
            found.setdefault(size, "the least" if size == candidates.least else f"{share:.6g}")
    found[chosen] = "asked for"
    found[suggested] = "suggested"
    return found


def _row(
    size: int,
    why: str,
    layout: Layout,
    deciding: DecidingCounts,
    choice: VocabularyChoice | None,
    per_character: Mapping[str, float],
    fertility: Mapping[str, Fertility],
) -> SizePlan:
    def coverage(counts: Counts) -> float:
        return 1.0 if choice is None else float(counts[choice.kept].sum() / max(1, counts.sum()))

    return SizePlan(
        size,
        why,
        coverage(deciding.counts),
        {name: coverage(own) for name, own in deciding.languages.items()},
        layout.parameters({"vocab": size}),
        per_character,
        {name: measured.unknown_share for name, measured in fertility.items()},
    )


def _curves(
    candidates: Candidates, order: Counts, deciding: DecidingCounts
) -> dict[str, tuple[tuple[int, float], ...]]:
    """The share that is not covered, at sizes that grow by a constant factor."""
    first, last = max(1, candidates.least), len(order)
    sizes = np.unique(np.geomspace(first, last, _POINTS).round().astype(int))
    curves = {}
    for name, own in {ALL: deciding.counts, **deciding.languages}.items():
        shares = 1 - coverage_curve(order, own)[sizes]
        curves[name] = tuple(zip(sizes.tolist(), shares.tolist(), strict=True))
    return curves


def _pruned_fertility(contents: dict[str, Any], sample: LanguageSamples) -> dict[str, Fertility]:
    """The fertility on a sample of the tokenizer with these contents."""
    return fertility_by_language(build_tokenizer(json.dumps(contents)), sample)


def _per_character(fertility: Mapping[str, Fertility]) -> dict[str, float]:
    return {name: measured.tokens_per_character for name, measured in fertility.items()}


def _corpus_fertility(
    counts: TokenCounts, deciding: DecidingCounts, languages: Sequence[str]
) -> dict[str, float]:
    """Tokens per character of the whole corpus, by language."""
    return {
        name: int(deciding.languages[name].sum()) / counts.characters((name,)) for name in languages
    }


def _scaled(
    corpus: Mapping[str, float], before: Mapping[str, Fertility], after: Mapping[str, Fertility]
) -> dict[str, float]:
    """Tokens per character of the corpus, scaled by the change in the sample."""
    old, new = _per_character(before), _per_character(after)
    return {name: corpus[name] * (new[name] / old[name] if old[name] else 1.0) for name in new}


def unknown_shares(
    directory: Path, choice: VocabularyChoice, sample: LanguageSamples
) -> Mapping[str, float]:
    """The share of the characters of a sample that become unknown, by language."""
    fertility = _pruned_fertility(vocabulary_pruner(directory)(choice.kept), sample)
    return {name: measured.unknown_share for name, measured in fertility.items()}
