"""Find samples that repeat the texts of evaluation sets.

A sample is one if it has as many words in a row in common with a text of an evaluation set as the
n-gram has, each Chinese character being a word; or if a line of it is a short text of a set as a
whole. The OpenBA-V2 report is evaluated on such sets, and a model that was tuned on their questions
would be measured wrongly.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regrow.common.files import read_json
from regrow.common.progress import told
from regrow.instructions.config import Contamination, files_of
from regrow.instructions.records import compression_of, open_records, reading
from regrow.instructions.sample import Sample

_WORD = re.compile("[\u3400-\u9fff\uf900-\ufaff]|[^\\W_\u3400-\u9fff\uf900-\ufaff]+")
_FEWEST = 6
"""Words of a short text that is compared as a whole; shorter ones are in many texts by chance."""


class EvaluationTexts:
    """The texts of evaluation sets, as hashes of their n-grams."""

    def __init__(self, files: Sequence[Path], ngram: int) -> None:
        self._ngram = ngram
        self._grams: dict[int, int] = {}
        self._whole: dict[int, int] = {}
        self.files = [*files]
        for number, path in enumerate(told(self.files, "reading evaluation sets, file")):
            for text in _texts_of_file(path):
                self._add(text, number)

    def _add(self, text: str, number: int) -> None:
        words = _words(text)
        if len(words) >= self._ngram:
            for gram in _grams(words, self._ngram):
                self._grams.setdefault(gram, number)
        elif len(words) >= _FEWEST:
            self._whole.setdefault(hash(tuple(words)), number)

    def found_in(self, sample: Sample) -> Path | None:
        """The file of an evaluation set that a sample repeats; None if it repeats none."""
        for text in sample.texts:
            words = _words(text)
            for gram in _grams(words, self._ngram):
                if gram in self._grams:
                    return self.files[self._grams[gram]]
            for line in text.split("\n"):
                found = self._whole.get(hash(tuple(_words(line))))
                if found is not None:
                    return self.files[found]
        return None


def evaluation_texts(spec: Contamination) -> EvaluationTexts:
    """The texts of the sets that a configuration names. Raises UserError if one has none."""
    return EvaluationTexts(files_of(spec.against), spec.ngram)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _grams(words: list[str], size: int) -> Iterator[int]:
    for first in range(len(words) - size + 1):
        yield hash(tuple(words[first : first + size]))


def _texts_of_file(path: Path) -> Iterator[str]:
    """All texts in the records of a file, whatever their keys."""
    if _is_one_object(path):
        yield from _texts_in(read_json(path))
        return
    for record in open_records(path).records():
        if not record.problem:
            yield from _texts_in(record.value)


def _is_one_object(path: Path) -> bool:
    """Whether a file is one JSON object on several lines."""
    with reading(path, compression_of(path)) as file:
        return file.read(64).lstrip().split(b"\n", 1)[0].strip() == b"{"


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(each)
