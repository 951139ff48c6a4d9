"""Threads in place of the processes of a pool, which take seconds to begin."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from regrow.corpus import parallel
from regrow.corpus.parallel import Workers


def use_threads(patch: pytest.MonkeyPatch, ahead: int = 2) -> None:
    """Work in a thread of this process, also if more processes are asked for."""

    @contextmanager
    def pool(_: int, start: Callable[..., None], *arguments: Any) -> Iterator[Workers]:
        start(*arguments)
        with ThreadPoolExecutor(1) as executor:
            yield Workers(executor, ahead)

    patch.setattr(parallel, "pool", pool)
