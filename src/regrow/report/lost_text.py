"""What tokenization loses of the held-out texts, in words."""

from collections.abc import Iterator

from regrow.report.records import RunSummary, Score

MARK = "*"
"""Behind bits per byte that cannot be compared."""


def lost_words(score: Score) -> str:
    """What a tokenizer loses of a text: `43.1% of the tokens are unknown`; empty if nothing."""
    parts = []
    if score.unknown:
        parts.append(f"{_percent(score.unknown)} of the tokens are unknown")
    if score.lost:
        parts.append(f"{_percent(score.lost)} of the bytes are in no token")
    words = " and ".join(parts)
    if not score.is_comparable:
        words += ", so bits per byte cannot be compared"
    return words


def lost_lines(summary: RunSummary) -> Iterator[str]:
    """A line for each text and each tokenizer that loses a part of it."""
    for text in summary.measured_texts:
        models: dict[str, list[str]] = {}
        for row in summary.models:
            score = row.after_recovery.get(text) or row.after_cut.get(text)
            if score is not None and (words := lost_words(score)):
                mark = "" if score.is_comparable else f" ({MARK})"
                models.setdefault(words + mark, []).append(row.name)
        for words, names in models.items():
            yield f"{text}: {words}: {', '.join(names)}"


def _percent(share: float) -> str:
    """Two digits, so that a small share is not shown as 0."""
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.1f}%"
