"""How often each token occurs in many files, counted by several processes."""

import gc
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.corpus import parallel
from regrow.corpus.named_files import NamedFile
from regrow.corpus.text import Block, Position, documents_in
from regrow.tokenizers.encoding import chunks, id_count, open_tokenizer
from regrow.tokenizers.families import check_family
from regrow.tokenizers.tokenizer_files import read_tokenizer
from regrow.vocabulary.scripts import SCRIPTS, scripts_of
from regrow.vocabulary.text_splitting import make_splitter
from regrow.vocabulary.token_counts import CountedFile, Group, Tally, TokenCounts, merge, read_facts
from regrow.vocabulary.word_cache import TokenCounter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_STATE = "state.safetensors"


@dataclass(frozen=True)
class Counted:
    """What was counted.

    Attributes:
        out: The file.
        counts: What stands in it.
        taken_up: Documents that an earlier run had counted.
        seconds: That this run took.
    """

    out: Path
    counts: TokenCounts
    taken_up: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """What decides counts, beside the text.

    Attributes:
        model: The directory that the tokenizer is in.
        tokenizer_sha256: See :func:`regrow.corpus.tokenizer_hash.tokenizer_sha256`.
        ids: The largest id + 1.
    """

    model: Path
    tokenizer_sha256: str
    ids: int


def count_files(
    model: Path,
    out: Path,
    files: Sequence[NamedFile],
    *,
    workers: int,
    more: Sequence[Path] = (),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Counted:
    """Count the tokens of text files, by source and script, and write the counts to ``out``.

    Neither the number of processes nor being stopped and started again changes what is written. A
    run that was killed is taken up where files and tokenizer are the same.

    Args:
        model: the directory that the tokenizer is in.
        out: a new file.
        files: the text.
        workers: processes that tokenise, a thread each.
        more: files of counts that are added.
        progress: told of bytes read and in all.

    Raises:
        UserError: at what a user can cause, before any work where it can be known.
    """
    begun = time.monotonic()
    job, parts = plan_count(model, out, files, more)
    if not files:
        counts = merge(parts)
        counts.save(out)
        return Counted(out, counts, 0, time.monotonic() - begun)
    with parallel.pool(workers, _start, job) as executor:
        counts, taken_up = write_counts(
            job, out, files, executor, ahead=2 * workers, parts=parts, progress=progress
        )
    return Counted(out, counts, taken_up, time.monotonic() - begun)


def plan_count(
    model: Path, out: Path, files: Sequence[NamedFile], more: Sequence[Path]
) -> tuple[Job, list[tuple[str, TokenCounts]]]:
    """Check what can be known before any work. Raises UserError."""
    if files or not more:
        parallel.check_files([file.path for file in files], "corpus")
    if out.exists():
        raise UserError(f"{out}: exists; choose another file")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such directory")
    for file in files:
        if file.source in SCRIPTS:
            raise UserError(
                f"{file.path}: its source would be called as the script {file.source} is, which is "
                f"counted apart; give it another name: NAME={file.path}"
            )
    tokenizer = open_tokenizer(model)
    check_family(read_tokenizer(model))
    job = Job(model, fingerprint(tokenizer), id_count(tokenizer))
    parts = [(str(path), TokenCounts.load(path)) for path in more]
    sha256 = cache(_file_sha256)
    by_size: dict[int, list[Path]] = {}
    for file in files:
        by_size.setdefault(file.path.stat().st_size, []).append(file.path)
    for name, part in parts:
        part.check_tokenizer(job.tokenizer_sha256, name, model)
        for counted in part.files:
            # Read before the work where it may be: at the end it would be refused after hours.
            for path in by_size.get(counted.bytes, []):
                here = CountedFile(str(path), "", counted.bytes, sha256(path))
                if here.is_same_text(counted):
                    raise UserError(
                        f"{name}: holds the counts of {counted.path}, whose text {path} has "
                        "too; its tokens would count twice"
                    )
    return job, parts


def fingerprint(tokenizer: "Tokenizer") -> str:
    """The hash of a tokenizer, the same as of a token store that it made."""
    from regrow.corpus.tokenizer_hash import tokenizer_sha256

    return tokenizer_sha256(_AsTransformers(tokenizer))


class _AsTransformers:
    """What the hash asks of a transformers tokenizer."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer

    def get_vocab(self) -> dict[str, int]:
        found: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return found

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=False).ids}


def write_counts(
    job: Job,
    out: Path,
    files: Sequence[NamedFile],
    executor: Executor,
    *,
    ahead: int,
    block_bytes: int = parallel.BLOCK_BYTES,
    parts: Sequence[tuple[str, TokenCounts]] = (),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[TokenCounts, int]:
    """What :func:`count_files` does once all is checked, with the processes of ``executor``.

    ``ahead``: blocks that are read before their turn. ``block_bytes``: size of a block; it decides
    the hashes of the files and nothing else. ``parts``: counts that are added, by name.

    Returns:
        The counts, and how many documents an earlier run had counted.
    """
    paths = [file.path for file in files]
    sizes = [path.stat().st_size for path in paths]
    before = list(accumulate(sizes, initial=0))
    with parallel.unfinished_directory(out, _STATE) as place:
        state = _taken_up(place / _STATE, job, files)
        taken_up = state.tally.documents
        blocks = parallel.read_files(paths, state.file, state.place, block_bytes, whole=False)
        noted = time.monotonic()
        for done in parallel.in_order(blocks, lambda b: executor.submit(_count, b), ahead):
            state.add(done, files[done.file].source, job.ids)
            progress(before[done.file] + done.read, before[-1])
            if time.monotonic() - noted >= parallel.NOTE_SECONDS:
                state.save(place / _STATE, job, files)
                noted = time.monotonic()
        _check_some(state.tally.documents, paths)
        counts = state.counts(job, files)
        if parts:
            counts = merge([("the corpus", counts), *parts])
        counts.save(out)
        parallel.remove(place)
    return counts, taken_up


def _check_some(documents: int, paths: Sequence[Path]) -> None:
    if documents == 0:
        named = ", ".join(map(str, paths[:3])) + (" and more" if len(paths) > 3 else "")
        raise UserError(f"no text in {named}; give text to count", key="corpus")


class _Tokens(NamedTuple):
    """The tokens of the documents of a block in one script: ids that occur, and how often each."""

    script: str
    documents: int
    characters: int
    bytes: int
    ids: NDArray[np.int32]
    counts: NDArray[np.int64]


class _Found(NamedTuple):
    """What a process makes of a block."""

    sha256: bytes
    tokens: list[_Tokens]


_worker: tuple[TokenCounter, int]


def _start(job: Job) -> None:
    global _worker
    gc.disable()  # nothing here makes cycles, and looking for them took a quarter of the time
    _worker = make_counter(job.model), job.ids


def make_counter(model: Path) -> TokenCounter:
    """What counts the tokens of texts with the tokenizer of a model directory."""
    tokenizer = open_tokenizer(model)
    found = make_splitter(json.loads(tokenizer.to_str()), tokenizer)
    return TokenCounter(tokenizer, id_count(tokenizer), found)


def _count(block: Block) -> _Found:
    parts, ids = _worker
    tally = Tally()
    for texts in chunks(documents_in(block)):
        scripts = scripts_of(texts)
        for number in np.unique(scripts):
            own = [texts[at] for at in np.flatnonzero(scripts == number)]
            group = Group(
                "", SCRIPTS[number], len(own), sum(map(len, own)),
                sum(len(text.encode()) for text in own),
            )  # fmt: skip
            tally.row(group, ids)[:] += parts.count(own)
    found = []
    for group, row in tally:
        kept = np.flatnonzero(row)
        found.append(
            _Tokens(
                group.script, group.documents, group.characters, group.bytes,
                kept.astype(np.int32), row[kept],
            )
        )  # fmt: skip
    return _Found(_sha256(block), found)


def _file_sha256(path: Path) -> str:
    """What the counts say of a file whose text is this."""
    found = ""
    for _, block in parallel.read_files([path], 0, Position(), parallel.BLOCK_BYTES, whole=False):
        found = _chained(found, _sha256(block))
    return found


def _chained(before: str, block: bytes) -> str:
    return hashlib.sha256(bytes.fromhex(before) + block).hexdigest()


def _sha256(block: Block) -> bytes:
    digest = hashlib.sha256()
    if isinstance(block.records, bytes):
        digest.update(block.records)
    else:
        for record in block.records:
            text = str(record).encode()
            digest.update(len(text).to_bytes(8, "little"))
            digest.update(text)
    return digest.digest()


class _State:
    """What was counted so far, and where it goes on."""

    def __init__(self, files: int) -> None:
        self.tally = Tally()
        self.file = 0
        self.place = Position()
        self.hashes = [""] * files

    def add(self, done: parallel.Done, source: str, ids: int) -> None:
        found: _Found = done.result
        for tokens in found.tokens:
            group = Group(source, tokens.script, tokens.documents, tokens.characters, tokens.bytes)
            self.tally.row(group, ids)[tokens.ids] += tokens.counts
        self.hashes[done.file] = _chained(self.hashes[done.file], found.sha256)
        self.file, self.place = done.file, done.after

    def counts(self, job: Job, files: Sequence[NamedFile]) -> TokenCounts:
        counted = [
            CountedFile(str(path), source, path.stat().st_size, sha256)
            for (source, path), sha256 in zip(files, self.hashes, strict=True)
        ]
        return self.tally.counts(job.tokenizer_sha256, job.ids, counted)

    def save(self, path: Path, job: Job, files: Sequence[NamedFile]) -> None:
        more = {"work": _asked(job, files), "file": self.file, "place": asdict(self.place)}
        self.counts(job, files).save(path, more)


_ASKED = {"tokenizer_sha256": "tokenizer", "files": "files", "sources": "names of sources"}


def _asked(job: Job, files: Sequence[NamedFile]) -> dict[str, Any]:
    """What decides the counts."""
    return {
        "tokenizer_sha256": job.tokenizer_sha256,
        "files": parallel.file_stamps([file.path for file in files]),
        "sources": [file.source for file in files],
    }


def _taken_up(path: Path, job: Job, files: Sequence[NamedFile]) -> _State:
    """What an earlier run left of the same work. Raises UserError where it was other work."""
    state = _State(len(files))
    if not path.is_file():
        return state
    facts = read_facts(path)
    asked = _asked(job, files)
    for key, name in _ASKED.items():
        if facts["work"][key] != asked[key]:
            raise UserError(
                f"{path.parent}: left by a run that was stopped, with other {name}; "
                "delete it to begin anew"
            )
    counts = TokenCounts.load(path)
    state.tally.add(zip(counts.groups, counts.counts, strict=True))
    state.file, state.place = facts["file"], Position(**facts["place"])
    state.hashes = [file.sha256 for file in counts.files]
    return state
