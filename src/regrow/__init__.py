"""Prune a language model in stages, and regrow what each cut costs."""

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
    tokenise,
    train,
    verify,
    write_report,
)
from regrow.common.errors import UserError

__all__ = [
    "UserError",
    "count_vocabulary",
    "generate",
    "grow_vocabulary",
    "inspect",
    "plan",
    "plan_vocabulary",
    "preview",
    "prune",
    "run",
    "tokenise",
    "train",
    "verify",
    "write_report",
]
