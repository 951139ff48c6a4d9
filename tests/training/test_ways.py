"""Ways to train that change how a training runs: what comes out is what it would be anyway."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from regrow.architectures.t5 import T5
from regrow.common.errors import UserError
from regrow.corpus.packing import pack
from regrow.evaluation.heldout import heldout_loss
from regrow.objectives.losses.causal import Causal
from regrow.training import checkpoints, step
from regrow.training.distributed import sharded_loading
from regrow.training.distributed.processes import join_processes
from regrow.training.distributed.sharded_loading import load_in_first_process
from regrow.training.distributed.sharding import (
    check_offload,
    check_replicas,
    full_state_dict,
    shard,
)
from regrow.training.efficiency import layer_computation
from regrow.training.settings import RecoverySettings
from regrow.training.task import StepReport
from tests.forks import Together, imported
from tests.tiny import write_model, write_seq2seq
from tests.training.small import byte_tokenizer, small_model, train_on, without_memory

TEXT = ["the cat sat on the mat", "a dog", "the dog saw the cat and ran", "so it goes"] * 3
TRACED = "eager"
"""What traces layers, and makes no kernels, which take seconds each."""
SETTINGS = RecoverySettings(
    tokens=180, row_length=10, batch_tokens=80, micro_batch=1, learning_rate=0.01,
    precision="fp32", evaluate_every=80, save_every=0,
)  # fmt: skip


def perform(
    directory: Path, on_step: Callable[[StepReport], None] | None = None, **changes: Any
) -> dict[str, Any]:
    """What came of a training with these settings changed."""
    settings = RecoverySettings(**{**SETTINGS.model_dump(), **changes})
    model, tokenizer = small_model("llama", attention_dropout=0.0), byte_tokenizer()
    if not join_processes().first:
        model = without_memory(model)
    names = list(model.state_dict())

    def evaluate(trained: Any) -> float:
        return heldout_loss(trained, tokenizer, TEXT[:4]).loss_per_token

    result = train_on(
        model, pack(TEXT, tokenizer, 10), Causal(), settings, seed=3, directory=directory,
        evaluate=evaluate if settings.evaluate_every else None, on_step=on_step,
    )  # fmt: skip
    assert list(model.state_dict()) == names
    return {
        "curve": result.curve,
        "heldout": result.heldout_curve,
        "resumed_at": result.resumed_at,
        "weights": {key: tensor.tolist() for key, tensor in full_state_dict(model).items()},
    }


def process(out: str, changes: dict[str, Any]) -> None:
    layer_computation._BACKEND = TRACED
    found = perform(Path(out) / "training", **changes)
    if found["weights"]:
        (Path(out) / "result.json").write_text(json.dumps(found))


def assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    for curve in ("curve", "heldout"):
        for (at, loss), (theirs, wanted) in zip(one[curve], other[curve], strict=True):
            assert at == theirs
            assert loss == pytest.approx(wanted, rel=1e-4)
    for name, values in one["weights"].items():
        mine, theirs = torch.tensor(values), torch.tensor(other["weights"][name])
        assert (mine - theirs).norm() <= 5e-3 * theirs.norm(), name


@pytest.fixture(scope="module")
def forks() -> Iterator[Any]:
    with imported(__name__) as found:
        yield found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process does with the settings as they are."""
    return perform(tmp_path_factory.mktemp("plain"))


def together(forks: Any, count: int, out: Path, **changes: Any) -> dict[str, Any]:
    log = out / "said.log"
    codes = Together(forks, count).run(process, (str(out), changes), log)
    assert codes == [0] * count, log.read_text()
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


# Replicas


def test_two_groups_of_two_learn_what_one_process_does(
    forks: Any, plain: dict[str, Any], tmp_path: Path
) -> None:
    """In steps of two passes."""
    assert_alike(together(forks, 4, tmp_path, replicas=2), plain)
    state = json.loads((tmp_path / "training/step-00000003/state.json").read_text())
    assert state["environment"]["processes"] == "4 in 2 replicas"
    # Others take it up: nothing is left to do, and the weights are the same.
    found = perform(tmp_path / "training")
    assert found["resumed_at"] == 3
    assert_alike(found, plain)


def untied(directory: str) -> None:
    if not join_processes().first:
        setattr(sharded_loading, "load_model", None)  # noqa: B010
    model = load_in_first_process(Path(directory), torch.float32, join_processes())
    shard(model, Causal(), join_processes())
    weights = full_state_dict(model)
    if weights:
        save_file({name: each.clone() for name, each in weights.items()}, f"{directory}/whole")


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_what_a_file_does_not_tie_is_not_tied(forks: Any, tmp_path: Path, kind: str) -> None:
    """The config ties (T5's always), the file has two tensors, and transformers goes by the file.

    It is loaded in one process alone.
    """
    if kind == "llama":
        source = write_model(tmp_path / "m")
        weights = load_file(source / "model.safetensors")
        weights["lm_head.weight"] = torch.ones_like(weights["model.embed_tokens.weight"])
        save_file(weights, source / "model.safetensors", {"format": "pt"})
    else:
        source = write_seq2seq(tmp_path / "m", T5)
        weights = load_file(source / "model.safetensors")
    log = tmp_path / "said.log"
    assert Together(forks).run(untied, (str(source),), log) == [0, 0], log.read_text()
    found = load_file(source / "whole")
    assert found.keys() >= weights.keys() >= {"lm_head.weight"}
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("replicas", "count", "said"),
    [(2, 1, "one process has nobody to share with"), (2, 3, "3 processes cannot be dealt")],
)
def test_replicas_that_cannot_be_are_refused(replicas: int, count: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_replicas(replicas, count)


def test_replicas_that_can_be_are_not() -> None:
    for replicas, count in ((1, 1), (1, 3), (2, 4), (4, 4)):
        check_replicas(replicas, count)


# Parts in the CPU's memory


def offloading(out: str) -> None:
    """Where there is no GPU, all moves go from the CPU to the CPU."""
    pytest.MonkeyPatch().setattr(step, "check_offload", lambda *_: None)
    process(out, {"offload": True})


def test_parts_in_the_memory_of_the_cpu_learn_the_same(
    forks: Any, plain: dict[str, Any], tmp_path: Path
) -> None:
    log = tmp_path / "said.log"
    codes = Together(forks).run(offloading, (str(tmp_path),), log)
    assert codes == [0, 0], log.read_text()
    assert_alike(json.loads((tmp_path / "result.json").read_text()), plain)


@pytest.mark.parametrize(
    ("count", "device", "said"), [(1, "cuda", "one process"), (2, "cpu", "as it is; leave it out")]
)
def test_what_cannot_be_offloaded_is_refused(count: int, device: str, said: str) -> None:
    check_offload(2, torch.device("cuda"))
    with pytest.raises(UserError, match=said):
        check_offload(count, torch.device(device))


# Compiled layers


def test_compiled_layers_of_two_processes_learn_the_same(
    forks: Any, plain: dict[str, Any], tmp_path: Path
) -> None:
    """Computed again in the backward pass, too; under the names that they have."""
    found = together(forks, 2, tmp_path, compile=True, recompute=True, evaluate_every=None)
    assert_alike(found, {**plain, "heldout": []})


def test_where_nothing_compiles_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise RuntimeError("No working C++ compiler found in\ntorch._inductor.config.cpp.cxx")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(UserError, match="there is no compiler here"):
        perform(tmp_path, compile=True)
    assert not any(tmp_path.iterdir())


def test_who_compiles_trains_another_model() -> None:
    assert SETTINGS.model_copy(update={"compile": True}).decisive() != SETTINGS.decisive()


# Checkpoints in the background


class StopError(Exception):
    pass


def test_what_is_saved_in_the_background_is_what_was_then(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    """Not what the weights and the curve have become since."""

    def stop(report: StepReport) -> None:
        if report.step == 2:
            raise StopError

    with pytest.raises(StopError):
        perform(tmp_path, stop, save_in_background=True)
    (saved,) = tmp_path.iterdir()
    assert saved.name == "step-00000001"
    found = perform(tmp_path, save_in_background=True)
    assert found["resumed_at"] == 1
    for part in ("curve", "heldout", "weights"):
        assert found[part] == plain[part]


class _Stuck(HuggingFaceStorageWriter):
    """Never done with the second checkpoint."""

    def write_data(self, *given: Any) -> Any:
        place = Path(self.path)
        if "step-00000002" in place.name:
            (place.parents[1] / f"writes-{os.environ['RANK']}").write_text("")
            sleep(600)
        return super().write_data(*given)


def stuck(out: str) -> None:
    pytest.MonkeyPatch().setattr(checkpoints, "HuggingFaceStorageWriter", _Stuck)

    def on_step(report: StepReport) -> None:
        (Path(out) / f"stepped-{report.step}").write_text("")

    perform(Path(out) / "training", on_step, save_in_background=True)


def test_killed_while_it_writes_the_last_whole_checkpoint_is_taken_up(
    forks: Any, plain: dict[str, Any], tmp_path: Path
) -> None:
    """Training goes on meanwhile, to where the next is to be saved."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    marks = [killed / name for name in ("writes-0", "writes-1", "stepped-2")]
    codes = Together(forks).run(
        stuck, (str(killed),), killed / "stuck.log",
        when=lambda: all(mark.exists() for mark in marks),
    )  # fmt: skip
    assert codes == [-9, -9]
    names = sorted(path.name for path in (killed / "training").iterdir())
    assert names == [".step-00000002.regrow-partial", "step-00000001"]
    found = together(forks, 2, killed, save_in_background=True)
    assert found["resumed_at"] == 1
    assert_alike(found, plain)
    wanted = together(forks, 2, whole)
    for part in ("curve", "heldout", "weights"):
        assert found[part] == wanted[part]


@pytest.mark.parametrize("asked", [True, False])
def test_what_cannot_be_written_in_the_background_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """By whoever waits for it; the checkpoint before stays."""
    write = checkpoints._write

    def full(place: Any, *given: Any) -> None:
        if place.name == "step-00000002":
            raise UserError(f"{place.partial}: cannot be written")
        write(place, *given)

    monkeypatch.setattr(checkpoints, "_write", full)
    if not asked:  # the next one waits for it
        monkeypatch.setattr(checkpoints.Checkpoints, "is_written", lambda _: False)
    with pytest.raises(UserError, match="cannot be written"):
        perform(tmp_path, save_in_background=True)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
