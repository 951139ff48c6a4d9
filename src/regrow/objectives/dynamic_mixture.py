"""Shares of denoisers, or of sources of text, that follow what a cut has cost each of them.

At times the loss of each part is measured on text held out, and set against a reference, mostly the
loss of the uncut model. What lies further behind is drawn more often. Dynamic-UL2 does so with
denoisers (OpenBA-V2 report, algorithm 1), Sheared LLaMA with sources (Xia et al. 2023, section
2.2). One rule serves both, each with a distribution of its own.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

RuleName = Literal["stable", "paper", "code"]

Numbers = Mapping[str, float]
"""A number for each part, by name."""


@dataclass(frozen=True)
class MixtureRule:
    """How shares p follow gaps d between losses and their references.

    With s the shares at the start::

        log p  <-  (1 - pull) * log p + pull * log s + rate * d    then normalised,

    and then every share is at least ``least`` of an even one.

    Attributes:
        rate: eta; what a gap of one nat adds to the logarithm of a share in one update.
        pull: The way back to the start that is gone in each update, from 0 to 1.
        least: c; the part of an even share that every part keeps.
        clipped: Whether a part that is better than its reference counts as one that equals it.
        blended: Whether shares are kept from vanishing by blending in even ones, ``(1 - c) * p +
            c / parts``, which moves all of them each time; or else by raising those that are too
            small at the cost of the others in proportion, which moves nothing where none is.
    """

    rate: float
    pull: float
    least: float
    clipped: bool
    blended: bool

    def __post_init__(self) -> None:
        if not (0 <= self.rate < math.inf and 0 <= self.pull <= 1 and 0 < self.least <= 1):
            raise ValueError(f"no rule: {self}")

    def shares(self, before: Numbers, start: Numbers, gaps: Numbers) -> dict[str, float]:
        """The shares after one update; they sum to 1. `before` and `start` are above 0."""
        logs = {
            name: (1 - self.pull) * math.log(before[name])
            + self.pull * math.log(start[name])
            + self.rate * (max(gap, 0.0) if self.clipped else gap)
            for name, gap in gaps.items()
        }
        most = max(logs.values())
        raw = _normalised({name: math.exp(log - most) for name, log in logs.items()})
        if self.blended:
            even = self.least / len(raw)
            return {name: (1 - self.least) * share + even for name, share in raw.items()}
        return raised(raw, self.least / len(raw))


RULES: Mapping[RuleName, MixtureRule] = {
    "stable": MixtureRule(rate=0.6, pull=0.2, least=0.14, clipped=True, blended=False),
    "paper": MixtureRule(rate=1.0, pull=0.0, least=1e-4, clipped=True, blended=True),
    "code": MixtureRule(rate=1.0, pull=0.0, least=1e-4, clipped=False, blended=True),
}
"""`paper` is algorithm 1 with the constants of the code that was released with it; `code` is that
code, in which gaps below 0 count too. Both add up gaps without end: those that stay at 0.1 to 0.3
nats put half of all on one of seven denoisers in 20 updates.

`stable` cannot run away. Its logarithms of shares are running means of ``log s + 3 * d`` over some
five updates: the same gaps for ever lead to shares that go as ``s * exp(3 * d)``, a single bad
measurement is forgotten, and without gaps the shares return to those of the start. None falls below
14% of an even share, which is 2% with seven parts, and one that lay there rises again at once,
since what is remembered is the share itself. As gaps are clipped, one part that is better than its
reference does not lend its share to those that are as good as theirs.
"""

OPENBA_START: Numbers = {
    "R1": 0.02, "R2": 0.02, "S": 0.8, "X1": 0.1, "X2": 0.02, "X3": 0.02, "X4": 0.02,
}  # fmt: skip
"""Shares of UL2's denoisers with which the released code begins."""

OPENBA_LOSSES: Numbers = {
    "R1": 1.154, "R2": 1.594, "S": 2.106, "X1": 1.298, "X2": 1.723, "X3": 2.151, "X4": 2.151,
}  # fmt: skip
"""Reference losses there, in nats per token: of OpenBA 15B on its own text held out."""


@dataclass(frozen=True)
class MixtureChange:
    """One update.

    Attributes:
        sample: The first sample of the training that is drawn by these shares.
        tokens: Text tokens trained on before it.
        losses: As measured, in nats per token, by part.
        shares: By part; they sum to 1.
    """

    sample: int
    tokens: int
    losses: dict[str, float]
    shares: dict[str, float]


@dataclass(frozen=True)
class DynamicMixture:
    """Shares over the samples of a training. Nothing but its history changes, so that resumes it.

    Attributes:
        rule: How shares follow losses.
        start: Weights of the first samples, by part, above 0. Their shares are in proportion, but
            for what the rule leaves each part at least.
        references: Losses to get back to, in nats per token, by part.
        history: In order.
    """

    rule: MixtureRule
    start: Numbers
    references: Numbers
    history: tuple[MixtureChange, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.start.keys() != self.references.keys() or len(self.start) < 2:
            raise ValueError(
                f"weights for {', '.join(self.start)}, references for "
                f"{', '.join(self.references)}; a mixture has two parts or more, and one of each "
                "for every part"
            )
        for name, weight in self.start.items():
            if not 0 < weight < math.inf or not math.isfinite(self.references[name]):
                raise ValueError(
                    f"{name}: weight {weight}, reference {self.references[name]}; "
                    "a weight above 0 and a finite reference are wanted"
                )

    @cached_property
    def first_shares(self) -> dict[str, float]:
        """Of the first samples, by part."""
        shares = _normalised(self.start)
        return shares if self.rule.blended else raised(shares, self.rule.least / len(shares))

    @property
    def shares(self) -> dict[str, float]:
        """The latest, by part."""
        return dict(self.history[-1].shares if self.history else self.first_shares)

    def updated(self, losses: Numbers, *, sample: int, tokens: int) -> Self:
        """The same after a measurement; its shares hold from `sample` on.

        Where a loss is not finite nothing is known, and the shares stay.
        """
        if losses.keys() != self.references.keys():
            raise ValueError(
                f"losses of {', '.join(losses)}, references for {', '.join(self.references)}"
            )
        if self.history and sample < self.history[-1].sample:
            raise ValueError(f"a change at {sample} after one at {self.history[-1].sample}")
        shares = self.shares
        gaps = {name: losses[name] - reference for name, reference in self.references.items()}
        if all(map(math.isfinite, gaps.values())):
            shares = self.rule.shares(shares, self.first_shares, gaps)
        return self._with(MixtureChange(sample, tokens, dict(losses), shares))

    def as_json(self) -> list[dict[str, Any]]:
        """The history, to be kept in a checkpoint."""
        return [asdict(change) for change in self.history]

    def resumed(self, history: Iterable[Mapping[str, Any]]) -> Self:
        """The same where `as_json` was written."""
        return replace(self, history=tuple(MixtureChange(**change) for change in history))

    def _with(self, change: MixtureChange) -> Self:
        return replace(self, history=(*self.history, change))


def raised(shares: Numbers, floor: float) -> dict[str, float]:
    """The distribution nearest to `shares` in which each has at least `floor`.

    Nearest by the Kullback-Leibler divergence from it: those above the floor keep their
    proportions. `shares` sum to 1, and `floor` is at most an even one.
    """
    low: set[str] = set()
    while True:
        above = math.fsum(share for name, share in shares.items() if name not in low)
        scale = (1 - floor * len(low)) / above
        fell = {n for n, share in shares.items() if n not in low and share * scale < floor}
        if not fell or len(low) + len(fell) == len(shares):
            return {n: floor if n in low else share * scale for n, share in shares.items()}
        low |= fell


def _normalised(shares: Numbers) -> dict[str, float]:
    # In an exact sum the order of the parts does not matter.
    total = math.fsum(shares.values())
    return {name: share / total for name, share in shares.items()}
