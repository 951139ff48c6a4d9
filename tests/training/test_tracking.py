"""Tools that draw numbers."""

import importlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regrow.common.errors import UserError
from regrow.training import tracking as module
from regrow.training.tracking import check_tools, tracking


def drawn(directory: Path, name: str = "train/loss") -> list[tuple[int, float]]:
    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_holds_every_number(tmp_path: Path) -> None:
    with tracking(None, tmp_path, 0, {}) as write:
        for step in (1, 2):
            write(step, {"train/loss": 5.0 - step})
    assert drawn(tmp_path) == [(1, 4.0), (2, 3.0)]


def test_steps_that_are_done_again_are_not_doubled_nor_others_lost(tmp_path: Path) -> None:
    """As after a kill: the first is never closed."""
    killed = tracking(None, tmp_path, 0, {})
    write = killed.__enter__()
    for step in range(1, 6):
        write(step, {"train/loss": float(step)})
    with tracking(None, tmp_path, 3, {}) as again:
        for step in range(4, 8):
            again(step, {"train/loss": 10.0 * step})
    assert drawn(tmp_path) == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60), (7, 70)]
    with tracking(None, tmp_path, 0, {}) as anew:
        anew(1, {"train/loss": -1.0})
    assert drawn(tmp_path) == [(1, -1)]
    killed.__exit__(None, None, None)


@contextmanager
def _pretended(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[Any]]:
    """A package of this name, and what is called in it."""
    calls: list[Any] = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)),
        finish=lambda: calls.append("finish"),
    )

    def init(**options: Any) -> Any:
        print("noise")
        calls.append(options)
        return run

    package = ModuleType(name)
    vars(package).update(init=init)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: package)
    monkeypatch.setattr(importlib, "import_module", lambda _: package)
    yield calls


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_tools_get_the_same_numbers_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: Any
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with _pretended(monkeypatch, name) as calls:
        for done in (0, 3, 0):
            with tracking((name,), tmp_path, done, {"tokens": 5}) as write:
                write(done + 1, {"train/loss": 2.0})
    begun, again, anew = calls[::3]
    assert (begun["resume"], begun["config"]) == ("allow", {"tokens": 5})
    assert begun["project"] == ("mine" if name == "wandb" else "regrow")
    assert calls[1:3] == [(1, {"train/loss": 2.0}), "finish"]
    # A training that begins anew is a run of its own.
    assert begun == again != anew
    assert capsys.readouterr().out == ""


def test_a_tool_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"track: wandb .* pip install 'regrow\[wandb\]'"):
        check_tools(("wandb",))
    with pytest.raises(UserError, match=r"track: tensorboard .* 'regrow\[track\]'"):
        check_tools(("tensorboard",))
    with tracking(None, tmp_path, 0, {}) as write:
        write(1, {"train/loss": 2.0})
    assert list(tmp_path.iterdir()) == []


def test_one_that_fails_ends_only_what_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise TypeError("Descriptors cannot be\ncreated directly")

    monkeypatch.setattr(module, "TensorBoard", broken)
    with (
        pytest.raises(UserError, match="track: tensorboard: Descriptors cannot be created"),
        tracking(("tensorboard",), tmp_path, 0, {}),
    ):
        pass
    with tracking(None, tmp_path, 0, {}) as write:
        write(1, {"train/loss": 2.0})
    assert "goes on without" in caplog.text


def test_a_full_disk_is_said_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with tracking(("tensorboard",), tmp_path, 0, {}) as write:
        write(1, {"train/loss": 4.0})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        (events,) = (tmp_path / "tensorboard").iterdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (events.stat().st_size, limits[1]))
        try:
            for step in (2, 3):
                write(step, {"train/loss": 3.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (said,) = caplog.records
    assert said.getMessage() == "track: tensorboard: [Errno 27] File too large; goes on without"
    assert "Traceback" not in capfd.readouterr().err
    assert drawn(tmp_path) == [(1, 4.0)]


@pytest.mark.parametrize("when", ["log", "finish"])
def test_one_that_fails_later_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no\nnetwork")

    with _pretended(monkeypatch, "wandb") as calls:
        vars(importlib.import_module("wandb").init())[when] = fail
        with tracking(("tensorboard", "wandb"), tmp_path, 0, {}) as write:
            for step in (1, 2):
                write(step, {"train/loss": 2.0})
        (said,) = caplog.records
        assert said.getMessage() == "track: wandb: no network; goes on without"
        assert [each for each in calls if isinstance(each, tuple)] == [
            (step, {"train/loss": 2.0}) for step in (1, 2) if when == "finish"
        ]
    assert drawn(tmp_path) == [(1, 2.0), (2, 2.0)]
