"""Samples that repeat an evaluation set, or nearly repeat another sample.

Both are found as in a corpus (`regrow.cleaning`).
"""

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.cleaner import RECORD
from regrow.cleaning.config import Duplicates, Near
from regrow.cleaning.contamination import QuestionIndex, read_questions
from regrow.cleaning.duplicates.documents import find_leaders
from regrow.cleaning.duplicates.signatures import EMPTY, HASHES, check_rensa, signatures_of
from regrow.cleaning.word_hashes import Hashes, normalised, word_pieces
from regrow.instructions.config import Instructions
from regrow.instructions.sample import Sample

_NGRAM = 5
"""Words, or Chinese characters, of an n-gram by which samples are similar."""
_BATCH = 1_000
_WHOLE, _REST = "signatures", "signatures-rest"
"""Files of the signatures: of passages, or of all words of a sample without one; of the rest."""
REPEATS = "repeats an evaluation set"
NEARLY = "says nearly the same as another"


class Screen:
    """Takes all samples one after the other, and says which of them have to go.

    Attributes:
        contaminated: Samples that repeat an evaluation set, by the name of its file.
    """

    def __init__(self, spec: Instructions) -> None:
        """Raises UserError if an evaluation set cannot be read, or a package is missing."""
        self.contaminated: Counter[str] = Counter()
        self._questions: QuestionIndex | None = None
        if spec.contamination is not None:
            self._questions = read_questions(spec.contamination)
        self._threshold = spec.near_duplicates
        if self._threshold is not None:
            check_rensa()
        self._waiting: list[tuple[list[Hashes], list[Hashes]]] = []
        self._count = 0
        self._has_passages = False
        self._place = Path()

    def begin(self, place: Path) -> None:
        """Begin; `place`: a directory for work, which is there."""
        self._place = place
        if self._threshold is not None:
            for name in (_WHOLE, _REST):
                (self._place / name).touch()

    def repeats_evaluation(self, sample: Sample) -> bool:
        """Take the next sample; whether it repeats an evaluation set."""
        if self._questions is None and self._threshold is None:
            return False
        pieces = word_pieces(normalised(sample.said))
        hit = None if self._questions is None else self._questions.find(sample.id, pieces)
        if hit is not None:
            self.contaminated[Path(hit.question.rpartition(":")[0]).name] += 1
        if self._threshold is not None:
            self._add(sample, [] if hit is not None else pieces)
        return hit is not None

    def nearly_equal(self) -> NDArray[np.bool_]:
        """Whether each sample is nearly equal to an earlier one that stays.

        Samples with a passage are nearly equal if both the passages and what is said of them are.
        """
        if self._threshold is None:
            return np.zeros(0, dtype=bool)
        self._flush()
        leaders = self._leaders(_WHOLE)
        if self._has_passages:
            pairs = np.stack([leaders, self._leaders(_REST)], axis=1)
            _, first, groups = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
            leaders = first[groups.reshape(-1)]
        found: NDArray[np.bool_] = leaders != np.arange(len(leaders))
        return found

    def _leaders(self, name: str) -> NDArray[np.int64]:
        """For each sample, the one that it is similar to; its own number if there is none."""
        assert self._threshold is not None
        wanted = Duplicates(exact=False, near=Near(threshold=self._threshold, ngram=_NGRAM))
        out = self._place / f"{name}-leaders"
        find_leaders(np.zeros(self._count, RECORD), self._place / name, wanted, out)
        return np.fromfile(out, dtype=np.int64)

    def _add(self, sample: Sample, pieces: list[Hashes]) -> None:
        """Take the words of a sample; `pieces`: all of them, or none if it has to go anyway."""
        parts = sample.passage_and_rest if pieces else None
        both = (pieces, pieces)
        if parts is not None:
            passage, rest = (word_pieces(normalised(part)) for part in parts)
            both, self._has_passages = (passage, rest), True
        self._count += 1
        self._waiting.append(both)
        if len(self._waiting) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        """Write the signatures of the waiting samples: of passages or all words, and of the rest.

        What has no words gets an empty signature.
        """
        whole = _signatures([passage for passage, _ in self._waiting])
        rest = whole.copy()
        own = [n for n, (passage, words) in enumerate(self._waiting) if words is not passage]
        if own:
            rest[own] = _signatures([self._waiting[number][1] for number in own])
        for name, rows in ((_WHOLE, whole), (_REST, rest)):
            with (self._place / name).open("ab") as file:
                file.write(rows.tobytes())
        self._waiting.clear()


def _signatures(texts: list[list[Hashes]]) -> NDArray[np.uint32]:
    rows = np.full((len(texts), HASHES), EMPTY, dtype=np.uint32)
    filled = [number for number, pieces in enumerate(texts) if _has_words(pieces)]
    if filled:
        rows[filled] = signatures_of([texts[number] for number in filled], _NGRAM)
    return rows


def _has_words(pieces: list[Hashes]) -> bool:
    return any(len(words) for words in pieces)
