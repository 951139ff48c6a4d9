"""Put a part of the training text aside, to measure the loss on it.

The part is a function of the text alone. So it is the same each time, and most of it stays the same
if the text grows: documents are taken in the order of their hashes, which is as good as at random.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from regrow.common.errors import UserError
from regrow.common.files import write_atomically
from regrow.corpus.reading import PLAIN_TEXT, Reading
from regrow.corpus.text import document_hash, documents_sha256

SHARE = 0.05
"""The share of the characters that is put aside."""
MOST = 200_000
"""Characters that are put aside, at most: some 50,000 tokens.

Losses of single tokens spread by some 2.5 nats, so the mean of so many is known to about 0.01 nats.
"""
LEAST = 200
"""Characters that are put aside, at least."""
SMALLEST = 10 * LEAST
"""A text of fewer characters is refused."""
_CANDIDATES = 8
"""So many times the characters that are wanted are looked at, since some may have many copies."""


@dataclass(frozen=True)
class PutAside:
    """The part of a text that is held out.

    Attributes:
        documents: The held-out documents, in the order of the text, each once.
        remains: How many characters of each document stay in the training text, from its beginning;
            by the hash of the document. 0 for a document that is held out as a whole.
        characters: Held-out characters, of all copies of the documents.
        copies: Held-out documents with all their copies.
        of_documents, of_characters: Documents and characters of the whole text.
    """

    documents: tuple[str, ...]
    remains: Mapping[bytes, int]
    characters: int
    copies: int
    of_documents: int
    of_characters: int

    @property
    def share(self) -> float:
        """The share of the characters that is held out."""
        return self.characters / self.of_characters

    @property
    def is_an_end(self) -> bool:
        """Whether it is the end of a document, and no whole document."""
        return any(self.remains.values())

    @property
    def sha256(self) -> str:
        """As `documents_sha256`, of the held-out documents."""
        return documents_sha256(self.documents)

    def words(self) -> str:
        """What is put aside, in a few words."""
        part = (
            f"the last {len(self.documents[0]):,} characters of a document"
            if self.is_an_end
            else f"{self.copies:,} of {self.of_documents:,} documents"
        )
        return f"{part}, {self.share:.1%} of the text"

    def write(self, path: Path, reading: Reading = PLAIN_TEXT) -> None:
        """Write the held-out documents as a `.jsonl` file, if it does not hold them already.

        `reading`: how the file will be read.
        """
        data = b"".join(reading.line(text) for text in self.documents)
        if not path.is_file() or path.read_bytes() != data:
            write_atomically(path, data)


def put_aside(read: Callable[[], Iterable[str]]) -> PutAside:
    """Choose about 5% of a text, at least 200 characters and at most about 200,000.

    Whole documents are taken, and of a document that occurs several times all copies. If too many
    documents are too long for that, the end of the last long one is taken.

    `read`: opens the text; it is read twice.

    Raises UserError if the text has fewer than 2,000 characters, or is many copies of one document.
    """
    documents = characters = 0
    for text in read():
        documents, characters = documents + 1, characters + len(text)
    if characters < SMALLEST:
        raise UserError(
            f"the text has {characters:,} characters, too few to put some aside as held-out text; "
            "give a held-out text, or a longer text"
        )
    wanted = min(max(round(SHARE * characters), LEAST), MOST)
    chosen, long, times = _with_least_hashes(read(), wanted)
    held = sum(size for _, size in chosen.values())
    if held < max(LEAST, wanted // 2):
        if long is None:
            raise UserError(
                "most of the text is copies of a few documents, so none can be put aside; give a "
                "held-out text"
            )
        cut = _cut_before_end(long, wanted)
        end = long[cut:]
        remains = {document_hash(long): cut}
        return PutAside((end,), remains, times * len(end), times, documents, characters)
    ordered = [text for text, _ in chosen.values()]
    copies = sum(size // len(text) for text, size in chosen.values() if text)
    return PutAside(tuple(ordered), dict.fromkeys(chosen, 0), held, copies, documents, characters)


def without(documents: Iterable[str], remains: Mapping[bytes, int]) -> Iterator[str]:
    """The documents of a text without what is put aside."""
    for text in documents:
        kept = remains.get(document_hash(text))
        if kept is None:
            yield text
        elif kept:
            yield text[:kept]


def _with_least_hashes(
    documents: Iterable[str], wanted: int
) -> tuple[dict[bytes, tuple[str, int]], str | None, int]:
    """Documents with the least hashes, of about `wanted` characters: text and size by hash.

    Also the last document of more than twice `wanted` characters, and how often it occurs; None and
    0 if there is none.

    In the order of the text. A size counts all copies of a document; documents of which it is more
    than twice `wanted` are left out. Memory does not grow with the text.
    """
    found: dict[bytes, tuple[str, int]] = {}
    heap: list[tuple[int, bytes]] = []
    total = 0  # characters of the candidates, without copies
    long, times = None, Counter[bytes]()
    for text in documents:
        if len(text) > 2 * wanted:
            long = text
            times[document_hash(text)] += 1
            continue
        key = document_hash(text)
        if key in found:
            found[key] = text, found[key][1] + len(text)
            continue
        heapq.heappush(heap, (-int.from_bytes(key), key))
        found[key] = text, len(text)
        total += len(text)
        while total - len(found[heap[0][1]][0]) >= _CANDIDATES * wanted:
            # Its hash is above all others from now on, so it is not taken up again.
            total -= len(found.pop(heapq.heappop(heap)[1])[0])
    chosen: set[bytes] = set()
    held = 0
    for key in sorted(found):
        if held < wanted and found[key][1] <= 2 * wanted:
            chosen.add(key)
            held += found[key][1]
    return (
        {key: each for key, each in found.items() if key in chosen},
        long,
        (0 if long is None else times[document_hash(long)]),
    )


def _cut_before_end(text: str, wanted: int) -> int:
    """Where the last `wanted` characters of a text begin, or up to twice as many.

    After an empty line if there is one, or else a line end, or else a space.
    """
    at = len(text) - wanted
    for separator in ("\n\n", "\n", " "):
        found = text.rfind(separator, at - wanted, at)
        if found > 0:
            return found + len(separator)
    return at
