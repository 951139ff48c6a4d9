"""Build a corpus: read and clean, find duplicates, finish what stays, mix, and write shards.

One process reads and writes; the others work on blocks. What they give is used in the order of the
inputs, so the bytes of a corpus depend neither on the number of processes nor on how often the work
was killed. All of it lies in a hidden directory beside the corpus until it is complete:

- ``clean/``: the documents after all steps, with their fingerprints; a checkpoint every 20 seconds;
- ``marks/``: which documents and parts are duplicates; each file is made at once;
- ``unique/``: the documents that stay, without repeated parts; a checkpoint every 20 seconds;
- ``corpus/``: the corpus; a shard that is there is complete.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from regrow.cleaning import clean_pass, unique_pass, worker
from regrow.cleaning.built import HITS, REPORT, STORE, BuiltCorpus, NamedTally, most_dropped
from regrow.cleaning.cleaner import PARAGRAPH, RECORD, step_names
from regrow.cleaning.config import CorpusConfig, Paragraphs
from regrow.cleaning.duplicates.documents import find_leaders
from regrow.cleaning.duplicates.repeated import mark_paragraphs, mark_sentences
from regrow.cleaning.finisher import UNIQUE
from regrow.cleaning.job import IDENTITY, CorpusJob, plan_corpus, settings_of
from regrow.cleaning.mixture import Mixture, mix
from regrow.cleaning.progress import StageProgress
from regrow.cleaning.shards import Shard, plan_stretches, shard_name, write_shard
from regrow.cleaning.tally import Tally
from regrow.cleaning.unique_pass import Marked
from regrow.cleaning.work_files import once, read_array
from regrow.common.errors import UserError
from regrow.common.files import json_bytes, read_json_object, write_atomically
from regrow.common.progress import QUIET, Progress
from regrow.common.publishing import publish_finished, workplace
from regrow.corpus import parallel
from regrow.corpus.parallel import Workers

_JOB, _CORPUS = "job.json", "corpus"
_CHUNK = 1 << 18
Describe = Callable[[BuiltCorpus, Path], None]
"""Writes more files about a corpus into its directory, such as a page."""


def build(
    config: CorpusConfig,
    *,
    workers: int,
    tokenizer: Path | None = None,
    describe: Describe | None = None,
    progress: Progress = QUIET,
) -> BuiltCorpus:
    """Build the corpus of a configuration; go on with what an earlier run left.

    Args:
        config: the configuration, with paths resolved.
        workers: the number of processes that clean.
        tokenizer: the directory of the model that `config.tokenise` names.
        describe: writes more files into the corpus before it gets its name.
        progress: is told how far the work is, and messages.

    Raises:
        UserError: what a user can cause; before any work if it can be known then.
    """
    job = plan_corpus(config, tokenizer)
    with workplace(config.out, checkpoint=_JOB) as place:
        _check_same(place, job)
        corpus = place / _CORPUS
        tokens = job.tokenizer if job.counts_tokens else None
        given = (job.config, job.questions, unique_pass.removed_parts(job), tokens)
        with parallel.pool(workers, worker.start, *given) as processes:
            stage = StageProgress(progress, "cleaning")
            tally = clean_pass.clean_inputs(job, place / "clean", processes, stage)
            stage = StageProgress(progress, "finding duplicates")
            marked = _find_duplicates(job, place, stage)
            stage = StageProgress(progress, "finishing documents")
            removed = unique_pass.finish_documents(job, marked, place / "unique", processes, stage)
            steps = _steps(job, tally, removed)
            stage = StageProgress(progress, "writing")
            built = _write_shards(job, place, steps, processes, stage)
        if job.tokenizer is not None:
            built = replace(built, tokens=_tokenise(job, corpus, built, workers, progress))
        write_atomically(corpus / REPORT, json_bytes(built.to_json()))
        if job.questions is not None:
            shutil.copyfile(place / "clean" / clean_pass.HITS, corpus / HITS)
        if describe is not None:
            describe(built, corpus)
        publish_finished(corpus, config.out)
    return built


def _check_same(place: Path, job: CorpusJob) -> None:
    """Raise UserError if an earlier run in the directory did other work; else note this one."""
    work = json.loads(json.dumps(job.work))
    if (place / _JOB).is_file():
        parallel.check_same_work(place, read_json_object(place / _JOB), work, IDENTITY)
    else:
        write_atomically(place / _JOB, json_bytes(work))


def _find_duplicates(job: CorpusJob, place: Path, progress: StageProgress) -> Marked:
    """The marks of all duplicates, as files that are made once."""
    wanted, clean, marks = job.config.duplicates, place / "clean", place / "marks"
    marks.mkdir(exist_ok=True)
    records = read_array(clean / clean_pass.RECORDS, RECORD)
    leaders = once(
        marks / "leaders",
        lambda out: find_leaders(records, clean / clean_pass.SIGNATURES, wanted, out),
    )
    progress.tell(1, 3, "paragraphs")
    found = read_array(leaders, np.int64)
    lines = read_array(clean / clean_pass.PARAGRAPHS, PARAGRAPH)
    by_line = by_sentence = None
    if isinstance(wanted.paragraphs, Paragraphs):
        by_line = once(
            marks / "paragraphs",
            lambda out: mark_paragraphs(records, found, lines["hash"], out),
        )
    progress.tell(2, 3, "sentences")
    if (run := wanted.sentences) is not None:
        marked = None if by_line is None else read_array(by_line, np.uint8)
        hashes = read_array(clean / clean_pass.SENTENCES, np.uint64)
        by_sentence = once(
            marks / "sentences",
            lambda out: mark_sentences(
                records, found, (lines["sentences"], marked), hashes, run, out
            ),
        )
    return Marked(clean, leaders, by_line, by_sentence)


def _steps(job: CorpusJob, tally: Tally, removed: Tally) -> tuple[NamedTally, ...]:
    names = [*step_names(job.config), *unique_pass.names_of(job)]
    return tuple(NamedTally(name, {**tally, **removed}[name]) for name in names)


def _write_shards(
    job: CorpusJob, place: Path, steps: tuple[NamedTally, ...], workers: Workers,
    progress: StageProgress,
) -> BuiltCorpus:  # fmt: skip
    """Write the files of the documents."""
    config, corpus, unique = job.config, place / _CORPUS, place / "unique"
    records = read_array(unique / unique_pass.RECORDS, UNIQUE)
    mixture = mix(config, records)
    documents, characters = _totals(records, mixture)
    if not documents:
        (place / _JOB).unlink()  # there is nothing to go on with: other settings are wanted
        if len(records):
            raise UserError(
                f"{config.out}: no document is taken, since the size is smaller than each of the "
                f"{len(records):,} documents; give a larger size", key=mixture.unit,
            )  # fmt: skip
        raise UserError(f"{config.out}: no document is left; {most_dropped(steps)}")
    corpus.mkdir(exist_ok=True)
    stretches = plan_stretches(records, mixture, config.shards)
    shards = [
        Shard(
            corpus / shard_name(number, config.compress), each, unique / unique_pass.LINES,
            unique / unique_pass.RECORDS, mixture,
        )
        for number, each in enumerate(stretches)
    ]  # fmt: skip
    left = [(shard.path.name, shard) for shard in shards if not shard.path.exists()]
    written = parallel.in_order(write_shard, iter(left), workers, _nothing)
    for done, (name, _) in enumerate(written, 1):
        progress.tell(done, len(left), name)
    files = tuple(config.out / shard.path.name for shard in shards)
    return BuiltCorpus(
        config.out,
        files,
        documents,
        characters,
        None,
        steps,
        mixture,
        settings_of(config),
        job.notes,
    )


def _totals(
    records: "np.ndarray[tuple[int], np.dtype[np.void]]", mixture: Mixture
) -> tuple[int, int]:
    """The documents and characters that are taken."""
    documents = characters = 0
    for first in range(0, len(records), _CHUNK):
        part = records[first : first + _CHUNK]
        copies = mixture.copies(part)
        documents += int(copies.sum())
        characters += int((part["characters"].astype(np.int64) * copies).sum())
    return documents, characters


def _tokenise(
    job: CorpusJob, corpus: Path, built: BuiltCorpus, workers: int, progress: Progress
) -> int:
    """Make the token store of the corpus, if it is not there; the tokens in it."""
    from regrow.corpus.tokenisation import tokenise_files

    assert job.tokenizer is not None
    store = corpus / STORE
    if not store.exists():
        stage = StageProgress(progress, "tokenising")
        files = [corpus / path.name for path in built.files]
        tokenise_files(job.tokenizer, store, files, workers=workers, progress=stage.tell)
    notes = store / f"{STORE}.json"
    facts = read_json_object(notes)
    for source in facts["sources"]:  # the files are still in the hidden directory
        source["path"] = str(job.config.out / Path(source["path"]).name)
    write_atomically(notes, (json.dumps(facts, indent=1) + "\n").encode())
    return int(facts["tokens"])


def _nothing() -> None:
    """Save nothing: a shard that was written stays."""
