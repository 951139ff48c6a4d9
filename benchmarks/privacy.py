"""Personal data that the step `privacy` finds, on a labelled set, against datatrove's.

    python benchmarks/privacy.py

The set, `privacy.jsonl`, has some 400 lines in English and Chinese, written for this purpose; all
data in it is invented. About half of the lines have none, but numbers that look like some: order
numbers, prices, dates, hashes, versions, ISBNs, coordinates. Counted are whole finds: one that
begins or ends elsewhere is wrong, and the right one is missed. Of the lines with an even number,
counted from 0, errors were looked at to improve the rules; of the others, none. datatrove's
PIIFormatter finds e-mail addresses and IPv4 addresses only.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import Goal, Result, parser, show

from regrow.cleaning.steps.privacy import KINDS, REASONS, Kind, Privacy

LABELLED = Path(__file__).with_name("privacy.jsonl")
PEER = "datatrove"
PRECISION: dict[Kind, float] = {
    "link": 0.85, "email": 0.95, "ip": 0.95, "resident_id": 1.0, "bank_card": 1.0, "passport": 1.0,
    "phone": 0.95, "qq": 1.0, "wechat": 1.0,
}  # fmt: skip
RECALL: dict[Kind, float] = {
    "link": 0.95, "email": 0.9, "ip": 1.0, "resident_id": 0.9, "bank_card": 0.95, "passport": 1.0,
    "phone": 0.92, "qq": 0.92, "wechat": 0.93,
}  # fmt: skip

Find = tuple[str, str]
"""A kind and the text that was found."""
_JUDGED = 411
"""Lines after these were added for errors that were found later."""


@dataclass(frozen=True)
class Line:
    """A text of the set, and what is to be found in it."""

    text: str
    wanted: Counter[Find]


@dataclass(frozen=True)
class Score:
    """Finds that are right, wrong and missed."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        return self.right / (self.right + self.wrong) if self.right else 0.0

    @property
    def recall(self) -> float:
        return self.right / (self.right + self.missed) if self.right else 0.0


def labelled() -> list[Line]:
    """The labelled set."""
    rows = map(json.loads, LABELLED.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    return [Line(row["text"], Counter((kind, text) for kind, text in row["found"])) for row in rows]


def found_by(step: Privacy) -> Callable[[str], Iterable[Find]]:
    """What the step finds in a text."""
    return lambda text: ((kind, text[start:end]) for start, end, kind in step.spans(text))


def score(
    lines: Sequence[Line], find: Callable[[str], Iterable[Find]], kinds: Iterable[str]
) -> Score:
    """The finds of some kinds in all lines."""
    right = wrong = missed = 0
    chosen = set(kinds)
    for line in lines:
        found = Counter(each for each in find(line.text) if each[0] in chosen)
        wanted = Counter({each: n for each, n in line.wanted.items() if each[0] in chosen})
        right += (found & wanted).total()
        wrong += (found - wanted).total()
        missed += (wanted - found).total()
    return Score(right, wrong, missed)


def _datatrove(text: str) -> Iterable[Find]:
    from datatrove.pipeline.formatters.pii import PIIFormatter

    peer = PIIFormatter(only_remove_public_ips=False)
    for kind, replacer in (("email", peer.emails_replacer), ("ip", peer.ip_replacer)):
        yield from ((kind, hit[0]) for hit in replacer.regex.finditer(text))


def _results() -> list[Result]:
    lines = labelled()
    find = found_by(Privacy())
    results = []
    for kind in KINDS:
        ours = score(lines, find, [kind])
        theirs = score(lines, _datatrove, [kind]) if kind in ("email", "ip") else None
        name = f"{REASONS[kind]} ({ours.right + ours.missed})"
        for what, bound in (("precision", PRECISION[kind]), ("recall", RECALL[kind])):
            goal = Goal("value", ">=", bound)
            peer = None if theirs is None else PEER
            peer_value = None if theirs is None else float(getattr(theirs, what))
            value = float(getattr(ours, what))
            results.append(Result(f"{name}: {what}", value, "", peer, peer_value, goal))
    for name, some in (("all lines", lines), ("lines nothing was tuned on", lines[1:_JUDGED:2])):
        total = score(some, find, KINDS)
        results += [
            Result(f"{name}: precision", total.precision, "", goal=Goal("value", ">=", 0.95)),
            Result(f"{name}: recall", total.recall, "", goal=Goal("value", ">=", 0.93)),
        ]
    return results


if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    show(_results(), as_json=options.json)
