"""The benchmark at full size, as far as a small model and no weights at all can show it."""

import signal
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.reader import open_checkpoint, read_tensor
from regrow.cuts.cut import Cut
from regrow.surgery.carve import plan_carve
from tests.benchmark_scripts import benchmark_script


@pytest.fixture
def bench() -> Iterator[ModuleType]:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield benchmark_script("openba15b")
    for number, handler in handlers.items():
        signal.signal(number, handler)


def tiny(bench: ModuleType) -> Any:
    sizes = bench.Sizes(12, 36, hidden=16, ffn=512, heads=4, vocab=300, head_dim=4)
    return bench.Family(sizes, hidden=12, ffn=256, heads=2, vocab=120)


def test_sizes_are_those_of_the_report(bench: ModuleType) -> None:
    sizes = [bench.FULL.original, *(stage.sizes for stage in bench.stages_of(bench.FULL))]

    # The report says 15B for 14.6 and 9.9B for 10.1.
    assert [str(s) for s in sizes] == ["14.6B", "12.3B", "11.0B", "10.1B", "3.8B", "3.4B"]
    assert [(s.encoder, s.decoder) for s in sizes[1:4]] == [(10, 30), (8, 27), (8, 24)]
    assert 31e9 < sizes[0].nbytes < 31.5e9
    assert bench.bytes_needed(bench.FULL) < 75e9


def test_layers_are_those_of_the_report(bench: ModuleType) -> None:
    stages = bench.stages_of(bench.FULL)[:3]
    left = {"encoder": list(range(12)), "decoder": list(range(36))}
    for stage, named in zip(stages, bench.DROPPED, strict=True):
        for stack, layers in stage.options["drop_layers"].items():
            dropped = [left[stack][int(layer)] for layer in layers.split(",")]
            assert dropped == list(named[stack])
            left[stack] = [layer for layer in left[stack] if layer not in dropped]


def test_weights_are_finite_and_no_two_rows_alike(bench: ModuleType, tmp_path: Path) -> None:
    model = bench.Sizes(1, 1, hidden=256, ffn=256, heads=2, vocab=40_000)
    bench.write_model(model, tmp_path / "model", shard_bytes=25_000_000)
    checkpoint = open_checkpoint(tmp_path / "model")

    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    assert shapes == dict(model.tensors)
    assert len(checkpoint.files) > 1
    for info in checkpoint.tensors.values():
        values = np.abs(read_tensor(info))
        assert values.min() >= 2.0**-21
        assert values.max() < 2.0**-5
    # More words than the period: the head is not the embedding again.
    rows = [read_tensor(checkpoint.tensors[f"{n}.weight"]) for n in ("shared_embedding", "lm_head")]
    assert sum(r.size for r in rows) > bench.PERIOD
    assert len(np.unique(np.concatenate(rows)[:, :4], axis=0)) > 0.999 * 80_000


def test_cuts_compose_to_the_last_sizes(bench: ModuleType, tmp_path: Path) -> None:
    family = tiny(bench)
    bench.write_model(family.original, tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    layout = bind_checkpoint(checkpoint)
    stages = bench.stages_of(family)

    cut = reduce(Cut.then, bench.choose_cuts(stages, checkpoint, layout))

    plan = plan_carve(checkpoint, layout, cut, checkpoint.config, {}, 10**9)
    assert plan.shapes == dict(stages[-1].sizes.tensors)
    assert cut.axes["vocab"].keep[:3].tolist() == [0, 1, 2]


def test_a_disk_too_small_is_refused(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.shutil, "disk_usage", lambda _: SimpleNamespace(free=40 * 10**9))
    with pytest.raises(SystemExit, match="GB are needed, 40 are free"):
        bench.main(["--work", str(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, OSError])
def test_nothing_is_left_after_a_failure(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    failure: type[BaseException],
) -> None:  # fmt: skip
    written: list[Path] = []

    def fail(work: ModuleType, *_: object) -> None:
        written.extend(tmp_path.glob("*/model/*.safetensors"))
        raise failure

    monkeypatch.setattr(bench, "SMALL", tiny(bench))
    monkeypatch.setattr(bench, "hold_bytes", fail)
    with pytest.raises(failure):
        bench.main(["--quick", "--work", str(tmp_path)])
    assert written
    assert not list(tmp_path.iterdir())
