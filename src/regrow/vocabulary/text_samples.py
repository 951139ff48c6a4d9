"""A sample of text of each language, on which fertility is measured."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from regrow.corpus.named_files import NamedFile
from regrow.corpus.text import read_pieces
from regrow.vocabulary.scripts import SCRIPTS, scripts_of
from regrow.vocabulary.token_counts import CountedFile

_CHARACTERS = 1 << 19
"""Characters of each source, at most."""
_FILES = 8
"""Files of each source, at most."""
_BLOCK_BYTES = 1 << 16

LanguageSamples = Mapping[str, list[str]]
"""Texts by language."""


def unchanged_files(counted: Sequence[CountedFile]) -> list[NamedFile]:
    """The files that were counted, without those that are gone or have another size now."""
    return [
        NamedFile(file.source, path)
        for file in counted
        if (path := Path(file.path)).is_file() and path.stat().st_size == file.bytes
    ]


def samples_by_language(files: Sequence[NamedFile], languages: Sequence[str]) -> LanguageSamples:
    """Texts of each language, about half a million characters of each source.

    They are the beginnings of files that are evenly spread over the files of a source. The language
    of a text is the name of its source if that is one of ``languages``, or else its script. Texts
    of other languages are left out.
    """
    found: dict[str, list[str]] = {name: [] for name in languages}
    for source in dict.fromkeys(file.source for file in files):
        own = [file.path for file in files if file.source == source]
        step = -(-len(own) // _FILES)
        chosen = own[::step]
        for path in chosen:
            texts = _beginning(path, _CHARACTERS // len(chosen))
            if source in found:
                found[source] += texts
                continue
            for text, script in zip(texts, scripts_of(texts).tolist(), strict=True):
                if SCRIPTS[script] in found:
                    found[SCRIPTS[script]].append(text)
    return {name: texts for name, texts in found.items() if texts}


def first_characters(documents: Iterable[str], characters: int = _CHARACTERS) -> Iterator[str]:
    """The first documents, up to this number of characters."""
    left = characters
    for text in documents:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _beginning(path: Path, characters: int) -> list[str]:
    return list(first_characters(read_pieces(path, _BLOCK_BYTES), characters))
