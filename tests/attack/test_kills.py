"""A sample of `benchmarks/attack_kills.py`: any fault at any point, and the same result."""

from collections.abc import Iterator

import pytest

from tests.attack.faults import FULL, KINDS
from tests.attack.kills import (
    COMMANDS,
    Arena,
    Attack,
    Undisturbed,
    attacks_of_round,
    moments,
    sample,
)
from tests.attack.zygote import Zygote

COUNTS = {"run": 2, "train": 3, "corpus build": 3, "prune": 4, "vocab count": 4, "vocab grow": 3}
"""How many attacks on each command; the other commands: four."""


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with Zygote() as zygote:
        yield Arena(tmp_path_factory.mktemp("arena"), zygote)


@pytest.mark.parametrize("command", COMMANDS)
def test_after_any_fault_it_ends_as_if_undisturbed(arena: Arena, command: str) -> None:
    undisturbed = arena.undisturbed(command)
    attacks = sample(command, len(undisturbed.points), COUNTS.get(command, 4), seed=7)
    wrong = [found for attack in attacks if (found := arena.fault(attack, undisturbed))]
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("command", ["score", "vocab grow"])
def test_after_an_interrupt_at_any_call_it_ends_as_if_undisturbed(
    arena: Arena, command: str
) -> None:
    undisturbed = arena.undisturbed(command)
    attacks = moments(command, arena.calls(command), 5, seed=7)
    wrong = [found for attack in attacks if (found := arena.fault(attack, undisturbed))]
    assert not wrong, "\n\n".join(wrong)


def test_a_disk_that_is_full_during_a_refit_is_one_line(arena: Arena) -> None:
    undisturbed = arena.undisturbed("prune")
    at = 1 + undisturbed.points.index("write .out.regrow-partial/weights/00000.safetensors")
    assert arena.fault(Attack("prune", at, FULL), undisturbed) is None


def test_what_differs_is_seen(arena: Arena) -> None:
    """The attack itself can fail: a result that is not the same, and a stray."""
    true = arena.undisturbed("score")
    attack = Attack("score", 2, FULL)
    assert arena.fault(attack, true) is None
    other = Undisturbed(true.points, {**true.contents, "scores.json": "0"})
    assert "these differ: ['scores.json']" in (arena.fault(attack, other) or "")
    fewer = Undisturbed(true.points, {})
    assert "these differ: ['scores.json']" in (arena.fault(attack, fewer) or "")


def test_four_rounds_make_all_faults_and_a_beginning_is_an_even_sample() -> None:
    rounds = [attacks_of_round("run", 600, number) for number in range(4)]
    assert {(each.at, each.kind) for made in rounds for each in made} == {
        (at, kind) for at in range(1, 601) for kind in KINDS
    }
    first = rounds[0][:64]
    assert {each.kind for each in first} == {*KINDS}
    for part in range(6):
        assert 8 <= sum(part * 100 < each.at <= part * 100 + 100 for each in first) <= 13
