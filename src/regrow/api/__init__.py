"""The commands of regrow as Python functions. Each returns a typed result.

What is common to all functions stands in the docstring of the package `regrow`.
"""

from regrow.api.analysis import analyse
from regrow.api.cuts import plan, prune, score
from regrow.api.entities import evaluate_entities, train_entities
from regrow.api.evaluation import compare, evaluate
from regrow.api.instructions import build_instructions, lint_templates
from regrow.api.models import generate, inspect, verify
from regrow.api.runs import preview, run, train, training_recipe, write_report
from regrow.api.text import build_corpus, tokenise, write_corpus
from regrow.api.vocabulary import count_vocabulary, grow_vocabulary, plan_vocabulary

__all__ = [
    "analyse",
    "build_corpus",
    "build_instructions",
    "compare",
    "count_vocabulary",
    "evaluate",
    "evaluate_entities",
    "generate",
    "grow_vocabulary",
    "inspect",
    "lint_templates",
    "plan",
    "plan_vocabulary",
    "preview",
    "prune",
    "run",
    "score",
    "tokenise",
    "train",
    "train_entities",
    "training_recipe",
    "verify",
    "write_corpus",
    "write_report",
]
