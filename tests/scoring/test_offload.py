"""A model read one layer at a time: the same scores, each weight read once, little memory."""

import importlib.util
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import OffloadedWeightsLoader
from numpy.typing import NDArray

from regrow.architectures import BLUEPRINTS, Blueprint, Layout
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from regrow.models.loading import load_model
from regrow.scoring import score as score_module
from regrow.scoring.calibration import CalibrationText
from regrow.scoring.observe import Seen, observe
from regrow.scoring.offload import load_offloaded
from regrow.scoring.score import score
from tests.scoring.models import BY_TYPE, default_statistics, text
from tests.tiny import add_tokenizer, sentences, write_tiny

LLAMA = BY_TYPE["llama"]
FAMILIES = ("llama", "gemma2", "t5", "openba")
BATCH = 20


def write(
    blueprint: Blueprint,
    out: Path,
    number: int = 0,
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> tuple[Path, Layout]:
    directory = write_tiny(blueprint, out, number, dtype=dtype, **more)
    return directory, bind_checkpoint(open_checkpoint(directory))


@pytest.mark.parametrize(
    ("blueprint", "number", "dtype"),
    [
        *(pytest.param(each, 0, torch.float32, id=each.model_type) for each in BLUEPRINTS),
        *(
            pytest.param(BY_TYPE[name], 1, torch.bfloat16, id=f"{name}-tied-bf16")
            for name in FAMILIES
        ),
    ],
)
def test_the_same_bits_as_in_memory(
    blueprint: Blueprint, number: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    directory, layout = write(blueprint, tmp_path / "m", number, dtype)
    wanted = default_statistics(blueprint)
    expected = observe(load_model(directory), layout, wanted, text(), batch_tokens=BATCH)
    offloaded = load_offloaded(open_checkpoint(directory), layout)
    model, run = offloaded.model, offloaded.run
    found = observe(model, layout, wanted, text(), batch_tokens=BATCH, run=run)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert (found[name] == values).all(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_each_weight_is_read_once_and_the_head_never(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, layout = write(BY_TYPE[family], tmp_path / "m")
    offloaded = load_offloaded(open_checkpoint(directory), layout)
    model, run = offloaded.model, offloaded.run
    read: Counter[str] = Counter()
    read_one = OffloadedWeightsLoader.__getitem__

    def counted(loader: Any, name: str) -> Any:
        read[name] += 1
        return read_one(loader, name)

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", counted)
    assert len(list(text().batches(BATCH))) > 1
    observe(
        model, layout, default_statistics(layout.blueprint), text(), batch_tokens=BATCH, run=run
    )
    head = layout.blueprint.head
    # OpenBA's stacks share one embedding module, which each of them calls.
    twice = {head.embedding} if family == "openba" else set()
    assert {name for name, times in read.items() if times != 1} == twice
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    unread = {head.weight, head.bias, *({"shared.weight"} if family == "t5" else ())}
    assert read.keys() == names - unread


@pytest.mark.parametrize("family", FAMILIES)
def test_one_module_in_memory_at_a_time(family: str, tmp_path: Path) -> None:
    directory, layout = write(BY_TYPE[family], tmp_path / "m")
    offloaded = load_offloaded(open_checkpoint(directory), layout)
    model, run = offloaded.model, offloaded.run
    layers = [
        f"{site}."
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
        for site in layout.modules(axis.sites)
    ]

    def loaded() -> set[str]:
        names = [name for name, p in model.named_parameters() if p.device.type != "meta"]
        return {next((layer for layer in layers if name.startswith(layer)), name) for name in names}

    seen: list[set[str]] = []

    def see(*_: Any) -> None:
        seen.append({name.rsplit(".", 1)[0] for name in loaded()})

    for module in model.modules():
        module.register_forward_hook(see)
    observe(
        model, layout, default_statistics(layout.blueprint), text(), batch_tokens=BATCH, run=run
    )
    assert {layer.removesuffix(".") for layer in layers} <= set().union(*seen)
    # A stack's own hook runs when its last module may still be there.
    assert all(len(names) <= 1 for names in seen)
    assert loaded() == set()


def test_a_failure_is_raised_and_leaves_no_thread_and_no_hook(tmp_path: Path) -> None:
    directory, layout = write(LLAMA, tmp_path / "m")
    offloaded = load_offloaded(open_checkpoint(directory), layout)
    model, run = offloaded.model, offloaded.run
    threads = set(threading.enumerate())
    called = 0

    def failing(seen: Seen) -> torch.Tensor:
        nonlocal called
        called += 1
        if called == 5:
            raise RuntimeError("five")
        return seen.wrote.abs()

    with pytest.raises(RuntimeError, match="five"):
        observe(model, layout, {"hidden": failing}, text(), batch_tokens=BATCH, run=run)
    assert called == 5
    assert set(threading.enumerate()) <= threads
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# --- when it is chosen -------------------------------------------------------------------------


def needed(layout: Layout) -> int:
    return 4 * layout.parameters()


def available(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(score_module, "available_memory", lambda: int(size))


def scored(
    directory: Path, layout: Layout, said: list[str], documents: Sequence[str] = ()
) -> Mapping[str, NDArray[np.float64]]:
    axes = [name for name in layout.blueprint.axis_names if name != "vocab"]
    return score(
        ModelDirectory(directory), axes,
        text=CalibrationText(lambda: iter(documents or sentences(60)), 900), notify=said.append,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_where_the_model_does_not_fit(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, layout = write(BY_TYPE[family], tmp_path / "m", vocab_size=320)
    add_tokenizer(directory)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    files = sorted(directory.iterdir())
    said: list[str] = []
    expected = scored(directory, layout, said)
    assert not any("does not fit" in line or "at a time" in line for line in said)

    available(monkeypatch, needed(layout))  # with nothing left for activations
    found = scored(directory, layout, said)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert (found[name] == values).all(), name
    (line,) = (line for line in said if "at a time" in line)
    assert line == (
        f"{directory}: 0.0 GB of float32 weights do not fit in 0.0 GB of free memory; "
        "reading it one layer at a time"
    )
    assert sorted(directory.iterdir()) == files
    assert list(temporary.iterdir()) == []

    said.clear()
    available(monkeypatch, needed(layout) * 1.2)
    scored(directory, layout, said)
    assert not any("at a time" in line for line in said)


def test_without_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, _ = write(LLAMA, tmp_path / "m", vocab_size=320)
    add_tokenizer(directory)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "accelerate" else object()
    )

    def unread() -> Iterator[str]:
        raise AssertionError("the text was read")
        yield ""

    available(monkeypatch, 3e9)
    monkeypatch.setattr(Layout, "parameters", lambda _: 15_000_000_000)
    with pytest.raises(UserError) as caught:
        score(ModelDirectory(directory), ["ffn"], text=CalibrationText(unread))
    assert str(caught.value) == (
        f"{directory}: 60.0 GB of float32 weights do not fit in 3.0 GB of free memory; reading it "
        "one layer at a time needs the accelerate package; run: pip install 'regrow[offload]'"
    )


# --- memory ------------------------------------------------------------------------------------

MEASURE = """
import sys
from pathlib import Path
import torch
from regrow.checkpoint.reader import open_checkpoint
from regrow.models.loading import load_model
from regrow.checkpoint.bind import bind_checkpoint
from regrow.scoring.offload import load_offloaded
from regrow.scoring.observe import observe, one_by_one
from tests.scoring.models import default_statistics, text

def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

def scores(directory, offloaded):
    layout = bind_checkpoint(open_checkpoint(directory))
    if offloaded:
        offloaded = load_offloaded(open_checkpoint(directory), layout)
        model, run = offloaded.model, offloaded.run
    else:
        model, run = load_model(directory), one_by_one
    wanted = default_statistics(layout.blueprint)
    observe(model, layout, wanted, text([16] * 8), batch_tokens=64, run=run)
    return 4 * layout.parameters()

torch.set_num_threads(1)
small, *directories = map(Path, sys.argv[1:])
scores(small, True)
peaks = [peak()]
for directory in directories:
    size = scores(directory, True)
peaks.append(peak())
scores(directory, False)
peaks.append(peak())
print(size, *(each - peaks[0] for each in peaks[1:]))
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, as Linux has it"
)
def test_peak_memory_is_that_of_a_layer(tmp_path: Path) -> None:
    directories = [write(LLAMA, tmp_path / "small")[0]]
    for dtype in (torch.float32, torch.bfloat16):
        directory, _ = write(
            LLAMA, tmp_path / str(dtype), dtype=dtype, hidden_size=256, intermediate_size=1024,
            num_hidden_layers=24, num_attention_heads=4, num_key_value_heads=4, head_dim=64,
        )  # fmt: skip
        directories.append(directory)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, directories)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    model, offloaded, in_memory = map(int, done.stdout.split())
    assert model > 100e6
    assert in_memory > 0.8 * model
    assert offloaded < 0.2 * model
