"""The tables of a corpus that was built, for the terminal and for the page."""

from typing import TYPE_CHECKING

from regrow.common import numbers

if TYPE_CHECKING:
    from regrow.cleaning.built import BuiltCorpus, NamedTally

Rows = list[tuple[str, ...]]
"""The first row names the columns."""
_MOST_REASONS = 12


def step_rows(built: "BuiltCorpus") -> Rows:
    """What each step did with the documents."""
    rows: Rows = [
        ("step", "documents", "changed", "dropped", "documents left", "characters",
         "characters left")
    ]  # fmt: skip
    for step in built.steps:
        tally = step.tally
        kept = tally.read - tally.dropped
        rows.append((
            step.name, f"{tally.read:,}", f"{tally.changed:,}", f"{tally.dropped:,}",
            _share(kept, tally.read), numbers.count(tally.characters_kept),
            _share(tally.characters_kept, tally.characters_read),
        ))  # fmt: skip
    return rows


def reason_rows(step: "NamedTally", most: int = _MOST_REASONS) -> Rows:
    """Why a step changed or dropped documents, the most frequent reasons first."""
    rows: Rows = [("reason", "documents", "times", "example")]
    reasons = sorted(step.tally.reasons.items(), key=lambda pair: -pair[1].documents)
    for name, reason in reasons[:most]:
        example = reason.examples[0] if reason.examples else None
        words = "" if example is None else example.words or example.document
        rows.append((name, f"{reason.documents:,}", f"{reason.count:,}", words))
    if len(reasons) > most:
        others = sum(reason.documents for _, reason in reasons[most:])
        rows.append((f"{len(reasons) - most} others", f"{others:,}", "", ""))
    return rows


def example_rows(step: "NamedTally") -> Rows:
    """The first documents of each reason, and the words that gave it."""
    rows: Rows = [("reason", "words", "document")]
    for name, reason in step.tally.reasons.items():
        rows += [(name, example.words, example.document) for example in reason.examples]
    return rows


def mixture_rows(built: "BuiltCorpus") -> Rows:
    """How much there is of each source, is wanted and is taken, and how often."""
    mixture = built.mixture
    head = ("source", "documents", f"{mixture.unit} there", "share", "wanted", "taken", "times")
    rows: Rows = [head]
    for row in mixture.rows:
        share = "" if row.share is None else f"{row.share:.1%}"
        rows.append((
            row.source, f"{row.documents:,}", f"{row.have:,}", share, f"{row.want:,}",
            f"{row.taken:,}", f"{row.times:.2f}",
        ))  # fmt: skip
    return rows


def summary_line(built: "BuiltCorpus") -> str:
    """What the corpus holds, in one line."""
    tokens = "" if built.tokens is None else f", {numbers.count(built.tokens)} tokens"
    documents = numbers.things(built.documents, "document")
    characters = f"{numbers.count(built.characters)} characters"
    read = numbers.things(built.read, "document")
    return f"{documents}, {characters}{tokens}, of {read} read"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
