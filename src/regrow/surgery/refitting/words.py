"""What a refit did, in words."""

from collections.abc import Sequence

from regrow.common.numbers import things


def refit_words(errors: Sequence[tuple[float, float]], trained: int) -> str:
    """What a refit did, in one line; empty if it did nothing.

    `errors`: the squared error of the residual stream behind each matrix or layer, with the carved
    and with the refitted weights. `trained`: layers that were trained alone.
    """
    if not errors:
        return ""
    before, after = (sum(pair[which] for pair in errors) for which in (0, 1))
    lower = 1 - after / before if before else 0.0
    if trained == len(errors):
        done = things(trained, "layer")
    else:
        also = f", {things(trained, 'layer')} trained alone" if trained else ""
        done = f"{things(len(errors), 'matrix', 'matrices')}{also}"
    return f"{done}; squared error of the residual stream {lower:.0%} lower"


def passes_words(passes: int) -> str:
    """', with 4 passes'; empty for none."""
    return f", with {things(passes, 'pass', 'passes')}" if passes else ""
