"""Several texts that take turns, so that the beginning of all of them holds text of each."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

from regrow.corpus.encoding import TextWithSpecialTokens
from regrow.corpus.reading import PLAIN_TEXT, Reading
from regrow.corpus.text import Documents, read_documents, read_file
from regrow.corpus.text_files import text_files

TURN, TURNS = 1 << 19, 1 << 21
"""Characters that a text gives in its turn, and at most all texts in their first turns."""
_GROUPS = 64
"""Files that are open at once, at most, while files take turns."""


@dataclass(frozen=True)
class TextsInTurns:
    """Several texts as one. To call it opens them, and gives whole documents.

    Attributes:
        texts: Each opens one text and reads its documents. Several texts that take turns among
            themselves may be one of them.
        turn: Characters of a turn; at least one.
    """

    texts: Sequence[Documents]
    turn: int

    def __call__(self) -> Iterator[str]:
        """The documents, in the order of the turns."""
        return in_turns([text() for text in self.texts], self.turn)

    def divided(self) -> Iterator[str]:
        """The same, but long documents are divided among the turns; see `in_turns`.

        So the first `turn` characters for each of the texts hold some of each text.
        """
        texts = [
            text.divided() if isinstance(text, TextsInTurns) else text() for text in self.texts
        ]
        return in_turns(texts, self.turn, divide=True)


def files_in_turns(paths: Sequence[Path], reading: Reading = PLAIN_TEXT) -> TextsInTurns:
    """The documents of text files, and of all text files below directories. The files take turns.

    Of more than 64 files, neighbours make a group, and 64 groups take turns.

    Raises UserError as `read_documents` does; also, at once, if a path holds no document.
    """
    for path in paths:
        next(iter(read_documents(path, reading)))
    files = [file for path in paths for file in text_files(path)]
    return groups_in_turns([partial(_documents, file, reading) for file in files])


def groups_in_turns(texts: Sequence[Documents], sources: int = 1) -> TextsInTurns:
    """Texts that take turns. Of more than 64, neighbours make a group, and 64 groups take turns.

    `texts`: each opens one text. `sources`: so many such sources take turns themselves. Then all
    texts of a source have a turn within each turn of the source, and all sources together have at
    most 64 texts open at once, but one each.
    """
    characters = TURNS if sources == 1 else turn_of(sources)
    count = min(len(texts), max(1, _GROUPS // sources))
    bounds = [number * len(texts) // count for number in range(count + 1)]
    groups = [texts[first:last] for first, last in pairwise(bounds)]
    return TextsInTurns(
        [partial(_one_by_one, group) for group in groups], turn_of(count, characters)
    )


def _one_by_one(texts: Sequence[Documents]) -> Iterator[str]:
    for text in texts:
        yield from text()


def _documents(file: Path, reading: Reading) -> Iterator[str]:
    """The documents of a file, which may hold none."""
    documents = read_file(file, reading)
    yield from map(TextWithSpecialTokens, documents) if reading.special_tokens else documents


def turn_of(texts: int, characters: int = TURNS) -> int:
    """Characters of a turn, if so many texts take turns.

    Half a million, or less, such that the first `characters` hold text of each: by default two
    million, which scores and a refit are computed on.
    """
    return max(1, min(TURN, characters // max(texts, 1)))


def in_turns(
    texts: Sequence[Iterator[str]], characters: int, *, divide: bool = False
) -> Iterator[str]:
    """The documents of several texts, which take turns of so many characters.

    A text that gave more than its turn gives less in its next turns.

    `divide`: whether a document is divided that is longer than a turn: a part ends the turn, and
    the rest waits for the next turn of its text. A shorter document is divided too if all texts
    together were otherwise ahead of their turns by half a turn or more. The last text that is left
    is not divided. If it is False, all documents stay whole.
    """
    waiting = deque[tuple[Iterator[str], str | None, int]]((text, None, 0) for text in texts)
    while waiting:
        text, rest, left = waiting.popleft()
        if not waiting:
            yield from text if rest is None else chain([rest], text)
            return
        left += characters
        ahead = -sum(other for *_, other in waiting)
        while left > 0:
            document = next(text, None) if rest is None else rest
            if document is None:
                break
            rest, beyond = None, len(document) - left
            is_long = len(document) > characters or ahead + beyond > characters // 2
            if divide and beyond > 0 and is_long:
                document, rest = document[:left], document[left:]
            yield document
            left -= len(document)
        else:
            waiting.append((text, rest, left))
