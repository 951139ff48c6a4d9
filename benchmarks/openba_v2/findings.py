"""What the report found, and whether the measured values say the same: a verdict by rule."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from openba_v2.report import LAYERS_AT_ONCE_LOSS, SCORES
from openba_v2.values import Values
from regrow.evaluation.quality_kept import ChanceScore

TOKEN_BYTES = 4
"""Bytes of a token, roughly. The report's perplexity is for each token."""
STEEP = 10.0
"""A perplexity explodes if it becomes more than so many times the original's."""
FREE = 0.01
"""A cut is free if it costs less than this share of the loss."""
FEWEST_TASKS = 3
"""On so many tasks a model must be above chance, to say what its cut keeps."""
FOUND = 10.0
"""F1 in percent that a model has at least, to say what its cut keeps."""
ROUNDING = 1e-9
TWICE = 2.0
"""English suffers more if it costs more than so many times what Chinese costs."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Verdict:
    """Whether a model shows the same as the report, and the numbers that say so.

    `agrees`: None if the numbers cannot say.
    """

    agrees: bool | None
    words: str


@dataclass(frozen=True)
class Finding:
    """A finding of the report; `judge`: (values of a part) -> verdict, None if it cannot say."""

    words: str
    part: str
    judge: Callable[[Any], Verdict | None]

    def verdict(self, values: Values, model: str) -> Verdict | None:
        """None if the part was not measured on the model."""
        record = values.get(self.part, {}).get(model)
        return None if record is None else self.judge(record["values"])


def at_share(points: Sequence[Point], share: float) -> float | None:
    """The value of a line at a share, between its points; None beyond the last."""
    for (before, low), (after, high) in pairwise(points):
        if before <= share <= after:
            return low + (high - low) * (share - before) / (after - before)
    last, value = points[-1]
    return value if abs(share - last) < ROUNDING else None


def line_points(found: Any, line: Any) -> list[Point]:
    """(share of the parameters that is cut, bits per byte), from the original on."""
    cuts = [(1 - cut["parameters"] / found["parameters"], cut["bits"]) for cut in line["cuts"]]
    return [(0.0, found["original"]), *cuts]


def longest(found: Any, kind: str) -> list[Point]:
    """The line of a kind along which most is cut; of an encoder-decoder that of the decoder."""
    lines = [line_points(found, line) for line in found["lines"] if line["kind"] == kind]
    return max(lines, key=lambda points: points[-1][0])


def _depth_or_width(found: Any) -> Verdict | None:
    depth, width = longest(found, "depth"), longest(found, "width")
    most = min(depth[-1][0], width[-1][0])
    words, more = [], (0.0, 0.0)
    for share in (0.2, most):
        costs = [at_share(line, share) for line in (depth, width)]
        if costs[0] is None or costs[1] is None:
            return None
        more = costs[0] - found["original"], costs[1] - found["original"]
        words.append(f"with {share:.0%} gone depth costs {more[0]:+.2f} bits, width {more[1]:+.2f}")
    return Verdict(more[0] < more[1], "; ".join(words))


def _explodes(found: Any) -> Verdict | None:
    words, steep = [], []
    for kind in ("depth", "width"):
        line = longest(found, kind)
        costs = [at_share(line, share) for share in (0.2, 0.4)]
        if costs[0] is None or costs[1] is None:
            continue
        few, many = (
            2 ** (TOKEN_BYTES * (cost - found["original"])) for cost in costs if cost is not None
        )
        words.append(f"{kind}, {few:.1f} times at 20%, {many:.1f} times at 40%")
        steep.append(many > STEEP)
    return Verdict(all(steep), "; ".join(words)) if words else None


def _spread(found: Any) -> Verdict:
    spaced, middle = (found["dropped"][name]["bits"] for name in ("spaced", NEIGHBOURS))
    return Verdict(spaced < middle, f"spaced {spaced:.2f}, neighbours {middle:.2f} bits")


def _middle(found: Any) -> Verdict:
    bits = {name: each["bits"] for name, each in found["dropped"].items()}
    ends = bits["the first"], bits["the last"]
    words = f"middle {bits[NEIGHBOURS]:.2f}, first {ends[0]:.2f}, last {ends[1]:.2f} bits"
    return Verdict(bits[NEIGHBOURS] < min(ends), words)


NEIGHBOURS = "neighbours in the middle"


def row(found: Any, name: str) -> Any:
    """A model of a run, by its name; None if it is not there."""
    return next((each for each in found["models"] if each["name"] == name), None)


def _staged_layers(found: Any) -> Verdict | None:
    staged, once = row(found, "depth-3"), row(found, "layers at once")
    if staged is None or once is None:
        return None
    a, b = staged["cut"]["nats"], once["cut"]["nats"]
    words = f"after the last cut {a:.2f} nats, at once {b:.2f}"
    return Verdict(a < b, words)


def _staged(found: Any) -> Verdict | None:
    staged, once = row(found, "vocabulary"), row(found, "at-once")
    if staged is None or once is None:
        return None
    a = (staged["recovered"] or staged["cut"])["bits"]
    b = once["recovered"]["bits"]
    return Verdict(a < b, f"{a:.2f} bits in stages, {b:.2f} at once")


def _dominates(found: Any) -> Verdict:
    shares = found["stable"]
    most = max(shares, key=lambda name: shares[name])
    of_report = found.get("paper", {}).get("S")
    words = f"S ends at {shares['S']:.0%}, {most} at {shares[most]:.0%}"
    if of_report is not None:
        words += f"; by the report's own rule S ends at {of_report:.0%}"
    return Verdict(most == "S", words)


def _more_text(found: Any) -> Verdict:
    ours, ul2 = found["o-ul2"], found["ul2"]
    words = (
        f"{ours['tokens'] / ul2['tokens']:.1f} times the tokens; loss of S "
        f"{ours['losses']['S'] - ul2['losses']['S']:+.2f}, of R1 "
        f"{ours['losses']['R1'] - ul2['losses']['R1']:+.2f}, of X1 "
        f"{ours['losses']['X1'] - ul2['losses']['X1']:+.2f}"
    )
    return Verdict(ours["tokens"] > ul2["tokens"], words)


def cost_at(points: Sequence[Any], share: float) -> float:
    """What a vocabulary of about this share of the largest costs, as a share of its loss."""
    whole = points[0]
    nearest = min(points, key=lambda each: abs(each["size"] / whole["size"] - share))
    return float(nearest["bits_per_character"] / whole["bits_per_character"] - 1)


def _free_vocabulary(found: Any) -> Verdict:
    costs = {name: cost_at(points, 0.5) for name, points in found.items()}
    words = "half of the tokens: " + ", ".join(f"{n} {c:+.1%}" for n, c in costs.items())
    return Verdict(max(costs.values()) < FREE, words)


def _languages(found: Any) -> Verdict:
    costs = {name: cost_at(points, 0.08) for name, points in found.items()}
    words = ", ".join(f"{n} {c:+.0%}" for n, c in costs.items())
    return Verdict(costs["English"] > TWICE * costs["Chinese"], f"with the fewest: {words}")


def above_chance(scores: Mapping[str, float], whole: Mapping[str, float],
                 chances: Mapping[str, float]) -> float | None:  # fmt: skip
    """The share of the original's scores above chance that is kept, over all tasks together."""
    known = [task for task, chance in chances.items() if whole[task] > chance]
    before = sum(whole[task] - chances[task] for task in known)
    after = sum(scores[task] - chances[task] for task in known)
    return after / before if known else None


def chances(scores: Mapping[str, Any]) -> dict[str, float]:
    """Of the tasks on which a model is above chance beyond doubt, by two standard errors."""
    return {
        task: score["chance"]
        for task, score in scores.items()
        if score["chance"] is not None
        and ChanceScore(score["value"], score["chance"], error_of(score)).is_above_chance
    }


def error_of(score: Any) -> float:
    """The standard error in percent; of a group, which has none, the binomial one."""
    share = score["value"] / 100
    found = score["error"] or 100 * math.sqrt(share * (1 - share) / score["questions"])
    return float(found)


def kept(scores: Mapping[str, Any], original: Mapping[str, Any]) -> float | None:
    """The share of the original's scores above chance that is kept; None if that is chance."""
    known = chances(original)
    if len(known) < FEWEST_TASKS:
        return None
    now, whole = ({t: each[t]["value"] for t in known} for each in (scores, original))
    return above_chance(now, whole, known)


def _kept(found: Any) -> Verdict | None:
    original, *others = found["models"]
    if not others:
        return None
    share = kept(others[-1]["scores"], original["scores"])
    gone = 1 - others[-1]["parameters"] / original["parameters"]
    if share is None:
        count = len(chances(original["scores"]))
        return Verdict(None, f"the original is above chance beyond doubt on {count} tasks only")
    known = chances(original["scores"])
    of_report = above_chance(SCORES["3.4B"], SCORES["15B"], known)
    assert of_report is not None
    words = f"{share:.0%} of the score above chance is left with {gone:.0%} cut"
    return Verdict(share >= of_report, f"{words} (report: {of_report:.0%} with 77% cut)")


def _entities(found: Any) -> Verdict | None:
    original, *others = (fmean(s["report"] for s in m["sets"].values()) for m in found["models"])
    if not others:
        return None
    words = f"F1 {original:.1f}, after the cut {others[-1]:.1f}"
    if original < FOUND:
        return Verdict(None, f"the original finds hardly any ({words})")
    return Verdict(others[-1] >= original, words)


FINDINGS: Sequence[Finding] = (
    Finding("Depth costs less than width (figure 5)", "cuts", _depth_or_width),
    Finding("The perplexity explodes when some 40% go at once (figure 5)", "cuts", _explodes),
    Finding("Layers in the middle cost less than the first and the last", "layers", _middle),
    Finding("Spaced layers cost less than neighbours", "layers", _spread),
    Finding(
        f"Layers in stages cost less than at once (table 3: 1.89 and {LAYERS_AT_ONCE_LOSS} nats)",
        "stages", _staged_layers,
    ),
    Finding("All cuts in stages are better than all at once", "stages", _staged),
    Finding("S dominates the mixture of D-UL2 after a cut (figure 7)", "rules", _dominates),
    Finding("O-UL2 reads more text than UL2 in equal time", "objectives", _more_text),
    Finding("Half of the vocabulary goes without loss (figure 8)", "vocabulary", _free_vocabulary),
    Finding(
        "With few tokens, English suffers more than Chinese (figure 8)", "vocabulary", _languages
    ),
    Finding("The result keeps most of the scores", "questions", _kept),
    Finding("The smaller model finds entities as well as the original", "entities", _entities),
)  # fmt: skip
