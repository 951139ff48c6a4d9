"""What the model of a run is good for, in one sentence of measured numbers."""

from collections.abc import Iterator

from regrow.report.records import ModelRow, RunSummary, Score

_SAME_SPEED = 0.05
"""Speeds that differ by less than this part count as equal."""


def verdict(summary: RunSummary) -> str:
    """The sentence; empty before there is a model, or if nothing can be compared.

    For example: `The result (half) has 50% of the original's parameters, needs 14% more bits
    per byte on docs and 43% more on prose, and generates text 1.7 times as fast.`
    """
    original, result = summary.original, _last_done(summary)
    if original is None or result is None:
        return ""
    parts = [_size(original, result), *_losses(summary, original, result), *_speed(result)]
    if len(parts) == 1:
        return ""
    words = f"{', '.join(parts[:-1])}{',' if len(parts) > 2 else ''} and {parts[-1]}"
    return f"The result ({result.name}) {words}."


def _last_done(summary: RunSummary) -> ModelRow | None:
    """The model of the last stage that is done."""
    begun = {stage.name for stage in summary.stages if not stage.done}
    rows = [row for row in summary.models if row.role == "stage" and row.name not in begun]
    return rows[-1] if rows else None


def loss_ratio(original: ModelRow, result: ModelRow, text: str) -> float | None:
    """Bits per byte of the result, in those of the original; None if they cannot be compared."""
    before = original.after_recovery.get(text, Score())
    after = (result.after_recovery or result.after_cut).get(text, Score())
    if not (before.is_comparable and after.is_comparable):
        return None
    one, other = before.bits_per_byte, after.bits_per_byte
    return other / one if one and other is not None and one > 0 else None


def _size(original: ModelRow, result: ModelRow) -> str:
    if result.parameters == original.parameters:
        return "has as many parameters as the original"
    share = result.parameters / original.parameters if original.parameters else 1.0
    return f"has {share:.0%} of the original's parameters"


def _losses(summary: RunSummary, original: ModelRow, result: ModelRow) -> Iterator[str]:
    ratios = [(text, loss_ratio(original, result, text)) for text in summary.measured_texts]
    found = [_loss(text, ratio) for text, ratio in ratios if ratio is not None and ratio < 1e4]
    if found:
        first, *others = found
        told = [f"needs {first[0]} bits per byte on {first[1]}"]
        told += [f"{more} on {text}" for more, text in others]
        yield f"{', '.join(told[:-1])} and {told[-1]}" if len(told) > 1 else told[0]


def _loss(text: str, ratio: float) -> tuple[str, str]:
    percent = round(100 * (ratio - 1))
    if percent == 0:
        return "as many", text
    return f"{abs(percent)}% {'more' if percent > 0 else 'fewer'}", text


def _speed(result: ModelRow) -> Iterator[str]:
    if result.speed is None:
        return
    ratio = result.speed.ratio
    same = abs(ratio - 1) < _SAME_SPEED
    yield f"generates text {'as fast' if same else f'{ratio:.1f} times as fast'}"
