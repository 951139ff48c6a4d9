"""What a refit did, in words."""

from collections.abc import Sequence


def refit_words(errors: Sequence[tuple[float, float]]) -> str:
    """What a refit did, in one line; empty if it did nothing.

    `errors`: the squared error of the residual stream behind each matrix or layer, with the carved
    and with the refitted weights.
    """
    if not errors:
        return ""
    before, after = (sum(pair[which] for pair in errors) for which in (0, 1))
    lower = 1 - after / before if before else 0.0
    return f"squared error of the residual stream {lower:.0%} lower in {len(errors)} places"
