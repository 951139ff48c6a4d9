"""How processes find each other, and what the first says to all others."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import sleep
from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]

from regrow.common.errors import ReportedError, UserError
from regrow.training.distributed import processes as module
from regrow.training.distributed.processes import Processes, StoreChannel, agree_on_group_name


def met(store: HashStore, count: int) -> set[str]:
    with ThreadPoolExecutor(count) as pool:
        return set(
            pool.map(lambda rank: agree_on_group_name(store, rank, count), reversed(range(count)))
        )


def test_those_who_meet_agree_on_a_name_that_nobody_had() -> None:
    """In a store that keeps what was said before, whoever was there, and whoever comes first."""
    store = HashStore()
    names = [met(store, count) for count in (3, 3, 2, 4)]
    assert all(len(agreed) == 1 for agreed in names)
    assert len(set.union(*names)) == 4


def test_one_process_asks_nobody() -> None:
    alone = Processes()
    assert alone.first
    assert alone.total([1.5, 2]) == [1.5, 2]
    assert alone.in_first(lambda: "done") == "done"
    assert alone.in_all(lambda: "done") == "done"
    assert alone.lead(lambda: "done") == "done"


def together(work: Callable[[Processes], Any], store: Any = None, count: int = 3) -> list[Any]:
    """What came of it in each process, or its error; the first is the last to begin."""
    store = store or HashStore()

    def of_one(rank: int) -> Any:
        sleep(0.05 * (rank == 0))
        try:
            return work(Processes(rank, count, channel=StoreChannel(store, rank, count)))
        except UserError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(of_one, range(count)))


def wrong() -> None:
    raise UserError("wrong")


def assert_said_once(found: list[Any], text: str) -> None:
    assert [str(error) for error in found] == [text] * len(found)
    assert [type(error) for error in found] == [UserError] + [ReportedError] * (len(found) - 1)


def test_what_the_first_does_is_known_to_all() -> None:
    store = HashStore()

    def work(processes: Processes) -> Any:
        return [processes.in_first(partial(divmod, number, 3)) for number in range(20)]

    assert together(work, store) == [[divmod(number, 3) for number in range(20)]] * 3
    assert store.num_keys() == 0


def test_an_error_of_the_first_is_said_once() -> None:
    assert_said_once(together(lambda processes: processes.in_first(wrong)), "wrong")
    assert_said_once(together(lambda processes: processes.lead(wrong)), "wrong")


def test_an_error_of_any_ends_all() -> None:
    store = HashStore()

    def work(processes: Processes, who: int) -> Any:
        return processes.in_all(wrong if processes.rank == who else lambda: processes.rank)

    assert together(partial(work, who=7), store) == [0, 1, 2]
    assert store.num_keys() == 0
    assert_said_once(together(partial(work, who=2)), "process 2: wrong")
    assert_said_once(together(partial(work, who=0)), "wrong")


_called: list[int] = []


def test_the_others_do_what_the_first_calls_them_to() -> None:
    def work(processes: Processes) -> str:
        def led() -> str:
            assert processes.first
            for number in range(2):
                processes.call(partial(be_called, number))
            sleep(0.05)
            return "done"

        return processes.lead(led)

    assert together(work, count=2) == ["done", "done"]
    assert _called == [0, 1]


def be_called(number: int) -> None:
    _called.append(number)


def test_an_error_in_the_midst_of_what_is_shared_ends_all() -> None:
    """Where others wait for something else that the first was to say."""

    def work(processes: Processes) -> None:
        if processes.first:
            processes.lead(wrong)
        processes.in_all(lambda: None)

    assert_said_once(together(work), "wrong")


@pytest.mark.parametrize(("has_gpu", "expected"), [(True, "cuda"), (False, "cpu")])
def test_one_process_trains_on_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert Processes().training_device.type == expected
    assert Processes(0, 2, device=torch.device("cpu")).training_device.type == "cpu"


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert module._own_gpu() == 1
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 3 of this machine has no GPU, since it has 2;"):
        module._own_gpu()


@pytest.mark.parametrize(("has_gpus", "backend"), [(True, "cpu:gloo,cuda:nccl"), (False, "gloo")])
def test_tensors_on_the_cpu_are_summed_too(
    monkeypatch: pytest.MonkeyPatch, has_gpus: bool, backend: str
) -> None:
    """A training that keeps its parts on the CPU sums their gradients there."""

    class BegunError(Exception):
        pass

    def begin(given: str, **_: Any) -> None:
        assert given == backend
        raise BegunError

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpus)
    monkeypatch.setattr(module, "rendezvous", lambda *_, **__: iter([(HashStore(), 0, 2)]))
    monkeypatch.setattr(module, "agree_on_group_name", lambda *_: "name")
    monkeypatch.setattr(torch.distributed, "init_process_group", begin)
    with pytest.raises(BegunError):
        module.join_processes()
