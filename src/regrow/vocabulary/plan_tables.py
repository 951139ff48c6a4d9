"""A planned vocabulary as tables of at most 80 columns, and as JSON."""

import math
from typing import Any

from regrow.common import numbers
from regrow.vocabulary.sizing import ROUND, WANTED, VocabularyPlan

Rows = list[tuple[str, ...]]


def size_rows(plan: VocabularyPlan) -> Rows:
    """Coverage, parameters and length of text for each size; the first row names the columns."""
    before = plan.sizes[0]
    rows: Rows = [("tokens", "", "covered", "parameters", "change", "text longer")]
    for row in plan.sizes:
        longer = plan.longer(row.size)
        rows.append(
            (
                f"{row.size:,}", _why(row.why), percent(row.coverage),
                numbers.count(row.parameters),
                numbers.change(before.parameters, row.parameters, 1) if row is not before else "",
                "" if longer is None or row is before else numbers.signed(100 * longer - 100, 2)
                + "%",
            )
        )  # fmt: skip
    return rows


def language_rows(plan: VocabularyPlan) -> Rows:
    """Coverage and fertility of each language, at the chosen size; first the names of columns."""
    before, after = plan.sizes[0], plan.at(plan.chosen)
    unknown = any(after.unknown.values()) or any(before.unknown.values())
    head = (f"at {plan.chosen:,}", "share", "covered", "tokens/character", "then", "change")
    rows: Rows = [(*head, "unknown", "then") if unknown else head]
    for name, share in plan.shares.items():
        cells = [name, f"{share:.1%}", percent(after.languages[name])]
        if name in before.per_character:
            a, b = before.per_character[name], after.per_character[name]
            cells += [f"{a:.4f}", f"{b:.4f}", numbers.change(a, b, 2)]
            if unknown:
                cells += [percent(before.unknown[name]), percent(after.unknown[name])]
        else:
            cells += [numbers.ABSENT] * (len(rows[0]) - len(cells))
        rows.append(tuple(cells))
    return rows


def suggestion(plan: VocabularyPlan) -> str:
    """The suggested size, in one line."""
    row, before = plan.at(plan.suggested), plan.sizes[0]
    if row is before:
        return (
            f"suggested: all {before.size:,} tokens, since no smaller multiple of {ROUND} covers "
            f"{WANTED:.1%} of each language; {plan.least:,} is the least"
        )
    fewer = numbers.change(before.parameters, row.parameters, 1)
    least = min([row.coverage, *row.languages.values()])
    covered = (
        f"{WANTED:.1%} of each language"
        if least >= WANTED
        else f"{percent(row.coverage)} of the text, and {percent(least)} of a language or more"
    )
    return (
        f"suggested: {row.size:,} tokens, which cover {covered}, "
        f"{numbers.count(row.parameters)} parameters ({fewer}); {plan.least:,} is the least"
    )


def warning(plan: VocabularyPlan) -> str:
    """A line that says so if the corpus is too small to decide on; empty otherwise."""
    if not plan.is_text_too_small:
        return ""
    return (
        f"the corpus is small for this choice: about {percent(plan.unseen)} of the tokens of more "
        "text like it do not occur in it, so the rarest tokens are kept or dropped by chance; "
        "count more text, or give a smaller coverage"
    )


def percent(share: float) -> str:
    """A share with enough digits to differ from 0% and 100%: 99.90%, 99.933%, 0.012%."""
    if share in (0, 1):
        return f"{share:.0%}"
    small = min(share, 1 - share)
    digits = min(max(math.ceil(-math.log10(small)) - 1, 1), 4)
    return f"{share:.{digits}%}"


def to_json(plan: VocabularyPlan) -> dict[str, Any]:
    """The plan as JSON, without the list of tokens."""
    return {
        "model": str(plan.model),
        "counts": str(plan.counts),
        "tokens": plan.tokens,
        "characters": plan.characters,
        "shares": dict(plan.shares),
        "unseen": plan.unseen,
        "text_too_small": plan.is_text_too_small,
        "least": plan.least,
        "suggested": plan.suggested,
        "chosen": plan.chosen,
        "sizes": [
            {
                "size": row.size, "why": row.why, "coverage": row.coverage,
                "languages": dict(row.languages), "parameters": row.parameters,
                "tokens_per_character": dict(row.per_character), "unknown": dict(row.unknown),
            }
            for row in plan.sizes
        ],
        "reasons": {
            reason: plan.choice.reasons.count(reason)
            for reason in dict.fromkeys(plan.choice.reasons)
        },
        "curve": {name: [list(point) for point in points] for name, points in plan.curve.items()},
    }  # fmt: skip


def _why(why: str) -> str:
    return "" if why[0].isdigit() else why
