"""Text files as a token store, made by several processes.

One process reads blocks of records and writes what comes back; the others look into the blocks and
tokenise. Results are written in the order of reading, so the bytes do not depend on how many
processes there are or how large the blocks. What is written so far is noted now and then; a run
that was killed is taken up from the last note.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.files import read_json_object, sync_directory, write_atomically
from regrow.corpus import parallel
from regrow.corpus.mapped_files import Tokens
from regrow.corpus.megatron_format import write_index
from regrow.corpus.packing import Tokenizer, tokenise
from regrow.corpus.text import Block, Position, documents_in, no_document_error
from regrow.corpus.token_store import NAME
from regrow.corpus.tokenizer_hash import last_id, token_dtype, tokenizer_sha256
from regrow.models.loading import load_tokenizer

_COPY_BYTES = 1 << 20
_NOTES = ".progress"
"""Directory in an unfinished store for what a reader does not want."""
_STATE = "state.json"


@dataclass
class Source:
    """One file of text and what it holds; `bytes` as it lies on disk."""

    path: str
    bytes: int
    documents: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Tokenised:
    """A store that was written.

    Attributes:
        out: Its directory.
        documents: In all files.
        tokens: In all files, the ends of documents among them.
        dtype: Of a token on disk.
        sources: The files, in order.
        taken_up: Documents that an earlier run had written.
        seconds: That this run took.
    """

    out: Path
    documents: int
    tokens: int
    dtype: str
    sources: tuple[Source, ...]
    taken_up: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """What decides the bytes of a store, beside the text.

    Attributes:
        model: The directory that the tokenizer is in.
        tokenizer_sha256: See `store.tokenizer_sha256`.
        end: The token after each document, or None.
        dtype: Of a token on disk.
        ids: That the tokenizer has; a reader may have more.
    """

    model: Path
    tokenizer_sha256: str
    end: int | None
    dtype: str
    ids: int = 0


@dataclass
class _State:
    """How far a store is written."""

    sources: list[Source]
    source: int = 0
    place: Position = field(default_factory=Position)

    @property
    def documents(self) -> int:
        return sum(source.documents for source in self.sources)

    @property
    def tokens(self) -> int:
        return sum(source.tokens for source in self.sources)


def tokenise_files(
    model: Path,
    out: Path,
    files: Sequence[Path],
    *,
    workers: int,
    eos: bool = True,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Tokenised:
    """Write the documents of some files, in order, as the token store `out`, a new directory.

    A run that was killed is taken up where files, tokenizer and `eos` are the same.

    `workers`: processes that tokenise, a thread each. `eos`: end each document with the tokenizer's
    ``eos``, so that a decoder that reads on through the store sees where a text ends and learns to
    end one; readers of Megatron's format expect it. `progress`: told of bytes read and in all.

    Raises UserError at what a user can cause: before any work where it can be known.
    """
    job = plan(model, out, files, eos=eos)
    with pool(job, workers) as executor:
        return write_store(job, out, files, executor, ahead=2 * workers, progress=progress)


def plan(model: Path, out: Path, files: Sequence[Path], *, eos: bool) -> Job:
    """Check what can be known before any work. Raises UserError."""
    parallel.check_files(files, "text")
    if out.exists():
        raise UserError(f"{out}: exists; choose another directory")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such directory")
    tokenizer = load_tokenizer(model)
    end = tokenizer.eos_token_id if eos else None
    if eos and end is None:
        raise UserError(
            f"{model}: no eos_token, which ends each document; set eos_token in "
            "tokenizer_config.json, or turn eos off"
        )
    ids = last_id(tokenizer) + 1
    return Job(model, tokenizer_sha256(tokenizer), end, token_dtype(tokenizer), ids)


def write_store(
    job: Job,
    out: Path,
    files: Sequence[Path],
    executor: Executor,
    *,
    ahead: int,
    block_bytes: int = parallel.BLOCK_BYTES,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Tokenised:
    """What `tokenise_files` does once all is checked, with the processes of `executor`.

    `ahead`: blocks that are read before their turn to be written. `block_bytes`: size of a block.
    Neither changes what is written.
    """
    begun = time.monotonic()
    before = list(accumulate((path.stat().st_size for path in files), initial=0))
    with parallel.unfinished_directory(out, f"{_NOTES}/{_STATE}") as place:
        state = _taken_up(place, job, files)
        taken_up = state.documents
        blocks = parallel.read_files(files, state.source, state.place, block_bytes)
        with _Writer(place, job, state) as writer:
            for done in parallel.in_order(blocks, lambda b: executor.submit(_encode, b), ahead):
                _check_filled(state, done.file)
                writer.write(done.file, done.after, *done.result)
                progress(before[done.file] + done.read, before[-1])
            _check_filled(state, len(files))
            digest = writer.finish()
        _publish(place, out, job, state, digest)
    return Tokenised(
        out, state.documents, state.tokens, job.dtype, tuple(state.sources), taken_up,
        time.monotonic() - begun,
    )  # fmt: skip


# The processes that tokenise

_Encoded = tuple[Tokens, NDArray[np.int32]]
"""The tokens of all documents of a block in one line, and how many each has."""

_worker: tuple[Tokenizer, Job]


@contextmanager
def pool(job: Job, workers: int) -> Iterator[Executor]:
    """Processes that know the tokenizer of a job."""
    with parallel.pool(workers, _start, job) as executor:
        yield executor


def _start(job: Job) -> None:
    global _worker
    _worker = load_tokenizer(job.model), job


def _encode(block: Block) -> _Encoded:
    tokenizer, job = _worker
    documents = list(tokenise(documents_in(block), tokenizer))
    if job.end is not None:
        end = np.array([job.end], dtype=np.int32)
        documents = [part for ids in documents for part in (ids, end)]
    lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
    if job.end is not None:
        lengths = lengths[0::2] + 1
    if len(lengths) and lengths.max() > np.iinfo(np.int32).max:
        raise UserError(f"{block.path}: a document of {lengths.max():,} tokens; split it")
    line = np.concatenate([*documents, np.empty(0, dtype=np.int32)])
    return line.astype(np.dtype(job.dtype).newbyteorder("<")), lengths.astype("<i4")


# The process that writes


class _Writer:
    """Appends to the files of an unfinished store and notes how far they go."""

    def __init__(self, place: Path, job: Job, state: _State) -> None:
        self._place, self._job, self._state = place, job, state
        self._tokens = (place / f"{NAME}.bin").open("r+b")
        self._lengths = (place / _NOTES / "lengths").open("r+b")
        self._digest = hashlib.sha256()
        while data := self._tokens.read(_COPY_BYTES):
            self._digest.update(data)
        self._lengths.seek(0, os.SEEK_END)
        self._noted = time.monotonic()

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._tokens.close()
        self._lengths.close()

    def write(
        self, number: int, after: Position, tokens: Tokens, lengths: NDArray[np.int32]
    ) -> None:
        self._tokens.write(tokens.data)
        self._digest.update(tokens.data)
        self._lengths.write(lengths.data)
        source = self._state.sources[number]
        source.documents += len(lengths)
        source.tokens += len(tokens)
        self._state.source, self._state.place = number, after
        if time.monotonic() - self._noted >= parallel.NOTE_SECONDS:
            self._note()

    def finish(self) -> str:
        """Note all that there is; SHA-256 (hex) of the tokens."""
        self._note()
        return self._digest.hexdigest()

    def _note(self) -> None:
        for file in (self._tokens, self._lengths):
            file.flush()
            os.fsync(file.fileno())
        state = asdict(self._state)
        write_atomically(self._place / _NOTES / _STATE, json.dumps(state).encode())
        self._noted = time.monotonic()


_ASKED = {"tokenizer_sha256": "tokenizer", "end": "ends", "dtype": "dtype", "files": "files"}
"""What decides the bytes of a store, and how it is called."""


def _taken_up(place: Path, job: Job, files: Sequence[Path]) -> _State:
    """What an earlier run left of the same work, with its files cut to what it noted.

    Raises UserError where it was other work.
    """
    asked = {
        "tokenizer_sha256": job.tokenizer_sha256,
        "end": job.end,
        "dtype": job.dtype,
        "files": parallel.file_stamps(files),
    }
    notes = place / _NOTES
    notes.mkdir(exist_ok=True)
    state = _State([Source(str(path), path.stat().st_size) for path in files])
    if (notes / _STATE).is_file():
        earlier = read_json_object(notes / "job.json")
        for key, name in _ASKED.items():
            if earlier[key] != asked[key]:
                raise UserError(
                    f"{place}: left by a run that was stopped, with other {name}; "
                    "delete it to begin anew"
                )
        noted = read_json_object(notes / _STATE)
        sources = [Source(**source) for source in noted["sources"]]
        state = _State(sources, noted["source"], Position(**noted["place"]))
    else:
        write_atomically(notes / "job.json", json.dumps(asked, indent=1).encode())
    sizes = {
        place / f"{NAME}.bin": state.tokens * np.dtype(job.dtype).itemsize,
        notes / "lengths": state.documents * 4,
    }
    for path, size in sizes.items():
        path.touch()
        if path.stat().st_size < size:
            raise UserError(f"{path}: shorter than was noted; delete {place} to begin anew")
        os.truncate(path, size)
    return state


def _check_filled(state: _State, number: int) -> None:
    """Raise UserError where a file that is left for this one held no document."""
    for source in state.sources[state.source : number]:
        if source.documents == 0:
            raise no_document_error(Path(source.path))


def _publish(place: Path, out: Path, job: Job, state: _State, digest: str) -> None:
    """Finish the files and give the directory its name."""
    with (place / f"{NAME}.idx").open("wb+") as file:
        write_index(file, place / _NOTES / "lengths", job.dtype)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        index = hashlib.file_digest(file, "sha256").hexdigest()
    facts: dict[str, Any] = {
        "tokenizer_sha256": job.tokenizer_sha256,
        "ids": job.ids,
        "end": job.end,
        "dtype": job.dtype,
        "documents": state.documents,
        "tokens": state.tokens,
        "sha256": {f"{NAME}.bin": digest, f"{NAME}.idx": index},
        "sources": [asdict(source) for source in state.sources],
    }
    for stray in place.glob(f".{NAME}.json.*"):  # of a run that was killed right here
        stray.unlink()
    write_atomically(place / f"{NAME}.json", (json.dumps(facts, indent=1) + "\n").encode())
    place.rename(out)
    sync_directory(out.parent)
    shutil.rmtree(out / _NOTES)  # only now: until then a run can be taken up
