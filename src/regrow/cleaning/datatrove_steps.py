"""The steps of cleaning as steps of datatrove, whose executors run on many machines.

`pipeline_steps` makes them from the configuration of a corpus. `NgramSignatures` takes the place
of the first of datatrove's four steps that find near-duplicates (MinHash), so that documents are
compared by the same n-grams as in `regrow corpus build`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datatrove.data import Document as DatatroveDocument
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.typeshelper import StatHints
from numpy.typing import NDArray

from regrow.cleaning.config import CorpusConfig
from regrow.cleaning.config_file import load_config
from regrow.cleaning.contamination import QuestionIndex, read_questions
from regrow.cleaning.document import Document, Finding, Outcome, Step
from regrow.cleaning.word_hashes import ngrams, normalised, word_pieces

_TYPE = "regrow"


class RegrowStep(PipelineStep):  # type: ignore[misc]
    """One step of cleaning. The reasons are counted in datatrove's statistics."""

    type = _TYPE

    def __init__(self, step: Step) -> None:
        """`step`: such as `regrow.cleaning.steps.Squeeze()`."""
        self.name = step.name  # the statistics are named by it
        super().__init__()
        self.step = step

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[DatatroveDocument]:
        """The documents that stay, with their facts as metadata."""
        for each in data:
            self.stat_update(StatHints.total)
            with self.track_time():
                source = str(each.metadata.get("source", ""))
                outcome = self.step.apply(Document(each.text, str(each.id), source))
            for finding in outcome.findings:
                self.stat_update(finding.reason)
            if outcome.document is None:
                self.stat_update(StatHints.dropped)
                continue
            self.stat_update(StatHints.forwarded)
            each.text = outcome.document.text
            each.metadata.update(outcome.document.facts)
            self.update_doc_stats(each)
            yield each


class _Uncontaminated:
    """Drops documents that hold questions of benchmarks."""

    name: ClassVar[str] = "benchmark questions"

    def __init__(self, questions: QuestionIndex) -> None:
        self._questions = questions

    def apply(self, document: Document) -> Outcome:
        hit = self._questions.find(document.id, word_pieces(normalised(document.text)))
        if hit is None:
            return Outcome(document)
        return Outcome(None, (Finding(hit.question.rpartition(":")[0], hit.text),))


def pipeline_steps(config: CorpusConfig | Path | str) -> list[RegrowStep]:
    """The steps of a configuration, and the search for questions of benchmarks if it has one.

    `config`: the configuration, or its file. Its sources, shares and outputs are not used.

    Raises UserError if the configuration is not valid, or a package is missing.
    """
    if not isinstance(config, CorpusConfig):
        config = load_config(Path(config))
    steps: list[Step] = [*config.steps]
    if config.contamination is not None:
        steps.append(_Uncontaminated(read_questions(config.contamination)))
    return [RegrowStep(step) for step in steps]


class NgramSignatures(MinhashDedupSignature):  # type: ignore[misc]
    """Signatures for datatrove's search of near-duplicates, from the n-grams of regrow.

    N-grams are of words, and of characters in Chinese and other scripts without spaces.
    """

    def __init__(self, output_folder: Any, config: MinhashConfig | None = None) -> None:
        """As `MinhashDedupSignature`; the language of the text need not be known."""
        super().__init__(output_folder, config)

    def get_shingles(self, text: str) -> NDArray[np.uint64]:
        """The n-grams of a text: shape (n-grams, 1)."""
        pieces = word_pieces(normalised(text))
        found = np.concatenate([ngrams(words, self.config.n_grams) for words in pieces])
        return found.reshape(-1, 1)
