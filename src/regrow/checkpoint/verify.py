"""Check that a model directory works with transformers alone, without regrow."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regrow.checkpoint.reader import CONFIG_FILE, no_config_error
from regrow.checkpoint.resolve import directory_of
from regrow.common.errors import UserError
from regrow.common.progress import as_part
from regrow.models.networks import foreign_code

_SCRIPT = Path(__file__).with_name("verify_script.py")


@dataclass(frozen=True)
class Check:
    """One check; `detail` says what is wrong, or what was checked."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class VerifyResult:
    """The checks of one directory, in the order in which they ran."""

    directory: Path
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)


def verify(directory: Path, *, trust_remote_code: bool = False) -> VerifyResult:
    """Check one directory, or the model of the directory of a run.

    Raises UserError as `verify_all`, and if the directory holds no config.
    """
    model = directory_of(directory)
    if model.is_dir() and not (model / CONFIG_FILE).exists():
        raise no_config_error(model)
    return verify_all([model], trust_remote_code=trust_remote_code)[0]


def verify_all(
    directories: Sequence[Path], *, trust_remote_code: bool = False
) -> list[VerifyResult]:
    """Load each directory and check it, from config to greedy generation.

    All directories are checked in one new process. It is offline, isolated from the caller's path
    and environment, and does not import regrow.
    `trust_remote_code`: run any modelling file in a directory. If False, run only one that equals
    regrow's own byte for byte.

    Raises:
        UserError: a directory does not exist, or the process ended early (out of memory, say).
    """
    for directory in directories:
        if not Path(directory).is_dir():
            raise UserError(f"{directory}: no such directory")
    requests = [
        [
            str(Path(directory).resolve()),
            None if trust_remote_code else _why_untrusted(Path(directory)),
        ]
        for directory in directories
    ]
    command = [sys.executable, "-I", str(_SCRIPT), json.dumps(requests)]
    # The warnings of transformers are checked, so they must not be silenced.
    environment = {k: v for k, v in os.environ.items() if k != "TRANSFORMERS_VERBOSITY"}
    with tempfile.TemporaryDirectory() as modules, as_part("checking in a new process"):
        environment["HF_MODULES_CACHE"] = modules  # transformers copies code that it runs there
        process = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=environment,
            check=False, process_group=0,
        )  # fmt: skip
    try:
        if process.returncode != 0:
            raise ValueError
        results = json.loads(process.stdout)
    except ValueError:  # code of a model can end the process with any code
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"{', '.join(map(str, directories))}: the verifying process ended with code "
            f"{process.returncode}: {last}"
        ) from None
    return [
        VerifyResult(Path(directory), tuple(Check(*check) for check in result["checks"]))
        for directory, result in zip(directories, results, strict=True)
    ]


def _why_untrusted(directory: Path) -> str | None:
    """Why the code of this directory must not run; None if it may."""
    try:
        reason = foreign_code(directory)
    except (OSError, ValueError, AttributeError) as error:  # unreadable, or no JSON object
        reason = f"its configs cannot be read ({error})"
    return reason and f"{reason}; read it, then ask for trust_remote_code"
