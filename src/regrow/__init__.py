"""Prune a language model in stages, and regrow what each cut costs.

    import regrow

    print(regrow.inspect("HuggingFaceTB/SmolLM2-135M").parameters)
    result = regrow.prune("HuggingFaceTB/SmolLM2-135M", "smaller", drop_layers="12-15,20")
    print(result.cut.words(), result.parameters)

Look and plan: `inspect`, `analyse` (what each part is worth), `plan` (propose stages under a
budget), `preview` (what a recipe will do).
Cut: `prune`, `score` (save scores for cuts), `count_vocabulary`, `plan_vocabulary`,
`grow_vocabulary`. Text: `build_corpus` (clean, unique text from raw text), `tokenise`,
`write_corpus`. Instructions for fine-tuning: `build_instructions`, `lint_templates`. Train: `run`
(all stages of a recipe), `train`, `training_recipe`. Results: `verify`, `generate`, `evaluate` and
`compare` (models on tasks), `write_report`. Named entities: `train_entities`, `evaluate_entities`.
`help(regrow.prune)` and so on explains each.

Common to all functions:

- `model` is a directory, a GGUF file, or a hub id (`owner/name`, or `owner/name@revision`). A GGUF
  file is converted once, into a cache.
- Numbers may be text, as on the command line: `"16K"`, `"3.4B"`; bytes: `"500MB"`; shares:
  `"50%"`. Where several files can be given, one alone is a path, and several are a list.
- `progress` receives messages and progress, such as `regrow.Progress(say=print)`. By default
  nothing is reported.
- What is written waits until it is on the disk, so that a power loss damages nothing. Inside
  `with regrow.durable(False):` it does not wait.
- A mistake of the user raises `regrow.UserError`, whose text is one line. An argument that does
  not exist raises TypeError.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regrow.api import (
        analyse,
        build_corpus,
        build_instructions,
        compare,
        count_vocabulary,
        evaluate,
        evaluate_entities,
        generate,
        grow_vocabulary,
        inspect,
        lint_templates,
        plan,
        plan_vocabulary,
        preview,
        prune,
        run,
        score,
        tokenise,
        train,
        train_entities,
        training_recipe,
        verify,
        write_corpus,
        write_report,
    )
    from regrow.common.errors import UserError
    from regrow.common.progress import Progress
    from regrow.common.publishing import durable

__version__ = "0.1.0"

__all__ = [
    "Progress",
    "UserError",
    "__version__",
    "analyse",
    "build_corpus",
    "build_instructions",
    "compare",
    "count_vocabulary",
    "durable",
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


_PLACES = (
    "regrow.api", "regrow.common.errors", "regrow.common.progress", "regrow.common.publishing"
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a name where it is first used, so that `regrow.__main__` runs before all imports."""
    if name in __all__:
        for place in _PLACES:
            if hasattr(module := import_module(place), name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
