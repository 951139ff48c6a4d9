"""The tokens that a cut keeps: those of a plan, or the most frequent in a text or in counts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Layout
from regrow.common.errors import UserError
from regrow.corpus.text import Documents
from regrow.tokenizers.config_ids import check_rows
from regrow.tokenizers.encoding import count_tokens, id_count, open_tokenizer
from regrow.tokenizers.families import Candidates, VocabularyChoice
from regrow.tokenizers.tokenizer_files import (
    has_tokenizer,
    read_tokenizer,
    vocabulary_candidates,
)
from regrow.tokenizers.tokenizer_json import token_ids
from regrow.vocabulary.plan_file import PlannedVocabulary, load_plan
from regrow.vocabulary.selection import DecidingCounts, choose, deciding_counts, load_candidates
from regrow.vocabulary.sizing import ids_in_configs, unknown_shares
from regrow.vocabulary.text_samples import (
    LanguageSamples,
    first_characters,
    samples_by_language,
    unchanged_files,
)
from regrow.vocabulary.token_counting import fingerprint
from regrow.vocabulary.token_counts import TokenCounts
from regrow.vocabulary.token_listing import listing
from regrow.vocabulary.vocabulary_spec import VocabularySpec

Ids = NDArray[np.int64]

_GONE = "the text that was counted is gone"


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """The tokens that a cut keeps.

    Attributes:
        choice: The tokens, and why each stays.
        counts: Occurrences of each, shape [kept].
        padding: Further old ids whose rows stay without a token, as padding of the embedding.
    """

    choice: VocabularyChoice
    counts: Ids
    padding: Ids


def choose_vocabulary(
    directory: Path,
    layout: Layout,
    spec: VocabularySpec,
    documents: Documents | None,
    *,
    counted: Documents | None = None,
    least_tokens: int = 0,
    notify: Callable[[str], None] = lambda _: None,
) -> KeptTokens:
    """The tokens of a model directory that ``spec`` keeps.

    Args:
        directory: of the model.
        layout: of the model.
        spec: has a size, a coverage or a plan.
        documents: the text. It is counted if ``spec`` names no counts, and how much of it becomes
            unknown is measured.
        counted: the text that is counted, if it is another.
        least_tokens: what is counted must have so many tokens.
        notify: is told what is done, and how much text becomes unknown.

    Raises:
        UserError: there is no text, or ``spec`` cannot be met.
    """
    if spec.plan is not None:
        planned = _planned(directory, layout, spec.plan)
        if not planned.every_character and not planned.unknown:
            notify(f"{spec.plan}: how much text becomes unknown was not measured: {_GONE}")
        for name, share in planned.unknown.items():
            if share:
                notify(f"{share:.3%} of the characters of {name} will be unknown")
        choice = planned.choice
        return KeptTokens(choice, planned.counts, _padding(choice.kept, spec, layout))
    check_text(spec, has_text=documents is not None)
    if spec.counts is None:
        assert documents is not None
        check_vocabulary(directory, layout, spec)  # before the text is read
        notify("counting tokens")
        counts = count_tokens(directory, (documents if counted is None else counted)())
        if counts.sum() < least_tokens:
            raise UserError(
                f"the text is {counts.sum()} tokens, less than one row of "
                f"{least_tokens}; give more text",
                key="calibration",
            )
        deciding = DecidingCounts(counts)
    else:
        deciding = _counted(directory, spec)
    choice = choose(_candidates(directory, layout, spec, deciding), spec, deciding.counts)
    if not spec.characters:
        _tell_unknown(directory, spec, choice, documents, notify)
    return KeptTokens(choice, deciding.counts[choice.kept], _padding(choice.kept, spec, layout))


def check_text(spec: VocabularySpec, *, has_text: bool) -> None:
    """Raise UserError if a text must be counted and there is none."""
    if not has_text and spec.counts is None and spec.plan is None:
        raise UserError("token counts need a text; give a calibration text", key="vocab_size")


def kept_tokens(directory: Path, kept: Ids, padding: int, chosen: KeptTokens | None) -> bytes:
    """The listing of the kept tokens of a cut, as a JSON file.

    Args:
        directory: of the model before the cut.
        kept: the old ids, [kept].
        padding: the number of rows beyond the tokens.
        chosen: counts and reasons; None if the cut came from a file, which has neither.
    """
    content: dict[int, str] = {}
    if has_tokenizer(directory):
        content = {i: token for token, i in token_ids(read_tokenizer(directory)).items()}
    counts: dict[int, int] = {}
    reasons: dict[int, str] = {}
    if chosen is not None:
        own = chosen.choice.kept.tolist()
        counts = dict(zip(own, chosen.counts.tolist(), strict=True))
        reasons = dict(zip(own, chosen.choice.reasons, strict=True))
    facts = {"size": len(kept), **({"padding": padding} if padding else {})}
    return listing(
        facts, ((i, content.get(i), counts.get(i), reasons.get(i)) for i in kept.tolist())
    )


def check_vocabulary(directory: Path, layout: Layout, spec: VocabularySpec) -> int:
    """The number of rows that ``spec`` leads to. No text is read.

    Raises:
        UserError: ``spec`` cannot be met with any text, or one of its files belongs to another
            model.
    """
    if spec.plan is not None:
        tokens = len(_planned(directory, layout, spec.plan).choice.kept)
        return tokens + spec.padding(tokens, layout.sizes["vocab"])
    if spec.counts is not None:
        deciding = _counted(directory, spec)
    else:
        deciding = DecidingCounts(np.zeros(id_count(open_tokenizer(directory)), dtype=np.int64))
    kept = choose(_candidates(directory, layout, spec, deciding), spec, deciding.counts).kept
    return len(kept) + spec.padding(len(kept), layout.sizes["vocab"])


def _padding(kept: Ids, spec: VocabularySpec, layout: Layout) -> Ids:
    """The old ids whose rows are padding: the largest of the dropped ids.

    They are rare tokens or no tokens. Rows of zeros would have the logit 0, which is far above all
    other logits in some models.
    """
    rows = layout.sizes["vocab"]
    free = np.setdiff1d(np.arange(rows, dtype=np.int64), kept)
    return free[len(free) - spec.padding(len(kept), rows) :]


def _tell_unknown(
    directory: Path,
    spec: VocabularySpec,
    choice: VocabularyChoice,
    documents: Documents | None,
    notify: Callable[[str], None],
) -> None:
    """Notify how much text becomes unknown, before anything is written."""
    if documents is not None:
        sample: LanguageSamples = {"the text": list(first_characters(documents()))}
    else:
        assert spec.counts is not None
        counts = TokenCounts.load(spec.counts)
        sample = samples_by_language(unchanged_files(counts.files), spec.only or counts.languages)
    if not sample:
        notify(f"how much text becomes unknown is not measured: {_GONE}")
    for name, share in unknown_shares(directory, choice, sample).items():
        notify(f"{share:.3%} of the characters of {name} will be unknown")


def _planned(directory: Path, layout: Layout, path: Path) -> PlannedVocabulary:
    planned = load_plan(path)
    tokenizer = open_tokenizer(directory)
    if planned.tokenizer_sha256 != fingerprint(tokenizer):
        raise UserError(f"{path}: planned for another tokenizer than that of {directory}")
    check_rows(id_count(tokenizer), layout.sizes["vocab"])
    kept = set(planned.choice.kept.tolist())
    for token, where in ids_in_configs(directory, layout).items():
        if token not in kept:
            raise UserError(f"{path}: {where} is {token}, which is not among the kept tokens")
    counts = np.zeros(id_count(tokenizer), dtype=np.int64)
    for token, reason in vocabulary_candidates(directory, counts).required.items():
        # Characters may be given up.
        if token not in kept and (reason != "character" or planned.every_character):
            raise UserError(
                f"{path}: {tokenizer.id_to_token(token)!r} (id {token}) is not among the kept "
                f"tokens and must stay ({reason}); plan again for {directory}"
            )
    return planned


def _counted(directory: Path, spec: VocabularySpec) -> DecidingCounts:
    assert spec.counts is not None
    counts = TokenCounts.load(spec.counts)
    counts.check_tokenizer(fingerprint(open_tokenizer(directory)), str(spec.counts), directory)
    return deciding_counts(counts, spec)


def _candidates(
    directory: Path, layout: Layout, spec: VocabularySpec, deciding: DecidingCounts
) -> Candidates:
    check_rows(len(deciding.counts), layout.sizes["vocab"])
    named: Mapping[int, str] = ids_in_configs(directory, layout)
    return load_candidates(directory, named, spec, deciding)
