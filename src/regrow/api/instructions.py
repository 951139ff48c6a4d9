"""Instructions for fine-tuning: build them from many files, and check templates."""

from __future__ import annotations  # so that help() shows them as they are written

from pathlib import Path
from typing import TYPE_CHECKING

from regrow.api.arguments import open_model
from regrow.common.progress import QUIET, Progress

if TYPE_CHECKING:
    from regrow.instructions.build import Built
    from regrow.instructions.lint import Linted


def build_instructions(config: Path | str, out: Path | str, *, progress: Progress = QUIET) -> Built:
    """Build instructions from many files, and write them to a new directory.

    The directory has the conversations as JSON lines with `messages`, and the same for
    encoder-decoders, a data card (README.md), and what was read and dropped (report.json). It is
    written completely or not at all. The same configuration and files give the same bytes.

    Args:
        config: a YAML file (docs/instructions.md).
        out: a new or empty directory.
        progress: receives messages.

    Raises:
        UserError: the configuration, a source or a template is not valid, or nothing is left.
    """
    from regrow.common.outputs import check_new_directory
    from regrow.instructions.build import build
    from regrow.instructions.config import load_instructions

    spec = load_instructions(Path(config))
    check_new_directory(Path(out), spec.model)
    model = None if spec.model is None else open_model(spec.model, progress)
    return build(spec, model, Path(out), progress)


def lint_templates(path: Path | str) -> Linted:
    """Check a file of templates for instructions.

    Args:
        path: a YAML file (docs/instructions.md).

    Raises:
        UserError: it has not the form of templates.
    """
    from regrow.instructions.lint import lint_file

    return lint_file(Path(path))
