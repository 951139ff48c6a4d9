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
        self._waiting: list[list[Hashes]] = []
        self._count = 0
        self._place = Path()

    def begin(self, place: Path) -> None:
        """Begin; `place`: a directory for work, which is there."""
        self._place = place
        if self._threshold is not None:
            self._signatures.touch()

    def repeats_evaluation(self, sample: Sample) -> bool:
        """Take the next sample; whether it repeats an evaluation set."""
        if self._questions is None and self._threshold is None:
            return False
        pieces = word_pieces(normalised(sample.said))
        hit = None if self._questions is None else self._questions.find(sample.id, pieces)
        if hit is not None:
            self.contaminated[Path(hit.question.rpartition(":")[0]).name] += 1
        if self._threshold is not None:
            self._add([] if hit is not None else pieces)
        return hit is not None

    def nearly_equal(self) -> NDArray[np.bool_]:
        """Whether each sample is nearly equal to an earlier one that stays."""
        if self._threshold is None:
            return np.zeros(0, dtype=bool)
        self._flush()
        wanted = Duplicates(exact=False, near=Near(threshold=self._threshold, ngram=_NGRAM))
        out = self._place / "leaders"
        find_leaders(np.zeros(self._count, RECORD), self._signatures, wanted, out)
        leaders = np.fromfile(out, dtype=np.int64)
        found: NDArray[np.bool_] = leaders != np.arange(len(leaders))
        return found

    @property
    def _signatures(self) -> Path:
        return self._place / "signatures"

    def _add(self, pieces: list[Hashes]) -> None:
        self._count += 1
        self._waiting.append(pieces)
        if len(self._waiting) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        """Write the signatures of the waiting samples; of those without words, empty ones."""
        rows = np.full((len(self._waiting), HASHES), EMPTY, dtype=np.uint32)
        filled = [number for number, pieces in enumerate(self._waiting) if _has_words(pieces)]
        if filled:
            rows[filled] = signatures_of([self._waiting[number] for number in filled], _NGRAM)
        with self._signatures.open("ab") as file:
            file.write(rows.tobytes())
        self._waiting.clear()


def _has_words(pieces: list[Hashes]) -> bool:
    return any(len(words) for words in pieces)
