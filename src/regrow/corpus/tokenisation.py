"""Text files as a token store, made by several processes.

One process reads blocks of records and writes their tokens; the others tokenise the blocks. Tokens
are written in the order of the files, so the bytes depend neither on the number of processes nor on
the size of the blocks. A run that was killed is resumed from its last checkpoint.
"""

import hashlib
import json
import os
import time
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.files import read_json_object, write_atomically
from regrow.common.publishing import publish_finished, sync_descriptor, workplace
from regrow.corpus import parallel
from regrow.corpus.encoding import TextWithSpecialTokens, Tokenizer
from regrow.corpus.mapped_files import Tokens
from regrow.corpus.megatron_format import write_index
from regrow.corpus.packing import tokenise
from regrow.corpus.parallel import FilePosition, Progress, Workers, file_position, no_progress
from regrow.corpus.text import Block, documents_in, no_document_error
from regrow.corpus.text_files import STORE_NAME, text_files
from regrow.corpus.tokenizer_hash import last_id, token_dtype, tokenizer_sha256
from regrow.models.loading import load_tokenizer

_COPY_BYTES = 1 << 20
_STORE, _LENGTHS, _JOB, _CHECKPOINT = "store", "lengths", "job.json", "state.json"
"""In the workplace of a store: the store itself, and what the work needs to go on after a kill."""


@dataclass
class TokenisedFile:
    """A file of text and what it holds; `bytes` as it is on disk."""

    path: str
    bytes: int
    documents: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Tokenised:
    """A store that was written.

    Attributes:
        out: Its directory.
        documents: Of all files.
        tokens: Of all files, with the end tokens of documents.
        dtype: The type of a token on disk.
        sources: The files, in order.
        taken_up: Documents that an earlier run had written.
        seconds: The time of this run.
    """

    out: Path
    documents: int
    tokens: int
    dtype: str
    sources: tuple[TokenisedFile, ...]
    taken_up: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """What decides the bytes of a store, beside the text.

    Attributes:
        model: The directory of the tokenizer.
        tokenizer_sha256: See :func:`regrow.corpus.tokenizer_hash.tokenizer_sha256`.
        end: The token after each document, or None.
        dtype: The type of a token on disk.
        ids: The number of ids of the tokenizer; one that reads the store may have more.
        special_tokens: Whether the names of special tokens in the text stand for the tokens.
    """

    model: Path
    tokenizer_sha256: str
    end: int | None
    dtype: str
    ids: int = 0
    special_tokens: bool = False


@dataclass
class _State:
    """How far a store is written: what each file holds so far, and what is read next."""

    files: list[TokenisedFile]
    reached: FilePosition = field(default_factory=FilePosition)

    @property
    def documents(self) -> int:
        return sum(file.documents for file in self.files)

    @property
    def tokens(self) -> int:
        return sum(file.tokens for file in self.files)

    def to_json(self) -> dict[str, Any]:
        return {
            "sources": [asdict(file) for file in self.files],
            "source": self.reached.file,
            "place": asdict(self.reached.position),
        }


def tokenise_files(
    model: Path,
    out: Path,
    text: Sequence[Path],
    *,
    workers: int,
    eos: bool = True,
    special_tokens: bool = False,
    progress: Progress = no_progress,
) -> Tokenised:
    """Write the documents of some files, in order, as the token store `out`, a new directory.

    A run that was killed is resumed if files, tokenizer and `eos` are the same.

    Args:
        model: the directory of the tokenizer.
        out: a new directory.
        text: text files, each with a document; and directories of such, in which files may be
            empty.
        workers: the number of processes that tokenise.
        eos: end each document with the tokenizer's ``eos``. A decoder that is trained on the store
            then sees where a text ends, and learns to end one. Megatron's readers expect it.
        special_tokens: whether the names of special tokens in the text stand for the tokens.
        progress: is told the bytes that were read.

    Raises:
        UserError: what a user can cause; before any work if it can be known then.
    """
    named = [(path, text_files(path)) for path in text]
    files = [file for _, found in named for file in found]
    may_be_empty = {file for path, found in named if path.is_dir() for file in found}
    job = plan_store(model, out, files, eos=eos)
    job = replace(job, special_tokens=special_tokens)
    with pool(job, workers) as processes:
        return write_store(job, out, files, processes, may_be_empty, progress=progress)


def plan_store(model: Path, out: Path, files: Sequence[Path], *, eos: bool) -> Job:
    """Check what can be checked before any work. Raises UserError."""
    parallel.check_files(files, "text")
    parallel.check_new(out, "directory")
    return store_job(model, eos=eos)


def store_job(model: Path, *, eos: bool) -> Job:
    """What a tokenizer decides of a store. Raises UserError if it cannot be used."""
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
    workers: Workers,
    may_be_empty: Collection[Path] = (),
    *,
    progress: Progress = no_progress,
) -> Tokenised:
    """Write the store, once all is checked: see :func:`tokenise_files`."""
    begun, empty = time.monotonic(), {str(path) for path in may_be_empty}
    with workplace(out, checkpoint=_CHECKPOINT) as directory:
        state = _resume(directory, job, files)
        resumed = state.documents
        with _Writer(directory, job, state) as writer:
            for block in parallel.process_files(
                _encode, files, state.reached, workers, writer.checkpoint, progress=progress
            ):
                _check_filled(state, block.after.file, empty)
                writer.write(block.after, *block.result)
            _check_filled(state, len(files), empty)
            if not state.documents:
                raise UserError("the text files hold no document", key="text")
            digest = writer.finish()
        _publish(directory, out, job, state, digest)
    return Tokenised(
        out, state.documents, state.tokens, job.dtype, tuple(state.files), resumed,
        time.monotonic() - begun,
    )  # fmt: skip


# The processes that tokenise

_Encoded = tuple[Tokens, NDArray[np.int32]]
"""The tokens of all documents of a block, one after the other, and the length of each document."""

_worker: tuple[Tokenizer, Job]


@contextmanager
def pool(job: Job, processes: int) -> Iterator[Workers]:
    """Processes that have loaded the tokenizer of a job."""
    with parallel.pool(processes, _start, job) as workers:
        yield workers


def _start(job: Job) -> None:
    global _worker
    _worker = load_tokenizer(job.model), job


def _encode(block: Block) -> _Encoded:
    tokenizer, job = _worker
    texts: Iterable[str] = documents_in(block)
    if job.special_tokens:
        texts = map(TextWithSpecialTokens, texts)
    documents = list(tokenise(texts, tokenizer))
    if job.end is not None:
        end = np.array([job.end], dtype=np.int32)
        documents = [part for ids in documents for part in (ids, end)]
    lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
    if job.end is not None:
        lengths = lengths[0::2] + 1
    if len(lengths) and lengths.max() > np.iinfo(np.int32).max:
        raise UserError(f"{block.path}: a document of {lengths.max():,} tokens; split it")
    tokens = np.concatenate([*documents, np.empty(0, dtype=np.int32)])
    return tokens.astype(np.dtype(job.dtype).newbyteorder("<")), lengths.astype("<i4")


# The process that writes


class _Writer:
    """Appends to the files of an unfinished store, and saves how far they are written."""

    def __init__(self, directory: Path, job: Job, state: _State) -> None:
        self._directory, self._job, self._state = directory, job, state
        self._tokens = (directory / _STORE / f"{STORE_NAME}.bin").open("r+b")
        self._lengths = (directory / _LENGTHS).open("r+b")
        self._digest = hashlib.sha256()
        while data := self._tokens.read(_COPY_BYTES):
            self._digest.update(data)
        self._lengths.seek(0, os.SEEK_END)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._tokens.close()
        self._lengths.close()

    def write(self, after: FilePosition, tokens: Tokens, lengths: NDArray[np.int32]) -> None:
        """Append the documents of a block; `after`: where the next block begins."""
        self._tokens.write(tokens.data)
        self._digest.update(tokens.data)
        self._lengths.write(lengths.data)
        file = self._state.files[after.file]
        file.documents += len(lengths)
        file.tokens += len(tokens)
        self._state.reached = after

    def checkpoint(self) -> None:
        """Save how far the files are written, once they are on the disk."""
        for file in (self._tokens, self._lengths):
            file.flush()
            sync_descriptor(file.fileno())
        state = json.dumps(self._state.to_json()).encode()
        write_atomically(self._directory / _CHECKPOINT, state)

    def finish(self) -> str:
        """Save a last checkpoint; SHA-256 (hex) of the tokens."""
        self.checkpoint()
        return self._digest.hexdigest()


_NAMES = {
    "tokenizer_sha256": "tokenizer", "end": "ends", "dtype": "dtype", "files": "files",
    "special_tokens": "special tokens",
}  # fmt: skip
"""What decides the bytes of a store, and what a message calls it."""


def _resume(directory: Path, job: Job, files: Sequence[Path]) -> _State:
    """The state that an earlier run of the same work saved, with its files cut to that.

    Raises UserError if it was other work.
    """
    work = {
        "tokenizer_sha256": job.tokenizer_sha256,
        "end": job.end,
        "dtype": job.dtype,
        "files": parallel.file_stamps(files),
        "special_tokens": job.special_tokens,
    }
    (directory / _STORE).mkdir(exist_ok=True)
    state = _State([TokenisedFile(str(path), path.stat().st_size) for path in files])
    if (directory / _CHECKPOINT).is_file():
        earlier = read_json_object(directory / _JOB)
        parallel.check_same_work(directory, earlier, work, _NAMES)
        state = _read_state(directory / _CHECKPOINT, len(files))
    else:
        write_atomically(directory / _JOB, json.dumps(work, indent=1).encode())
    sizes = {
        directory / _STORE / f"{STORE_NAME}.bin": state.tokens * np.dtype(job.dtype).itemsize,
        directory / _LENGTHS: state.documents * 4,
    }
    for path, size in sizes.items():
        path.touch()
        if path.stat().st_size < size:
            raise UserError(f"{path}: shorter than was noted; delete {directory} to begin anew")
        os.truncate(path, size)
    return state


def _read_state(path: Path, files: int) -> _State:
    """The state in a checkpoint. Raises UserError if it is damaged; `files`: how many there are."""
    facts = read_json_object(path)
    try:
        found = [TokenisedFile(**file) for file in facts["sources"]]
        numbers = [number for f in found for number in (f.bytes, f.documents, f.tokens)]
        if len(found) != files or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError
        return _State(found, file_position(facts["source"], facts["place"], files))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: damaged; delete {path.parent.parent} to begin anew") from None


def _check_filled(state: _State, number: int, may_be_empty: Container[str]) -> None:
    """Raise UserError if a file before the one of this number held no document."""
    for file in state.files[state.reached.file : number]:
        if file.documents == 0 and file.path not in may_be_empty:
            raise no_document_error(Path(file.path))


def _publish(directory: Path, out: Path, job: Job, state: _State, digest: str) -> None:
    """Finish the files and give the store its name."""
    store = directory / _STORE
    with (store / f"{STORE_NAME}.idx").open("wb+") as file:
        write_index(file, directory / _LENGTHS, job.dtype)
        file.seek(0)
        index = hashlib.file_digest(file, "sha256").hexdigest()
    facts: dict[str, Any] = {
        "tokenizer_sha256": job.tokenizer_sha256,
        "ids": job.ids,
        "end": job.end,
        "dtype": job.dtype,
        "documents": state.documents,
        "tokens": state.tokens,
        "sha256": {f"{STORE_NAME}.bin": digest, f"{STORE_NAME}.idx": index},
        "sources": [asdict(file) for file in state.files],
    }
    write_atomically(store / f"{STORE_NAME}.json", (json.dumps(facts, indent=1) + "\n").encode())
    publish_finished(store, out)
