"""Room on a disk, asked for before anything is written."""

import shutil
from pathlib import Path

from regrow.common.errors import UserError

_SPARE_BYTES = 64 << 20
"""Free space that is asked for beyond what is written."""


def check_free_space(out: Path, nbytes: int) -> None:
    """Raise UserError unless the disk of `out` has room for `nbytes`."""
    free = shutil.disk_usage(out.parent).free
    if free < nbytes + _SPARE_BYTES:
        raise UserError(
            f"{out}: {nbytes + _SPARE_BYTES:,} bytes are needed there, {free:,} are free"
        )
