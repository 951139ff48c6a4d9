"""`regrow eval` and `regrow compare`: models on tasks of lm-eval."""

from pathlib import Path
from typing import Annotated, Any

import typer

from regrow.cli.commands import Json
from regrow.cli.evaluation_tables import print_comparison, print_evaluated
from regrow.cli.progress_bars import run_progress
from regrow.common.errors import UserError
from regrow.common.quantities import count

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="Directories, GGUF files, or hub ids."),
]
Tasks = Annotated[
    str,
    typer.Option(metavar="A,B", help="Tasks of lm-eval: piqa,arc_easy,mmlu or a .yaml file."),
]
OptionalTasks = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Tasks of lm-eval: piqa,arc_easy,mmlu or a .yaml file. With --speed, none is needed.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Read the questions from here (docs/evaluation.md)."),
]
Mode = Annotated[
    str | None,
    typer.Option(
        metavar="MODE",
        help="letter: options are listed, and a letter is chosen; likelihood: each option's text "
        "is scored. [default: as the task does]",
    ),
]
Shots = Annotated[
    str | None,
    typer.Option(
        metavar="K",
        help="Demonstrations before each question; by task or group: mmlu=5,sciq=0. [default: as "
        "the task does]",
    ),
]
Limit = Annotated[str | None, typer.Option(metavar="N", help="The first N questions of each task.")]
PrecisionOption = Annotated[
    str, typer.Option(metavar="TYPE", help="Matrix products: auto, bf16 or fp32.")
]
Prompt = Annotated[
    str,
    typer.Option(metavar="FORM", help="Prompts of an encoder-decoder: auto, plain or openba."),
]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keep answers here. [default: ~/.cache/regrow/evaluation]"),
]


def evaluate(
    models: Models,
    tasks: Tasks,
    data: Data = None,
    mode: Mode = None,
    shots: Shots = None,
    limit: Limit = None,
    precision: PrecisionOption = "auto",
    prompt: Prompt = "auto",
    cache: Cache = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write results and answers here, as lm-eval does."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate models on tasks of lm-eval; safe to stop and to start again."""
    from regrow import api

    how = _options(data, mode, shots, limit, precision, prompt)
    with run_progress() as progress:
        found = api.evaluate(models, _names(tasks), out=out, cache=cache, progress=progress, **how)
    print_evaluated(found, out, as_json)


def compare(
    models: Models,
    tasks: OptionalTasks = None,
    data: Data = None,
    mode: Mode = None,
    shots: Shots = None,
    limit: Limit = None,
    precision: PrecisionOption = "auto",
    prompt: Prompt = "auto",
    speed: Annotated[
        bool,
        typer.Option(
            "--speed", help="Also measure speed and memory of generation, of all models in turns."
        ),
    ] = False,
    cache: Cache = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with charts here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare models with the first one: on the same questions, in size, and in speed."""
    from regrow import api

    how = _options(data, mode, shots, limit, precision, prompt)
    with run_progress() as progress:
        found = api.compare(
            models,
            None if tasks is None else _names(tasks),
            speed=speed,
            page=page,
            cache=cache,
            progress=progress,
            **how,
        )
    print_comparison(found, page, as_json)


def _names(tasks: str) -> list[str]:
    return [name.strip() for name in tasks.split(",") if name.strip()]


def _shots(text: str | None) -> str | dict[str, str] | None:
    """One number, or numbers by name, from `5` or `mmlu=5,sciq=0`; as text."""
    if text is None or "=" not in text:
        return text
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, number = (each.strip() for each in part.rpartition("="))
        if not name or name in found:
            raise UserError(
                f"--shots {text}: give one number, or NAME=K once for each task or group"
            )
        found[name] = number
    return found


def _options(
    data: Path | None, mode: str | None, shots: str | None, limit: str | None, precision: str,
    prompt: str,
) -> dict[str, Any]:  # fmt: skip
    return {
        "data": data, "mode": mode, "shots": _shots(shots), "precision": precision,
        "prompt": prompt, "limit": None if limit is None else count("--limit", limit),
    }  # fmt: skip
