"""Check free disk space before anything is written."""

import shutil
from pathlib import Path

from regrow.common.errors import UserError
from regrow.common.outputs import existing_parent

_MARGIN_BYTES = 64 << 20
"""Free space that must remain beyond the bytes to write: 64 MiB."""


def check_free_space(out: Path, nbytes: int) -> None:
    """Raise UserError unless the disk of `out` has `nbytes` bytes free, and a margin."""
    free = shutil.disk_usage(existing_parent(out)).free
    if free < nbytes + _MARGIN_BYTES:
        raise UserError(
            f"{out}: {nbytes + _MARGIN_BYTES:,} bytes are needed there, {free:,} are free"
        )
