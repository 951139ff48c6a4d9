"""Prune a language model in stages, and regrow what each cut costs.

`inspect`, `plan` and `preview` show what can be cut and what a recipe will do. `prune` makes one
cut, `train` trains once, and `run` does all stages of a recipe. `score` saves scores for cuts.
`train_entities` and `evaluate_entities` are for named entities. `verify` checks a result. `durable`
says whether results wait for the disk.
See `help(regrow.prune)` and so on.
"""

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
from regrow.api_ner import evaluate_entities, train_entities
from regrow.common.errors import UserError
from regrow.common.publishing import durable

__all__ = [
    "UserError",
    "count_vocabulary",
    "durable",
    "evaluate_entities",
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
    "train_entities",
    "verify",
    "write_corpus",
    "write_report",
]
