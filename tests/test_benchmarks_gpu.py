"""The benchmark of a GPU, as far as a CPU can show that it runs."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return benchmark_script("gpu")


@pytest.mark.parametrize("part", ["attention", "scoring", "generation"])
def test_parts_run_and_meet_their_goals(bench: ModuleType, part: str) -> None:
    setup = bench.setup_for(torch.device("cpu"), tiny=True, quick=True)
    results = bench.PARTS[part](setup)
    assert results
    assert all(result.met is not False for result in results)


def test_a_wrong_kernel_does_not_meet_the_goal(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that attends across documents."""
    from regrow.objectives.losses.causal import Causal

    def across(self: Causal, model: Any, batch: dict[str, torch.Tensor]) -> object:
        if model.config._attn_implementation == "document_attention":
            positions = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
            batch = {**batch, "position_ids": positions}
        return plain(self, model, batch)

    plain = Causal.__call__
    monkeypatch.setattr(Causal, "__call__", across)
    setup = bench.setup_for(torch.device("cpu"), tiny=True, quick=True)
    assert any(result.met is False for result in bench.attention(setup))


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the script measures for minutes")
def test_without_a_gpu_nothing_is_measured(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    bench.main()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "no GPU here: nothing was measured\n"
