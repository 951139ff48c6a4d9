"""Mixtures of denoisers, or of sources of text, whose shares follow held-out losses.

From time to time the loss of each component is measured on held-out text and compared with a
reference, mostly the loss of the uncut model. The further a component is above its reference, the
more often it is drawn. Dynamic-UL2 does this with denoisers (OpenBA-V2 report, algorithm 1), and
Sheared LLaMA with sources of text (Xia et al. 2023, section 2.2). The rule is the same for both;
each has its own shares.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

RuleName = Literal["stable", "paper", "code"]

Numbers = Mapping[str, float]
"""A number for each component, by name."""


@dataclass(frozen=True)
class MixtureRule:
    """How the shares p follow the gaps d, where a gap is a loss minus its reference.

    With s the shares at the start, one update is::

        log p  <-  (1 - pull) * log p + pull * log s + rate * d    then normalised,

    and then every share is raised to at least ``least / components``.

    Attributes:
        rate: eta; how much a gap of one nat adds to the logarithm of a share in one update.
        pull: How far each update moves the logarithms back to those at the start, from 0 to 1.
        least: c; the smallest share, as a fraction of an even share.
        clipped: Whether gaps below 0 count as 0.
        blended: How the smallest share is kept. True blends in even shares, ``(1 - c) * p +
            c / components``, which changes all shares in every update. False raises only the
            shares that are too small, and scales the others down in proportion.
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
        """The shares after one update; they sum to 1. `before` and `start` must be above 0."""
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
        return with_floor(raw, self.least / len(raw))


RULES: Mapping[RuleName, MixtureRule] = {
    "stable": MixtureRule(rate=0.6, pull=0.2, least=0.14, clipped=True, blended=False),
    "paper": MixtureRule(rate=1.0, pull=0.0, least=1e-4, clipped=True, blended=True),
    "code": MixtureRule(rate=1.0, pull=0.0, least=1e-4, clipped=False, blended=True),
}
"""The rules by name.

`paper` is algorithm 1 with the constants of the code that was released with it. `code` is that
code, in which gaps below 0 count too. Both add up gaps without bound: if gaps stay at 0.1 to 0.3
nats, one of seven denoisers has half of all samples after 20 updates.

`stable` is bounded. The logarithms of its shares are running means of ``log s + 3 * d`` over about
five updates. If the gaps stay the same, the shares converge to ``s * exp(3 * d)``, normalised. A
single bad measurement is forgotten, and without gaps the shares return to those at the start. No
share falls below 14% of an even share, which is 2% with seven components. A share at this bound can
rise in the next update, because the rule has no other memory than the shares. Gaps are clipped, so
a component that is better than its reference does not lose share to components that only equal
theirs.
"""

OPENBA_START: Numbers = {
    "R1": 0.02, "R2": 0.02, "S": 0.8, "X1": 0.1, "X2": 0.02, "X3": 0.02, "X4": 0.02,
}  # fmt: skip
"""The shares of UL2's denoisers at the start of training in the released code."""


@dataclass(frozen=True)
class MixtureChange:
    """One update of the shares.

    Attributes:
        sample: The number of the first sample that is drawn with these shares.
        tokens: Text tokens trained on before this update.
        losses: The measured losses by component, in nats per token.
        shares: By component; they sum to 1.
    """

    sample: int
    tokens: int
    losses: dict[str, float]
    shares: dict[str, float]


@dataclass(frozen=True)
class DynamicMixture:
    """The shares of a mixture during a training. A training resumes from its history.

    Attributes:
        rule: How shares follow losses.
        start: Weights of the components for the first samples, above 0. Shares are in proportion to
            the weights, unless they would be below the rule's smallest share.
        references: Losses to get back to, by component, in nats per token.
        history: All updates, in order.
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
        """The shares of the first samples, by component."""
        shares = _normalised(self.start)
        return shares if self.rule.blended else with_floor(shares, self.rule.least / len(shares))

    @property
    def shares(self) -> dict[str, float]:
        """The current shares, by component."""
        return dict(self.history[-1].shares if self.history else self.first_shares)

    def updated(self, losses: Numbers, *, sample: int, tokens: int) -> Self:
        """The mixture after a measurement, with new shares from `sample` on.

        If a loss is not finite, the shares stay the same.
        Raises ValueError if a loss is missing, or if `sample` lies before the last update.
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
        """The history as JSON, for a checkpoint."""
        return [asdict(change) for change in self.history]

    def resumed(self, history: Iterable[Mapping[str, Any]]) -> Self:
        """The mixture with a history that `as_json` gave."""
        return replace(self, history=tuple(MixtureChange(**change) for change in history))

    def _with(self, change: MixtureChange) -> Self:
        return replace(self, history=(*self.history, change))


def with_floor(shares: Numbers, floor: float) -> dict[str, float]:
    """The distribution closest to `shares` in which each share is at least `floor`.

    Closest by Kullback-Leibler divergence: shares above the floor keep their proportions. `shares`
    must sum to 1, and `floor` must be at most an even share.
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
    # `fsum` is exact, so the order of the components does not matter.
    total = math.fsum(shares.values())
    return {name: share / total for name, share in shares.items()}
