"""How much memory a process can still allocate, as the operating system reports it."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can allocate without swapping.

    On Linux, the smaller of the kernel's estimate (MemAvailable) and what the control groups
    (version 1 or 2) leave, which hold the limit of a container or a batch job. Elsewhere, the
    physical memory.

    `root`: the directory that holds /proc and /sys.
    """
    return min([_system(root), *_control_groups(root)])


def _system(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values["MemAvailable"].split()[0]) * 1024


def _control_groups(root: Path) -> Iterator[int]:
    """Bytes that each memory limit leaves, for the process's control group and its parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage = "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base = "sys/fs/cgroup/memory"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        # Inside a container the path may be the host's. Then only the root of the groups exists.
        for path_in_base in (group, *group.parents):
            directory = root / base / path_in_base
            try:
                bound = (directory / limit).read_text(encoding="ascii").strip()
                if bound == "max":
                    continue
                used = int((directory / usage).read_text(encoding="ascii"))
                statistics = (directory / "memory.stat").read_text(encoding="ascii")
            except OSError:
                continue
            # The page cache counts as used, but the kernel frees it when memory is short.
            cached = dict(entry.split() for entry in statistics.splitlines()).get("inactive_file")
            yield max(0, int(bound) - used + int(cached or 0))
