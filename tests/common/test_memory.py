"""Available memory: by the kernel, and by the limit of a container or a job."""

import os
from pathlib import Path

import pytest

from regrow.common.memory import available_memory

GIB = 1024**3


def put(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def group(place: str, limit: str | int, used: int, inactive: int) -> dict[str, str]:
    base = f"sys/fs/cgroup/{place}".rstrip("/")
    return {
        f"{base}/memory.max": f"{limit}\n",
        f"{base}/memory.current": f"{used}\n",
        f"{base}/memory.stat": f"anon 5\ninactive_file {inactive}\nactive_file 9\n",
    }


SYSTEM = {"proc/meminfo": f"MemTotal: {64 << 20} kB\nMemAvailable:   {20 << 20} kB\nHugePages: 0\n"}


def test_by_the_kernel(tmp_path: Path) -> None:
    assert available_memory(put(tmp_path, SYSTEM)) == 20 * GIB


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (group("a/b", 8 * GIB, 3 * GIB, GIB), 6 * GIB),
        (group("a/b", "max", 3 * GIB, GIB), 20 * GIB),
        (group("a/b", 90 * GIB, 3 * GIB, GIB), 20 * GIB),
        (group("a/b", "max", 3 * GIB, 0) | group("a", 4 * GIB, 3 * GIB, 0), GIB),
        (group("", 8 * GIB, 3 * GIB, 0), 5 * GIB),  # a container: the path is that of the host
        (group("a/b", 8 * GIB, 9 * GIB, 0), 0),
        (group("c", 8 * GIB, 3 * GIB, 0), 20 * GIB),
        ({}, 20 * GIB),
    ],
)
def test_by_the_control_group(groups: dict[str, str], expected: int, tmp_path: Path) -> None:
    root = put(tmp_path, SYSTEM | groups | {"proc/self/cgroup": "0::/a/b\n"})
    assert available_memory(root) == expected


def test_by_a_control_group_of_version_1(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory/job"
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/job\n1:name=systemd:/x:y\n",
        f"{base}/memory.limit_in_bytes": f"{8 * GIB}",
        f"{base}/memory.usage_in_bytes": f"{3 * GIB}",
        f"{base}/memory.stat": f"inactive_file {GIB}\n",
    }
    assert available_memory(put(tmp_path, SYSTEM | files)) == 6 * GIB


def test_without_the_files_of_linux(tmp_path: Path) -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert available_memory(tmp_path) == physical


def test_of_this_machine() -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_memory() <= physical
