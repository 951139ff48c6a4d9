"""What a run checks of the machine, before it begins."""

import pytest
import torch

from regrow.pipeline import run_checks
from regrow.training.settings import RecoverySettings


def test_layers_are_compiled_where_a_single_process_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU no compiler for the CPU is wanted."""
    gpu, asked = torch.device("cuda"), list[torch.device]()
    monkeypatch.setattr("regrow.training.distributed.processes.available_device", lambda: gpu)
    monkeypatch.setattr("regrow.training.efficiency.layer_computation.check_compiler", asked.append)
    run_checks._check_machine("depth", RecoverySettings(tokens=1_000, compile=True))
    assert asked == [gpu]
