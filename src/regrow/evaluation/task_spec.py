"""What an evaluation on tasks is asked for, as options and recipes give it."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from regrow.common.fields import Size, Strict, refuse_bool
from regrow.common.precision import Precision
from regrow.evaluation.tasks.forms import Mode, PromptForm

Shots = Annotated[int, BeforeValidator(refuse_bool), Field(ge=0)]
"""A number of demonstrations."""


class TaskSpec(Strict):
    """Tasks, and how models are asked.

    Attributes:
        tasks: Names of tasks, groups and tags of lm-eval, patterns such as `mmlu_*`, and YAML files
            of tasks.
        data: The directory with the files of `regrow.evaluation.tasks.local_data`; None loads the
            data sets as lm-eval does.
        mode: `letter` or `likelihood`; None takes each task's own form.
        shots: Demonstrations before each question: a number, or a number by the name of a task,
            group or tag. None, and tasks that are not named, take the task's own number.
        limit: The first so many questions of each task; None takes all.
        precision: Of matrix products: `auto`, `bf16` or `fp32`.
        prompt: The form of an encoder-decoder's prompts: `auto`, `plain` or `openba`.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    data: Path | None = None
    mode: Mode | None = None
    shots: Shots | dict[str, Shots] | None = None
    limit: Size | None = None
    precision: Precision = "auto"
    prompt: PromptForm = "auto"
