"""Near-duplicates per core against datatrove and others, and how fast a corpus is built.

The documents are those of `--text DIR` (`*.jsonl`, also `.gz`), or else made-up sentences. To each
tenth document, a copy is added in which every 60th word is another; these pairs are known.

Signatures are measured in MB of text per second of CPU time, in one thread: regrow's n-grams as
arrays with rensa's MinHash on them; rensa, datasketch and datatrove with the same n-grams as
strings; and datatrove's own signature step as it is (with its tokenizer of words, if its package is
there, else with words split at spaces). It needs xxhash below 4.

Then the whole search runs on the same documents: regrow's, and datatrove's four steps, both with
5-grams. datatrove takes all pairs that share a bucket, by default 14 of 8 hashes. Recall is the
share of the known copies that go. Another document that goes is taken wrongly if no other document
has an exact similarity of 0.6 with it.

A corpus is built from the same documents with all kinds of duplicates, by one process.
"""

import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Goal, Result, parser, say, show
from edited_text import WORD, edited, read_text

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
THRESHOLD, NGRAM, HASHES = 0.7, 5, 128
WRONG = 0.6
"""A document that goes has no earlier one that is so similar: it is taken wrongly."""


def with_copies(texts: Sequence[str]) -> tuple[list[str], set[int]]:
    """The documents and edited copies of each tenth; the numbers of the copies."""
    draw = random.Random(1)
    copies = [edited(text, 60, draw) for text in texts[::10]]
    return [*texts, *copies], set(range(len(texts), len(texts) + len(copies)))


def timed(work: Callable[[], Any], nbytes: int) -> tuple[float, Any]:
    """MB a second of CPU time, and what the work returned."""
    began = time.process_time()
    found = work()
    return nbytes / 1e6 / (time.process_time() - began), found


# Signatures


def regrow_signatures(texts: Sequence[str]) -> Any:
    from regrow.cleaning.duplicates.signatures import signatures_of
    from regrow.cleaning.word_hashes import normalised, word_pieces

    return [
        signatures_of([word_pieces(normalised(text)) for text in texts[at : at + 256]], NGRAM)
        for at in range(0, len(texts), 256)
    ]


def shingles(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    return [" ".join(words[at : at + NGRAM]) for at in range(max(1, len(words) - NGRAM + 1))]


def rensa_signatures(texts: Sequence[str]) -> Any:
    from rensa import RMinHash

    return RMinHash.digest_matrix_from_token_sets([shingles(text) for text in texts], HASHES, 1)


def datasketch_signatures(texts: Sequence[str]) -> Any:
    from datasketch import MinHash

    for text in texts:
        MinHash(HASHES).update_batch([each.encode() for each in shingles(text)])


def datatrove_tokenizer() -> Any:
    """datatrove's tokenizer of English words, or without spaCy one that splits at spaces."""
    from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer

    try:
        load_word_tokenizer("en").word_tokenize("a b")
        return "en"
    except ImportError:

        class Spaces(WordTokenizer):  # type: ignore[misc]
            def word_tokenize(self, text: str) -> list[str]:
                return text.split()

            def sent_tokenize(self, text: str) -> list[str]:
                return text.splitlines()

            def span_tokenize(self, text: str) -> list[tuple[int, int]]:
                return [line.span() for line in re.finditer(r"[^\n]+", text)]

        return Spaces()


def datatrove_signatures(texts: Sequence[str], place: Path, *, ours: bool) -> Any:
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    from regrow.cleaning.datatrove_steps import NgramSignatures

    if ours:
        made: Any = NgramSignatures(str(place))
    else:
        made = MinhashDedupSignature(str(place), language=datatrove_tokenizer())
    for text in texts:
        made.get_signature(made.get_shingles(text))


# The whole search


def regrow_search(texts: Sequence[str], place: Path, threshold: float) -> set[int]:
    """The numbers of the documents that go, apart from equal ones."""
    from regrow.cleaning.cleaner import RECORD
    from regrow.cleaning.config import Duplicates, Near
    from regrow.cleaning.duplicates.documents import find_leaders
    from regrow.cleaning.work_files import read_array

    place.mkdir()
    rows = np.concatenate(regrow_signatures(texts))
    (place / "signatures").write_bytes(rows.tobytes())
    wanted = Duplicates(exact=False, near=Near(threshold=threshold, ngram=NGRAM))
    find_leaders(np.zeros(len(texts), RECORD), place / "signatures", wanted, place / "leaders")
    leaders = read_array(place / "leaders", np.int64)
    return {at for at, leader in enumerate(leaders.tolist()) if at != leader}


def datatrove_search(texts: Sequence[str], place: Path, *, ours: bool) -> set[int]:
    """The same by datatrove's steps."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from loguru import logger

    from regrow.cleaning.datatrove_steps import NgramSignatures

    logger.remove()
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    signatures: Any = (
        NgramSignatures(str(place / "s")) if ours
        else MinhashDedupSignature(str(place / "s"), language=datatrove_tokenizer())
    )  # fmt: skip
    left: list[int] = []

    def collect(data: Any, rank: int = 0, world_size: int = 1) -> Any:
        for document in data:
            left.append(int(document.id))
            yield document

    pipelines: list[list[Any]] = [
        [documents, signatures],
        [MinhashDedupBuckets(str(place / "s"), str(place / "b"))],
        [MinhashDedupCluster(str(place / "b"), str(place / "r"))],
        [documents, MinhashDedupFilter(str(place / "r")), collect],
    ]
    for number, pipeline in enumerate(pipelines):
        tasks = 14 if number == 1 else 1
        logs = str(place / f"logs{number}")
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=logs).run()
    return {*range(len(texts))} - {*left}


def wrongly_taken(gone: set[int], copies: set[int], texts: Sequence[str]) -> int:
    """How many documents go that are no known copy and are like no earlier document."""
    sets: dict[int, set[str]] = {}

    def of(number: int) -> set[str]:
        if number not in sets:
            sets[number] = {*shingles(texts[number])}
        return sets[number]

    wrong = 0
    for number in gone - copies:
        mine = of(number)
        wrong += not any(
            len(mine & of(other)) >= WRONG * len(mine | of(other)) for other in range(len(texts))
            if other != number and min(len(texts[other]), len(texts[number]))
            >= 0.5 * max(len(texts[other]), len(texts[number]))
        )  # fmt: skip
    return wrong


def search(texts: Sequence[str], copies: set[int], nbytes: int, place: Path) -> list[Result]:
    """regrow and datatrove on the same documents."""
    results = []
    low = 0.8 * THRESHOLD
    ways: dict[str, Callable[[], set[int]]] = {
        "regrow": lambda: regrow_search(texts, place / "a", THRESHOLD),
        f"regrow, threshold {low:.2f}": lambda: regrow_search(texts, place / "b", low),
        "datatrove": lambda: datatrove_search(texts, place / "c", ours=False),
        "datatrove with regrow's n-grams": lambda: datatrove_search(texts, place / "d", ours=True),
    }
    for name, way in ways.items():
        say(f"searching: {name}")
        speed, gone = timed(way, nbytes)
        wrong = wrongly_taken(gone, copies, texts)
        results += [
            Result(f"search, {name}", speed, "MB/s"),
            Result(f"copies found, {name}", len(gone & copies) / len(copies), "share"),
            Result(f"others that go, {name}", len(gone - copies), "documents"),
            Result(f"wrongly taken, {name}", wrong, "documents"),
        ]
    ours, theirs = results[0], results[8]
    results[0] = Result(ours.name, ours.value, ours.unit, "datatrove", theirs.value,
                        Goal("ratio", ">=", 2))  # fmt: skip
    ours, theirs = results[1], results[9]
    results[1] = Result(ours.name, ours.value, ours.unit, "datatrove", theirs.value,
                        Goal("ratio", ">=", 1))  # fmt: skip
    return results


def build_corpus(texts: Sequence[str], nbytes: int, place: Path) -> Result:
    """MB a second of a whole build by one process, in CPU time of all processes."""
    import resource

    from regrow.cleaning.build import build
    from regrow.cleaning.config import CorpusConfig

    raw = place / "raw.jsonl"
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    wanted = CorpusConfig.model_validate({
        "out": place / "out", "sources": [{"name": "all", "path": raw}],
        "steps": ["squeeze"], "duplicates": {"paragraphs": True, "sentences": 3},
    })  # fmt: skip

    def spent() -> float:
        used = [resource.getrusage(w) for w in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
        return sum(each.ru_utime + each.ru_stime for each in used)

    before = spent()
    build(wanted, workers=1)
    return Result("build, all duplicates", nbytes / 1e6 / (spent() - before), "MB/s")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--text", type=Path, metavar="DIR", help="of *.jsonl or *.jsonl.gz")
    given = options.parse_args()
    originals = read_text(given.text, 300)[: 600 if given.quick else 4_000]
    texts, copies = with_copies(originals)
    nbytes = sum(len(text.encode()) for text in texts)
    say(f"{len(texts):,} documents, {nbytes / 1e6:.1f} MB, {len(copies):,} copies")
    place = Path(tempfile.mkdtemp(prefix="regrow-cleaning-"))
    try:
        some = texts[: len(texts) // 4]
        size = sum(len(text.encode()) for text in some)
        regrow_signatures(some[:10])  # loads all code first
        ways: dict[str, Callable[[], Any]] = {
            "rensa, strings": lambda: rensa_signatures(some),
            "datasketch": lambda: datasketch_signatures(some),
            "datatrove": lambda: datatrove_signatures(some, place / "x", ours=False),
            "datatrove with regrow's n-grams":
                lambda: datatrove_signatures(some, place / "y", ours=True),
        }  # fmt: skip
        speed, _ = timed(lambda: regrow_signatures(some), size)
        results = []
        for name, way in ways.items():
            say(f"signatures: {name}")
            peer, _ = timed(way, size)
            goal = Goal("ratio", ">=", 2) if name == "datatrove" else None
            results.append(Result("signatures", speed, "MB/s", name, peer, goal))
        results += search(texts, copies, nbytes, place)
        results.append(build_corpus(texts, nbytes, place))
    finally:
        shutil.rmtree(place)
    show(results, as_json=given.json)


if __name__ == "__main__":
    main()
