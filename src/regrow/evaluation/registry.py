"""All evaluations of a run by name. An evaluation is one entry of `EVALUATIONS`.

To add an evaluation, write it in a module of this folder and add an entry here. A run then
evaluates its models, and the ledger keeps the results under the name of the evaluation.

Importing this module does not import PyTorch.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from regrow.evaluation.heldout_text import HeldoutText, loss_on


@dataclass(frozen=True)
class EvaluationData:
    """What a recipe gives its evaluations.

    Attributes:
        texts: Held-out texts by name.
        prompts: The prompts to answer.
        answer_tokens: Upper bound on the tokens of an answer.
    """

    texts: Mapping[str, HeldoutText]
    prompts: tuple[str, ...]
    answer_tokens: int


def _heldout(model: Any, tokenizer: Any, data: EvaluationData) -> dict[str, dict[str, Any]]:
    """The loss over each held-out text, by name (`regrow.evaluation.heldout.HeldoutLoss`)."""
    return {name: asdict(loss_on(model, tokenizer, text)) for name, text in data.texts.items()}


def _answers(model: Any, tokenizer: Any, data: EvaluationData) -> list[str]:
    """A greedy answer to each prompt. One that stops at `answer_tokens` ends in an ellipsis."""
    from regrow.common.progress import told
    from regrow.evaluation.generation import generate_or_stop

    found = []
    for prompt in told(data.prompts, "answering, prompt"):
        text, stopped = generate_or_stop(model, tokenizer, prompt, data.answer_tokens)
        found.append(f"{text.rstrip()} …" if stopped else text)
    return found


Models = Literal["all", "answering"]
"""The models of a run that are evaluated: all of them, or those that answer the prompts, which are
the original and the model of each stage."""


@dataclass(frozen=True)
class Evaluation:
    """How models are evaluated.

    Attributes:
        function: (model, tokenizer, data) -> result as JSON.
        models: The models of a run that are evaluated.
        doing: What it does, as text: `answering the prompts`.
    """

    function: Callable[[Any, Any, EvaluationData], Any]
    models: Models
    doing: str


EVALUATIONS: Mapping[str, Evaluation] = {
    "heldout": Evaluation(_heldout, "all", "measuring the losses"),
    "answers": Evaluation(_answers, "answering", "answering the prompts"),
}
"""All evaluations by name, in the order in which they are done."""


def names_for(models: Models) -> tuple[str, ...]:
    """The names of the evaluations of these models, in order."""
    return tuple(name for name, each in EVALUATIONS.items() if each.models == models)


def evaluate(name: str, model: Any, tokenizer: Any, data: EvaluationData) -> Any:
    """The result of one evaluation, as JSON.

    Raises UserError if the model or its tokenizer cannot be evaluated so.
    """
    return EVALUATIONS[name].function(model, tokenizer, data)
