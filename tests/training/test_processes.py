"""How processes find each other."""

from concurrent.futures import ThreadPoolExecutor

from torch.distributed import HashStore  # type: ignore[attr-defined]

from regrow.training.processes import Processes, meet


def met(store: HashStore, count: int) -> set[str]:
    with ThreadPoolExecutor(count) as pool:
        return set(pool.map(lambda rank: meet(store, rank, count), reversed(range(count))))


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
