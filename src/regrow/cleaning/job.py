"""What a corpus is built from, checked before any work, and the identity of the work."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regrow.cleaning.config import CorpusConfig, Near, made_step
from regrow.cleaning.contamination import QuestionIndex, read_questions
from regrow.cleaning.document import Document
from regrow.cleaning.duplicates.signatures import check_rensa
from regrow.cleaning.question_files import question_files
from regrow.cleaning.reading.blocks import check_dataset, read_raw
from regrow.cleaning.reading.inputs import Input, inputs_of, left_out, stamps
from regrow.cleaning.reading.records import WEB, documents_in
from regrow.common.errors import UserError
from regrow.common.outputs import check_new_directory
from regrow.corpus.parquet_rows import check_column
from regrow.corpus.reading import Reading
from regrow.corpus.text import Position

RESULTS = 2
"""Raised if the same configuration gives other bytes than before."""
IDENTITY = {
    "results": "version of regrow", "settings": "settings", "files": "files",
    "questions": "files with questions", "tokenizer": "tokenizer",
}  # fmt: skip
"""What decides the bytes of a corpus, and what a message calls it."""


@dataclass(frozen=True)
class CorpusJob:
    """A corpus that can be built.

    Attributes:
        config: The configuration; its steps begin with `html` if an input holds pages.
        inputs: All files and data sets, in order.
        questions: The questions that are removed, if any.
        tokenizer: The directory of the tokenizer, if the configuration names one.
        work: What decides the bytes of the corpus.
    """

    config: CorpusConfig
    inputs: tuple[Input, ...]
    questions: QuestionIndex | None
    tokenizer: Path | None
    work: dict[str, Any] = field(repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is read and what is not, in sentences."""
        suffixes = left_out(self.config.sources)
        notes = []
        if suffixes:
            words = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.items())
            notes.append(f"Files in directories whose suffix no reader knows, not read: {words}.")
        if self.questions is not None:
            notes.append(self.questions.summary)
        return tuple(notes)

    @property
    def counts_tokens(self) -> bool:
        """Whether the tokens of each document are counted, for the mixture."""
        from regrow.cleaning.mixture import unit_of

        return unit_of(self.config) == "tokens"


def plan_corpus(config: CorpusConfig, tokenizer: Path | None) -> CorpusJob:
    """Check what can be checked before any work.

    `tokenizer`: the directory of the model that `config.tokenise` names.

    Raises UserError.
    """
    check_new_directory(config.out)
    _check_out(config)
    inputs = inputs_of(config.sources)
    if any(each.format in WEB for each in inputs) and not _names(config, "html"):
        try:
            html = made_step("html")
        except ValueError as error:
            raise UserError(str(error), key="steps") from None
        config = config.model_copy(update={"steps": (html, *config.steps)})
    _check_steps(config)
    if isinstance(config.duplicates.near, Near):
        check_rensa()
    if config.compress == "zst":
        _check_zstandard()
    for number, source in enumerate(config.sources):
        _check_text_key(config, number, [each for each in inputs if each.source == number])
        if source.dataset is not None:
            given = next(each for each in inputs if each.source == number)
            check_dataset(given, source.text, source.subset, source.split)
    questions = None if config.contamination is None else read_questions(config.contamination)
    against = (
        [] if config.contamination is None else question_files(config.contamination.against)[0]
    )
    work = {
        "results": RESULTS,
        "settings": settings_of(config),
        "files": stamps(inputs),
        "questions": [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in against],
        "tokenizer": None if tokenizer is None else _tokenizer_hash(tokenizer),
    }
    return CorpusJob(config, tuple(inputs), questions, tokenizer, work)


def settings_of(config: CorpusConfig) -> dict[str, Any]:
    """The configuration as values that JSON can hold, with all defaults, and without its place."""
    values = config.model_dump(mode="json", exclude={"out", "steps"})
    values["steps"] = [{step.name: step.model_dump(mode="json")} for step in config.steps]
    return values


def _names(config: CorpusConfig, name: str) -> bool:
    return any(step.name == name for step in config.steps)


def _check_out(config: CorpusConfig) -> None:
    """Raise UserError if the corpus would be in a directory that is read."""
    out = config.out.resolve()
    for number, source in enumerate(config.sources):
        for path in source.path or ():
            if path.is_dir() and out.is_relative_to(path.resolve()):
                raise UserError(
                    f"{config.out} is in {path}, which sources.{number}.path reads; "
                    "name a directory outside of it",
                    key="out",
                )


def _check_steps(config: CorpusConfig) -> None:
    names = [step.name for step in config.steps]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name} stands twice; name each step once", key="steps")


def _check_zstandard() -> None:
    try:
        import zstandard  # noqa: F401
    except ImportError:
        raise UserError(
            "zstandard writes .zst and is not installed; pip install 'regrow[data]'", key="compress"
        ) from None


def _check_text_key(config: CorpusConfig, number: int, inputs: list[Input]) -> None:
    """Raise UserError if no record at the beginning of a source has the key of the text."""
    source = config.sources[number]
    for each in inputs:
        if each.format == "parquet":
            check_column(each.path, Reading(source.text), f"sources.{number}.text")
    first = next((each for each in inputs if each.format == "jsonl"), None)
    if first is None:
        return
    wrong = f"no key {source.text!r}"
    block = next(iter(read_raw(first, source.text, None, "", Position())), None)
    found = [] if block is None else [*documents_in(block, source.name)]
    reasons = [each.reason for each in found if not isinstance(each, Document)]
    if len(reasons) == len(found) and wrong in reasons:
        raise UserError(
            f"{first.path}: {wrong} in any of its first {len(found):,} lines; "
            "set text to the key that holds the text",
            key=f"sources.{number}.text",
        )


def _tokenizer_hash(directory: Path) -> str:
    from regrow.corpus.tokenisation import store_job

    return store_job(directory, eos=True).tokenizer_sha256


def blocks_from(job: CorpusJob, file: int, position: Position) -> "Iterator[tuple[int, Any]]":
    """The raw blocks of all inputs from a position on, each with the number of its input."""
    for number in range(file, len(job.inputs)):
        each = job.inputs[number]
        source = job.config.sources[each.source]
        start = position if number == file else Position()
        for block in read_raw(each, source.text, source.subset, source.split, start):
            yield number, block
