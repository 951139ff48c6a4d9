"""Prune a language model in stages, and regrow what each cut costs."""

from regrow.api import generate, inspect, plan, preview, prune, run, verify, write_report
from regrow.errors import UserError

__all__ = [
    "UserError",
    "generate",
    "inspect",
    "plan",
    "preview",
    "prune",
    "run",
    "verify",
    "write_report",
]
