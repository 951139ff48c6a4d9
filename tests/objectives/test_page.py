"""docs/objectives.md says what the code says."""

import math
import re
from pathlib import Path

from regrow.objectives.registry import OBJECTIVES
from regrow.objectives.rows.denoisers import SPAN_CORRUPTION, UL2, Denoiser
from regrow.objectives.rows.optimized_ul2 import fixed_lengths
from regrow.objectives.special_tokens import INFILLING_TOKENS, SENTINELS

PAGE = (Path(__file__).parents[2] / "docs/objectives.md").read_text(encoding="utf-8")


def rows(first: str) -> list[list[str]]:
    """The table whose first title this is, without its titles."""
    lines = PAGE[PAGE.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_objectives() -> None:
    found = {name.strip("`"): kinds for name, kinds, _ in rows("objective")}
    assert list(found) == list(OBJECTIVES)
    for name, kinds in found.items():
        objective = OBJECTIVES[name]
        is_both = "both" in kinds
        assert ("decoders" in kinds or is_both) is (objective.for_decoder is not None)
        assert is_both is (objective.for_encoder_decoder is not None)


def test_the_denoisers() -> None:
    written = {
        name.strip("`"): Denoiser(
            float(span) if span.isdigit() else math.inf, int(rate[:-1]) / 100, prefix.strip("`")
        )
        for name, span, rate, prefix in rows("denoiser")
    }
    assert written == UL2


def test_the_longest_rows() -> None:
    def longest(*denoisers: Denoiser) -> int:
        fitting = [n for n in range(1, 3_000) if all(d.counts(n)[1] <= 100 for d in denoisers)]
        assert fitting == list(range(1, len(fitting) + 1))
        return len(fitting)

    words = f"{longest(*UL2.values())} tokens for `ul2` and {longest(SPAN_CORRUPTION):,} for"
    assert words in " ".join(PAGE.split())


def test_the_lengths() -> None:
    for written in rows("sentinels"):
        numbers = [int(re.sub(r"\D", "", cell)) for cell in written]
        fixed = fixed_lengths(numbers[0], numbers[1])
        assert numbers[2:] == [
            fixed.mixed_text, fixed.spans, fixed.split_text, fixed.source(prefixed=True),
            fixed.target,
        ]  # fmt: skip


def test_the_tokens_that_are_added() -> None:
    for name in (SENTINELS[0], SENTINELS[-1], *INFILLING_TOKENS[0]):
        assert f"`{name}`" in PAGE
