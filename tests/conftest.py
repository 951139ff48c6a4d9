"""For all tests."""

import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any

# At the size of these models a second thread only waits for the first, and how sums are rounded
# should not depend on the machine. Before torch is imported; processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
# A script that starts the tests in the background lets them ignore SIGINT, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import settings
from torch import nn

from regrow.checkpoint import derivation, derived_blueprint
from regrow.evaluation import speed

# Time is never asserted: a machine may be busy with something else. Examples are drawn from a fixed
# seed, so that a test that fails was most likely broken by the last change. New ones are drawn with
# `--hypothesis-profile search`.
settings.register_profile("search", deadline=None)
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.load_profile("fixed")
# A process for each derived blueprint would take most of the time of its test.
derivation.SEEDS = 1
derived_blueprint.run = lambda query, **arguments: query(**arguments)
# So the speed of the many small runs need not be measured well.
speed.NEW_TOKENS, speed.ROUNDS = 2, 1


def _without_meta(initialise: Callable[[Any], None]) -> Callable[[Any], None]:
    """Thousands of networks are built on the meta device, where there are no values to draw."""

    @wraps(initialise)
    def initialised(module: Any) -> None:
        if module.weight is None or not module.weight.is_meta:
            initialise(module)

    return initialised


_KINDS: tuple[Any, ...] = (nn.Linear, nn.Embedding, nn.LayerNorm)
for kind in _KINDS:
    kind.reset_parameters = _without_meta(kind.reset_parameters)
