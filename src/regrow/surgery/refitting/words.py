"""What a refit did, in words."""

from collections.abc import Sequence


def refit_words(errors: Sequence[tuple[float, float]], trained: int) -> str:
    """What a refit did, in one line; empty if it did nothing.

    `errors`: the squared error of the residual stream behind each matrix or layer, with the carved
    and with the refitted weights. `trained`: layers that were trained alone.
    """
    if not errors:
        return ""
    before, after = (sum(pair[which] for pair in errors) for which in (0, 1))
    lower = 1 - after / before if before else 0.0
    what = "layers" if trained == len(errors) else "matrices"
    also = f", {trained} layers trained alone" if trained and what == "matrices" else ""
    return f"{len(errors)} {what}{also}; squared error of the residual stream {lower:.0%} lower"
