"""The first pass: all inputs through the steps, into one file of documents with fingerprints."""

import json
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

from regrow.cleaning import cleaner
from regrow.cleaning.cleaner import Cleaned, step_names
from regrow.cleaning.job import CorpusJob, blocks_from
from regrow.cleaning.progress import StageProgress
from regrow.cleaning.tally import StepTally, Tally, add_tally, tally_from, tally_json
from regrow.cleaning.work_files import GrowingFiles
from regrow.common.errors import UserError
from regrow.corpus import parallel
from regrow.corpus.parallel import FilePosition, file_position

LINES, RECORDS, SIGNATURES = "documents.jsonl", "records", "signatures"
PARAGRAPHS, SENTENCES, HITS = "paragraphs", "sentences", "hits.jsonl"
_FILES = (LINES, RECORDS, SIGNATURES, PARAGRAPHS, SENTENCES, HITS)
_CHECKPOINT = "clean.json"


def clean_inputs(job: CorpusJob, directory: Path, workers: int, progress: StageProgress) -> Tally:
    """Clean all inputs into a directory; go on where an earlier run was stopped.

    What the steps did.

    Raises UserError if a data set cannot be read, or a checkpoint is damaged.
    """
    with GrowingFiles(directory, _FILES, _CHECKPOINT) as files:
        tally: Tally = {name: StepTally() for name in step_names(job.config)}
        reached, done = FilePosition(), False
        if files.facts:
            reached, done = _read_facts(files.facts, len(job.inputs), directory, tally)
        if done:
            return tally
        before = [*accumulate((each.nbytes for each in job.inputs), initial=0)]

        def save(*, finished: bool = False) -> None:
            place = {"file": reached.file, "place": asdict(reached.position)}
            files.save({**place, "done": finished, "tally": tally_json(tally)})

        blocks = (
            ((FilePosition(number, block.after), before[number] + block.read), block)
            for number, block in blocks_from(job, reached.file, reached.position)
        )
        with parallel.pool(workers, cleaner.start, job.config, job.questions) as processes:
            for (after, read), found in parallel.in_order(cleaner.clean, blocks, processes, save):
                _append(files, found)
                add_tally(tally, found.tally)
                reached = after
                source = job.config.sources[job.inputs[after.file].source].name
                progress.tell(read, before[-1], source)
        save(finished=True)
    return tally


def _append(files: GrowingFiles, found: Cleaned) -> None:
    files.append(LINES, found.lines)
    files.append(RECORDS, found.records.tobytes())
    files.append(SIGNATURES, found.signatures.tobytes())
    files.append(PARAGRAPHS, found.paragraphs.tobytes())
    files.append(SENTENCES, found.sentences.tobytes())
    for hit in found.hits:
        files.append(HITS, (json.dumps(hit._asdict(), ensure_ascii=False) + "\n").encode())


def _read_facts(
    facts: dict[str, Any], inputs: int, directory: Path, tally: Tally
) -> tuple[FilePosition, bool]:
    try:
        add_tally(tally, tally_from(facts["tally"]))
        return file_position(facts["file"], facts["place"], inputs), bool(facts["done"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{directory / _CHECKPOINT}: damaged; delete {directory.parent} to begin anew"
        ) from None
