"""The file of a planned vocabulary: each kept token, and why it stays."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError, ending_in
from regrow.common.files import read_json_object, write_atomically
from regrow.tokenizers.families import Reason, VocabularyChoice
from regrow.tokenizers.tokenizer_files import read_tokenizer
from regrow.tokenizers.tokenizer_json import token_ids
from regrow.vocabulary.sizing import VocabularyPlan
from regrow.vocabulary.token_listing import listing

FORMAT = 1
_RIGHT = "name a plan that regrow vocab plan wrote"


@dataclass(frozen=True, eq=False)
class PlannedVocabulary:
    """The contents of the file.

    Attributes:
        tokenizer_sha256: of the tokenizer that the plan is for.
        choice: the tokens that are kept.
        counts: occurrences of each, shape [kept].
        unknown: the share of the characters of the sample that become unknown, by language; empty
            without a sample.
        every_character: whether all characters are kept for which there are no byte tokens.
    """

    tokenizer_sha256: str
    choice: VocabularyChoice
    counts: NDArray[np.int64]
    unknown: Mapping[str, float]
    every_character: bool


def save_plan(plan: VocabularyPlan, path: Path) -> None:
    """Write the tokens that are kept at the chosen size, one a line: id, text, count, reason."""
    content = {i: token for token, i in token_ids(read_tokenizer(plan.model)).items()}
    chosen = plan.at(plan.chosen)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "tokenizer_sha256": plan.tokenizer_sha256,
        "size": plan.chosen,
        "coverage": chosen.coverage,
        "languages": dict(chosen.languages),
        "unknown": dict(chosen.unknown),
        "every_character": plan.every_character,
    }
    tokens = (
        (i, content[i], int(plan.token_counts[i]), reason)
        for i, reason in zip(plan.choice.kept.tolist(), plan.choice.reasons, strict=True)
    )
    write_atomically(path, listing(facts, tokens))


def load_plan(path: Path) -> PlannedVocabulary:
    """Read what :func:`save_plan` wrote. Raises UserError at any other file."""
    with ending_in(_RIGHT):
        facts = read_json_object(path)
    known = get_args(Reason)
    try:
        if facts["format"] != FORMAT:
            raise ValueError
        ids = [token[0] for token in facts["tokens"]]
        counts = np.array([token[2] for token in facts["tokens"]], dtype=np.int64)
        reasons = tuple(token[3] for token in facts["tokens"])
        kept = np.array(ids, dtype=np.int64)
        sound = all(type(i) is int for i in ids) and all(reason in known for reason in reasons)
        if not sound or kept.ndim != 1 or not len(kept) or (np.diff(kept) <= 0).any():
            raise ValueError
        unknown = {str(name): float(share) for name, share in facts["unknown"].items()}
        if type(facts["every_character"]) is not bool:
            raise ValueError
        return PlannedVocabulary(
            str(facts["tokenizer_sha256"]), VocabularyChoice(kept, reasons), counts, unknown,
            facts["every_character"],
        )  # fmt: skip
    except (KeyError, AttributeError, IndexError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: not a planned vocabulary; {_RIGHT}") from None
