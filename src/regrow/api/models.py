"""Look at a model, check it, and let it write."""

from __future__ import annotations  # so that help() shows them as they are written

from pathlib import Path
from typing import TYPE_CHECKING

from regrow.api.arguments import number, open_model
from regrow.common.progress import QUIET, Progress

if TYPE_CHECKING:
    from regrow.checkpoint.verify import VerifyResult
    from regrow.surgery.inspection import Inspection


def inspect(model: Path | str, *, progress: Progress = QUIET) -> Inspection:
    """The axes and parameters of a model, and which sizes a cut can leave.

    Only the config and the headers of the weight files are read. A directory with a config alone is
    enough.

    Args:
        model: a directory, a GGUF file, or a hub id.
        progress: receives messages.

    Raises:
        UserError: the model cannot be found or read, or regrow does not know its architecture.
    """
    from regrow.surgery.inspection import inspect_model

    return inspect_model(open_model(model, progress))


def verify(directory: Path | str, *, trust_remote_code: bool = False) -> VerifyResult:
    """Load a model directory in a new process, without regrow, and check it.

    The checks go from the config to greedy generation. The process is offline.

    Args:
        directory: the model directory.
        trust_remote_code: run modelling code of the directory even if it is not regrow's own.

    Returns:
        The checks; `ok` is true if all passed.

    Raises:
        UserError: there is no such directory, it holds no config, or the process died, for example
            from lack of memory.
    """
    from regrow.checkpoint.verify import verify as verify_directory

    return verify_directory(Path(directory), trust_remote_code=trust_remote_code)


def generate(
    model: Path | str,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    raw: bool = False,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Progress = QUIET,
) -> str:
    """A model's continuation of a prompt, or its answer if it has a chat template.

    Args:
        model: a directory, a GGUF file, or a hub id.
        prompt: the prompt; it is not part of the result.
        max_new_tokens: the largest number of tokens to generate.
        raw: continue the prompt as it is, also if there is a chat template.
        temperature: the logits are divided by it, and tokens are drawn; 0 takes the likeliest.
        seed: decides the random numbers.
        progress: receives messages.

    Raises:
        UserError: the prompt is empty, or the model or its tokenizer cannot be loaded.
    """
    from regrow.evaluation.generation import Sampling, generate_text

    most = number("max_new_tokens", max_new_tokens, least=1)
    return generate_text(
        open_model(model, progress), prompt, most, chat=False if raw else None,
        sampling=Sampling(temperature, number("seed", seed)),
    )  # fmt: skip
