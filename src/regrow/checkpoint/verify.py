"""Does a directory work for someone who has transformers, and has never heard of regrow?"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regrow.common.errors import UserError
from regrow.models.networks import foreign_code

_SCRIPT = Path(__file__).with_name("verify_script.py")


@dataclass(frozen=True)
class Check:
    """One check; `detail` says what is wrong, or what was looked at."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class VerifyResult:
    """The checks of one directory, in the order in which they were made."""

    directory: Path
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)


def verify(directory: Path, *, trust_remote_code: bool = False) -> VerifyResult:
    """`verify_all` for one directory."""
    return verify_all([directory], trust_remote_code=trust_remote_code)[0]


def verify_all(
    directories: Sequence[Path], *, trust_remote_code: bool = False
) -> list[VerifyResult]:
    """Load each directory in one fresh process and check it, from config to greedy generation.

    The process is offline, isolated from the caller's path and environment, and without regrow.
    `trust_remote_code`: run the modelling file of a directory whatever it holds; without it only
    one that is regrow's own, byte for byte.

    Raises:
        UserError: a directory does not exist, or the process died (killed for memory, say).
    """
    for directory in directories:
        if not Path(directory).is_dir():
            raise UserError(f"{directory}: no such directory")
    asked = [
        [str(Path(directory).resolve()), None if trust_remote_code else _distrust(Path(directory))]
        for directory in directories
    ]
    command = [sys.executable, "-I", str(_SCRIPT), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"{', '.join(map(str, directories))}: the verifying process ended with code "
            f"{done.returncode}: {last}"
        )
    return [
        VerifyResult(Path(directory), tuple(Check(*check) for check in result["checks"]))
        for directory, result in zip(directories, json.loads(done.stdout), strict=True)
    ]


def _distrust(directory: Path) -> str | None:
    """Why code of this directory may not run, or None."""
    try:
        found = foreign_code(directory)
    except (OSError, ValueError, AttributeError) as error:  # unreadable, or no JSON object
        found = f"its configs cannot be read ({error})"
    return found and f"{found}; read it, then ask for trust_remote_code"
