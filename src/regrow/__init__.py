"""Prune a language model in stages, and regrow what each cut costs.

`inspect`, `analyse`, `plan` and `preview` show what can be cut, what it is worth, and what a recipe
will do. `prune` makes one
cut, `train` trains once, and `run` does all stages of a recipe. `score` saves scores for cuts.
`verify` checks a result. `durable` says whether results wait for the disk.
See `help(regrow.prune)` and so on.
"""

from regrow.api import (
    analyse,
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
    "analyse",
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
