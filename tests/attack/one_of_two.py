"""`regrow` as one of several processes under torchrun; one of them may be killed, once.

The environment says which process, where and at which point: `ATTACK_BELOW`, `ATTACK_RANK`,
`ATTACK_AT`. `ATTACK_NOTES` is a directory for notes: each process writes its points there, and who
is to be killed notes that first, so that the processes that torchrun starts again all live.
"""

import os
from pathlib import Path


def main() -> None:
    import safetensors.torch  # noqa: F401 - before its functions are replaced

    from regrow.cli.app import main as regrow
    from tests.attack.faults import Faults

    notes, rank = Path(os.environ["ATTACK_NOTES"]), os.environ["RANK"]
    mark, at = notes / "killed", 0
    if rank == os.environ["ATTACK_RANK"] and not mark.exists():
        mark.touch()
        at = int(os.environ["ATTACK_AT"])
    faults = Faults(Path(os.environ["ATTACK_BELOW"]), at, "SIGKILL")
    faults.install()
    try:
        regrow()
    finally:
        (notes / f"points-{rank}").write_text("\n".join(faults.points))


if __name__ == "__main__":
    main()
