"""Count how often each token occurs in many files, by several processes."""

import gc
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.publishing import publish_finished, workplace
from regrow.corpus import parallel
from regrow.corpus.named_files import NamedFile
from regrow.corpus.parallel import FilePosition, Progress, Workers, no_progress
from regrow.corpus.text import Block, documents_in, read_blocks
from regrow.tokenizers.encoding import chunks, id_count, open_tokenizer
from regrow.tokenizers.families import check_family
from regrow.tokenizers.tokenizer_files import read_tokenizer
from regrow.vocabulary.scripts import ALL, RESERVED, SCRIPTS, scripts_of
from regrow.vocabulary.text_splitting import make_splitter
from regrow.vocabulary.token_counts import CountedFile, Group, Tally, TokenCounts, merge, read_facts
from regrow.vocabulary.word_cache import TokenCounter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CHECKPOINT, _COUNTS = "state.safetensors", "counts.safetensors"


@dataclass(frozen=True)
class Counted:
    """What was counted.

    Attributes:
        out: The file that was written.
        counts: What it holds.
        taken_up: Documents that an earlier run had counted.
        seconds: The time of this run.
    """

    out: Path
    counts: TokenCounts
    taken_up: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """What decides counts, beside the text.

    Attributes:
        model: The directory of the tokenizer.
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
    progress: Progress = no_progress,
) -> Counted:
    """Count the tokens of text files, by source and script, and write the counts to ``out``.

    What is written depends neither on the number of processes nor on how often the work was
    stopped. A run that was killed is resumed if files and tokenizer are the same.

    Args:
        model: the directory of the tokenizer.
        out: a new file.
        files: the text.
        workers: the number of processes that tokenise.
        more: files of counts to add.
        progress: is told the bytes that were read.

    Raises:
        UserError: what a user can cause; before any work if it can be known then.
    """
    begun = time.monotonic()
    job, parts = plan_counts(model, out, files, more)
    if not files:
        counts = merge(parts)
        counts.save(out)
        return Counted(out, counts, 0, time.monotonic() - begun)
    with parallel.pool(workers, _start, job) as processes:
        counts, resumed = write_counts(job, out, files, processes, parts=parts, progress=progress)
    return Counted(out, counts, resumed, time.monotonic() - begun)


def plan_counts(
    model: Path, out: Path, files: Sequence[NamedFile], more: Sequence[Path]
) -> tuple[Job, list[tuple[str, TokenCounts]]]:
    """Check what can be checked before any work; the job, and the counts to add by their names.

    Raises UserError.
    """
    if files or not more:
        parallel.check_files([file.path for file in files], "corpus")
    parallel.check_new(out, "file")
    for file in files:
        if file.source in RESERVED:
            what = "all text together" if file.source == ALL else f"the script {file.source}"
            raise UserError(
                f"{file.path}: its source would be called as {what} is, which is "
                f"counted apart; give it another name: NAME={file.path}"
            )
    tokenizer = open_tokenizer(model)
    check_family(read_tokenizer(model))
    job = Job(model, fingerprint(tokenizer), id_count(tokenizer))
    parts = [(str(path), TokenCounts.load(path)) for path in more]
    for name, part in parts:
        part.check_tokenizer(job.tokenizer_sha256, name, model)
    _check_not_counted(files, parts)
    return job, parts


def _check_not_counted(
    files: Sequence[NamedFile], parts: Sequence[tuple[str, TokenCounts]]
) -> None:
    """Raise UserError if a part holds the counts of one of the files.

    Adding the part would fail for this too, but only after hours of counting. Files are read only
    if their size is that of a counted file.
    """
    sha256 = cache(_file_sha256)
    by_size: dict[int, list[Path]] = {}
    for file in files:
        by_size.setdefault(file.path.stat().st_size, []).append(file.path)
    for name, part in parts:
        for counted in part.files:
            for path in by_size.get(counted.bytes, []):
                here = CountedFile(str(path), "", counted.bytes, sha256(path))
                if here.is_same_text(counted):
                    raise UserError(
                        f"{name}: holds the counts of {counted.path}, whose text {path} has "
                        "too; its tokens would count twice"
                    )


def fingerprint(tokenizer: "Tokenizer") -> str:
    """The hash of a tokenizer; token stores of the same tokenizer have the same hash."""
    from regrow.corpus.tokenizer_hash import tokenizer_sha256

    return tokenizer_sha256(_AsTransformers(tokenizer))


class _AsTransformers:
    """A tokenizer with the methods of transformers that the hash uses."""

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
    workers: Workers,
    *,
    parts: Sequence[tuple[str, TokenCounts]] = (),
    progress: Progress = no_progress,
) -> tuple[TokenCounts, int]:
    """Count and write, once all is checked: see :func:`count_files`.

    The size of a block changes the hashes of the files in the result, and nothing else.

    Args:
        job: what :func:`plan_counts` gave.
        out: a new file.
        files: the text.
        workers: the processes.
        parts: counts to add, by name.
        progress: is told the bytes that were read.

    Returns:
        The counts, and the number of documents that an earlier run had counted.
    """
    paths = [file.path for file in files]
    with workplace(out, checkpoint=_CHECKPOINT) as directory:
        checkpoint = directory / _CHECKPOINT
        state = _resume(checkpoint, job, files)
        resumed = state.tally.documents
        for block in parallel.process_files(
            _count, paths, state.reached, workers,
            lambda: state.save(checkpoint, job, files), whole=False, progress=progress,
        ):  # fmt: skip
            state.add(block.after, block.result, files[block.after.file].source, job.ids)
        _check_some(state.tally.documents, paths)
        counts = state.counts(job, files)
        if parts:
            counts = merge([("the corpus", counts), *parts])
        counts.save(directory / _COUNTS)
        publish_finished(directory / _COUNTS, out)
    return counts, resumed


def _check_some(documents: int, paths: Sequence[Path]) -> None:
    if documents == 0:
        named = ", ".join(map(str, paths[:3])) + (" and more" if len(paths) > 3 else "")
        raise UserError(f"no text in {named}; give text to count", key="corpus")


class _ScriptCounts(NamedTuple):
    """The tokens of the documents of a block in one script: the ids, and how often each occurs."""

    script: str
    documents: int
    characters: int
    bytes: int
    ids: NDArray[np.int32]
    counts: NDArray[np.int64]


class _BlockCounts(NamedTuple):
    """What a process returns for a block."""

    sha256: bytes
    tokens: list[_ScriptCounts]


_worker: tuple[TokenCounter, int]


def _start(job: Job) -> None:
    global _worker
    gc.disable()  # no cycles are made here, and the collector took a quarter of the time
    _worker = make_counter(job.model), job.ids


def make_counter(model: Path) -> TokenCounter:
    """A counter of tokens, with the tokenizer of a model directory."""
    tokenizer = open_tokenizer(model)
    found = make_splitter(json.loads(tokenizer.to_str()), tokenizer)
    return TokenCounter(tokenizer, id_count(tokenizer), found)


def _count(block: Block) -> _BlockCounts:
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
            _ScriptCounts(
                group.script, group.documents, group.characters, group.bytes,
                kept.astype(np.int32), row[kept],
            )
        )  # fmt: skip
    return _BlockCounts(_sha256(block), found)


def _file_sha256(path: Path) -> str:
    """The hash that counts give to a file, see :class:`CountedFile`."""
    found = ""
    for block in read_blocks(path, parallel.BLOCK_BYTES, whole=False):
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
    """What was counted so far, and what is read next."""

    def __init__(self, files: int) -> None:
        self.tally = Tally()
        self.reached = FilePosition()
        self.hashes = [""] * files

    def add(self, after: FilePosition, found: _BlockCounts, source: str, ids: int) -> None:
        for tokens in found.tokens:
            group = Group(source, tokens.script, tokens.documents, tokens.characters, tokens.bytes)
            self.tally.row(group, ids)[tokens.ids] += tokens.counts
        self.hashes[after.file] = _chained(self.hashes[after.file], found.sha256)
        self.reached = after

    def counts(self, job: Job, files: Sequence[NamedFile]) -> TokenCounts:
        counted = [
            CountedFile(str(path.resolve()), source, path.stat().st_size, sha256)
            for (source, path), sha256 in zip(files, self.hashes, strict=True)
        ]
        return self.tally.counts(job.tokenizer_sha256, job.ids, counted)

    def save(self, path: Path, job: Job, files: Sequence[NamedFile]) -> None:
        more = {
            "work": _work(job, files),
            "file": self.reached.file,
            "place": asdict(self.reached.position),
        }
        self.counts(job, files).save(path, more)


_NAMES = {"tokenizer_sha256": "tokenizer", "files": "files", "sources": "names of sources"}
"""What decides the counts, and what a message calls it."""


def _work(job: Job, files: Sequence[NamedFile]) -> dict[str, Any]:
    return {
        "tokenizer_sha256": job.tokenizer_sha256,
        "files": parallel.file_stamps([file.path for file in files]),
        "sources": [file.source for file in files],
    }


def _resume(checkpoint: Path, job: Job, files: Sequence[NamedFile]) -> _State:
    """The state that an earlier run saved. Raises UserError if that was other work."""
    state = _State(len(files))
    if not checkpoint.is_file():
        return state
    facts = read_facts(checkpoint)
    damaged = UserError(f"{checkpoint}: damaged; delete {checkpoint.parent} to begin anew")
    if not isinstance(facts.get("work"), dict):
        raise damaged
    parallel.check_same_work(checkpoint.parent, facts["work"], _work(job, files), _NAMES)
    counts = TokenCounts.load(checkpoint)
    state.tally.add(zip(counts.groups, counts.counts, strict=True))
    try:
        state.reached = parallel.file_position(facts["file"], facts["place"], len(files))
    except (KeyError, TypeError, ValueError):
        raise damaged from None
    state.hashes = [file.sha256 for file in counts.files]
    if len(state.hashes) != len(files) or counts.counts.shape[1] != job.ids:
        raise damaged
    return state
