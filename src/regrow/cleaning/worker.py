"""A process that works on blocks: what it holds, and what it is asked to do."""

from collections.abc import Sequence
from pathlib import Path

from regrow.cleaning.cleaner import Cleaned, Cleaner
from regrow.cleaning.config import CorpusConfig
from regrow.cleaning.contamination import QuestionIndex
from regrow.cleaning.finisher import Finished, Finisher, Staying
from regrow.cleaning.reading.blocks import RawBlock

_cleaner: Cleaner
_finisher: Finisher


def start(
    config: CorpusConfig,
    questions: QuestionIndex | None,
    removed: Sequence[str],
    tokenizer: Path | None,
) -> None:
    """Make what this process holds.

    Args:
        config: the configuration.
        questions: the questions that are removed.
        removed: the kinds of parts that are removed if they are repeated.
        tokenizer: the directory of the tokenizer, if tokens are counted.
    """
    global _cleaner, _finisher
    has_copies = not config.duplicates.exact
    _cleaner = Cleaner(config, questions)
    _finisher = Finisher(removed, tokenizer, has_copies=has_copies)


def clean(block: RawBlock) -> Cleaned:
    """Clean a block."""
    return _cleaner.clean(block)


def finish(given: Staying) -> Finished:
    """Finish documents."""
    return _finisher.finish(given)
