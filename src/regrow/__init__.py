"""Prune a language model in stages, and regrow what each cut costs.

`inspect`, `plan` and `preview` show what can be cut and what a recipe will do. `prune` makes one
cut, `train` trains once, and `run` does all stages of a recipe. `score` saves scores for cuts.
`verify` checks a result. `durable` says whether results wait for the disk.
See `help(regrow.prune)` and so on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regrow.api import (
        count_vocabulary,
        generate,
        grow_vocabulary,
        inspect,
        plan,
        plan_vocabulary,
        preview,
        prune,
        run,
        score,
        tokenise,
        train,
        verify,
        write_corpus,
        write_report,
    )
    from regrow.common.errors import UserError
    from regrow.common.publishing import durable

__all__ = [
    "UserError",
    "count_vocabulary",
    "durable",
    "generate",
    "grow_vocabulary",
    "inspect",
    "plan",
    "plan_vocabulary",
    "preview",
    "prune",
    "run",
    "score",
    "tokenise",
    "train",
    "verify",
    "write_corpus",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a name where it is first used, so that `regrow.__main__` runs before all imports."""
    if name in __all__:
        for place in ("regrow.api", "regrow.common.errors", "regrow.common.publishing"):
            if hasattr(module := import_module(place), name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
