"""Freed memory stays with the process while a model trains."""

import resource
import subprocess
import sys

import pytest

_SCRIPT = """
import resource, sys
from contextlib import nullcontext
from regrow.training.efficiency.allocator import keep_freed_memory

with keep_freed_memory() if sys.argv[1] == "kept" else nullcontext():
    for number in range(9):
        if number == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"x" * (1 << 26)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(after - before, int(open("/proc/self/statm").read().split()[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is one of glibc, which Linux has")
def test_it_is_not_fetched_again_and_goes_back_at_the_end() -> None:
    def run(how: str) -> tuple[int, int]:
        command = [sys.executable, "-c", _SCRIPT, how]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        faults, pages = map(int, done.stdout.split())
        return faults, pages

    pages = (1 << 26) // resource.getpagesize()
    faults, held = run("kept")
    plain_faults, plain_held = run("plain")
    if plain_faults < pages:
        pytest.skip("this allocator keeps freed memory by itself, so there is nothing to compare")
    assert faults < pages / 10
    assert held < plain_held + pages / 2
