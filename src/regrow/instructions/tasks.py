"""The types of tasks, and the fields that a sample of each can have.

The first 18 are those of the OpenBA-V2 report. `answer` is what a model is to say, unless a
template turns the task around: a question is generated from a passage and an answer.
"""

from collections.abc import Mapping

from regrow.common.errors import UserError

TASKS: Mapping[str, tuple[str, ...]] = {
    "question answering": ("question", "answer", "options", "rationale"),
    "text classification": ("text", "answer", "options", "kind"),
    "sentiment analysis": ("text", "answer", "options", "kind"),
    "named entity recognition": ("text", "answer", "types", "tagged"),
    "text matching": ("sentence1", "sentence2", "premise", "hypothesis", "answer", "options"),
    "summarisation": ("text", "answer", "title"),
    "reading comprehension": ("context", "question", "answer", "options", "rationale"),
    "question generation": ("context", "question", "answer"),
    "dialogue": ("message", "history", "answer"),
    "translation": ("text", "translation", "text_language", "translation_language"),
    "cloze": ("text", "answer", "options"),
    "text generation": ("topic", "keywords", "beginning", "first_line", "kind", "answer"),
    "semantic analysis": (
        "text", "pronoun", "mention", "keywords", "word", "answer", "options",
    ),
    "relation extraction": ("text", "head", "tail", "answer", "options"),
    "grammatical error correction": ("text", "answer"),
    "fact checking": ("claim", "evidence", "answer", "options"),
    "interpretable evaluation": ("context", "question", "answer", "options", "rationale"),
    "event extraction": ("text", "answer", "types", "trigger"),
    "mathematics": ("question", "answer", "options", "rationale"),
    "instruction following": ("instruction", "input", "answer"),
}  # fmt: skip
"""The fields by task."""

LISTS = frozenset({"options", "types", "keywords"})
"""Fields that hold several texts."""
SUBJECTS = (
    "context", "question", "claim", "premise", "sentence1", "text", "message", "topic",
    "first_line", "beginning", "instruction", "keywords",
)  # fmt: skip
"""Fields that say what a sample is about; the first that it has."""
CLOSED = frozenset(
    {"text classification", "sentiment analysis", "relation extraction", "fact checking"}
)
"""Tasks whose answers are a few labels, which are the options if a sample has none."""


def check_task(name: str) -> str:
    """The name. Raises UserError if there is no such task."""
    import difflib

    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(TASKS)}"
        raise UserError(f"{name!r} is no task; {hint}")
    return name
