import errno
import itertools
import json
import logging
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from regrow.common.errors import UserError
from regrow.corpus.packing import PackedText, pack
from regrow.corpus.samples import DataOrder
from regrow.evaluation.heldout import heldout_loss
from regrow.objectives.losses.causal import Causal
from regrow.training import checkpoints, loop
from regrow.training.reproducibility import environment
from regrow.training.settings import RecoverySettings
from regrow.training.task import StepReport, TrainingResult
from tests.forks import exit_code
from tests.training.small import FAMILIES, byte_tokenizer, small_model, train_on

TEXT = ["the cat sat on the mat", "a dog", "the dog saw the cat and ran", "so it goes"] * 3
SETTINGS = RecoverySettings(
    tokens=180,
    row_length=10,
    batch_tokens=40,
    micro_batch=2,
    learning_rate=0.01,
    precision="fp32",
    evaluate_every=80,
    save_every=0,
)


def data(row_length: int = 10) -> PackedText:
    return pack(TEXT, byte_tokenizer(), row_length)


def run(
    directory: Path,
    model: Any = None,
    settings: RecoverySettings = SETTINGS,
    **options: Any,
) -> tuple[dict[str, Tensor], TrainingResult]:
    model = small_model("llama", attention_dropout=0.1) if model is None else model
    options = {"seed": 3, "identity": "m", "samples": data(), **options}
    samples = options.pop("samples")
    result = train_on(model, samples, Causal(), settings, directory=directory, **options)
    return model.state_dict(), result


def changed(**values: Any) -> RecoverySettings:
    return RecoverySettings(**{**SETTINGS.model_dump(), **values})


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.numpy().tobytes() == other[name].numpy().tobytes(), name


class StopError(Exception):
    pass


@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_loss(tmp_path: Path, family: str) -> None:
    model = small_model(family)
    before = heldout_loss(model, byte_tokenizer(), TEXT, row_length=10)
    _, result = run(tmp_path, model, changed(precision="bf16", tokens=600, evaluate_every=None))
    after = heldout_loss(model, byte_tokenizer(), TEXT, row_length=10)
    assert after.loss_per_token < before.loss_per_token - 0.3
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert result.curve[-1][1] < result.curve[0][1]


def test_the_result_says_what_was_trained(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    seen: list[bool] = []

    def evaluate(model: Any) -> float:
        seen.append(model.training)
        return 7.0 + len(seen)

    _, result = run(tmp_path, evaluate=evaluate, on_step=reports.append)
    assert [tokens for tokens, _ in result.curve] == [40, 80, 120, 160, 180]
    assert result.heldout_curve == [(80, 8.0), (160, 9.0), (180, 10.0)]
    assert seen == [False] * 3
    assert result.tokens == 180
    assert [(r.tokens, r.loss) for r in reports] == result.curve
    assert [r.heldout for r in reports] == [None, 8.0, None, 9.0, 10.0]
    rows = DataOrder(3, len(data())).rows(0, 18)
    assert result.predicted == (data().batch(rows)["labels"] >= 0).sum()


def test_an_update_is_that_of_the_clipped_mean_loss(tmp_path: Path) -> None:
    """One step against AdamW by hand, on all rows of the step at once."""
    model, twin = small_model("gpt_neox"), small_model("gpt_neox")
    settings = changed(tokens=40, warmup=1, weight_decay=0.5, clip=0.1)
    after, result = run(tmp_path, model, settings)

    rows = DataOrder(3, len(data())).rows(0, 4)
    batch = {name: torch.from_numpy(a) for name, a in data().batch(rows).items()}
    loss, each = Causal()(twin, batch)
    (loss / len(each)).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    assert result.curve[0][1] == pytest.approx(loss.item() / len(each), rel=1e-5)
    for name, parameter in twin.named_parameters():
        decay = 0.5 if parameter.ndim >= 2 else 0.0
        # Adam's first step moves by the gradient over its own size.
        step = parameter.grad / (parameter.grad.abs() + 1e-8)
        expected = parameter.detach() * (1 - 0.01 * decay) - 0.01 * step
        sure = parameter.grad.abs() > 1e-5
        torch.testing.assert_close(after[name][sure], expected[sure], rtol=1e-3, atol=1e-5)


def test_the_split_into_micro_batches_does_not_matter(tmp_path: Path) -> None:
    """The short last row makes the micro-batches unequal in tokens."""
    settings = {"tokens": 10 * len(data()), "batch_tokens": 10 * len(data()), "learning_rate": 1e-3}
    found: list[dict[str, Tensor]] = []
    for micro_batch in (1, 3, len(data())):
        model = small_model("llama")

        def keep(*_: Any, model: Any = model) -> None:
            found.append({name: p.grad.clone() for name, p in model.named_parameters()})

        handle = register_optimizer_step_pre_hook(keep)
        try:
            run(tmp_path / str(micro_batch), model, changed(micro_batch=micro_batch, **settings))
        finally:
            handle.remove()
    assert len(found) == 3
    for other in found[1:]:
        for name, gradient in found[0].items():
            assert (other[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_stopped_training_ends_in_the_same_bits(tmp_path: Path, step: int) -> None:
    def stop(report: StepReport) -> None:
        if report.step == step:
            raise StopError

    whole, expected = run(tmp_path / "whole", evaluate=_norm)
    with pytest.raises(StopError):
        run(tmp_path / "stopped", evaluate=_norm, on_step=stop)
    resumed, result = run(tmp_path / "stopped", evaluate=_norm)
    assert_same_bits(whole, resumed)
    assert result.resumed_at == step
    assert result.curve == expected.curve
    assert result.heldout_curve == expected.heldout_curve
    again, result = run(tmp_path / "stopped", evaluate=_norm)
    assert_same_bits(whole, again)
    assert result.resumed_at == 5
    assert result.curve == expected.curve
    assert steps_in(tmp_path / "stopped") == [4, 5]


def steps_in(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory that holds nothing else."""
    return sorted(int(path.name.removeprefix("step-")) for path in directory.iterdir())


def test_a_step_is_tracked_before_its_checkpoint_is_written(tmp_path: Path) -> None:
    """Whoever is killed between the two does it again; the other way round it would be lost."""
    seen: list[tuple[str, int, list[int]]] = []

    def note(what: str, report: StepReport) -> None:
        seen.append((what, report.step, steps_in(tmp_path)))

    def stop(report: StepReport) -> None:
        note("on_step", report)
        if report.step == 2:
            raise StopError

    with pytest.raises(StopError):
        run(tmp_path, track=lambda report: note("track", report), on_step=stop)
    assert seen == [
        ("track", 1, []), ("on_step", 1, [1]), ("track", 2, [1]), ("on_step", 2, [1, 2]),
    ]  # fmt: skip


@pytest.mark.parametrize("file", ["model", "optimizer", "state"])
def test_a_full_disk_is_told_and_keeps_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def until(report: StepReport) -> None:
        if report.step == 2:
            raise StopError

    with pytest.raises(StopError):
        run(tmp_path, on_step=until)
    kept = tmp_path / "step-00000002"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = {path.stem: path.stat().st_size for path in kept.iterdir()}
    if file == "state":  # the smallest, so no limit reaches it alone
        monkeypatch.setattr(Path, "write_text", _refuse)
    else:
        limit = sizes["model"] + 1 if file == "optimizer" else sizes["model"] // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot be written") as caught:
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert steps_in(tmp_path) == [2]
    _, result = run(tmp_path)
    assert result.resumed_at == 2


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _norm(model: Any) -> float:
    return float(sum(parameter.detach().norm() for parameter in model.parameters()))


@pytest.mark.parametrize("moment", ["step 3", "rename 3", "write 3", "clean 3"])
def test_a_killed_training_ends_in_the_same_bits(tmp_path: Path, moment: str) -> None:
    assert exit_code(_be_killed, tmp_path / "killed", moment) == -signal.SIGKILL
    whole, expected = run(tmp_path / "whole")
    resumed, result = run(tmp_path / "killed")
    assert_same_bits(whole, resumed)
    assert result.curve == expected.curve
    assert result.resumed_at == {"s": 3, "r": 2, "w": 2, "c": 2}[moment[0]]
    assert steps_in(tmp_path / "killed") == [4, 5]


def _be_killed(directory: Path, moment: str) -> None:
    """Trains, and is killed: after a step, or before, in or after the write of its checkpoint.

    `clean`: while the checkpoint before the one before is removed.
    """

    kind, number = moment.split()
    left = {"write": 2, "rename": 1, "clean": 1}.get(kind, 0)

    def kill_at(name: str, owner: Any) -> None:
        real = getattr(owner, name)

        def dying(*args: Any, **options: Any) -> Any:
            nonlocal left
            if any(f"step-{int(number):08d}" in str(arg) for arg in args) or kind == "clean":
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(owner, name, dying)

    def on_step(report: StepReport) -> None:
        if kind == "step" and report.step == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "clean" and report.step == int(number) - 1:
            kill_at("rmtree", shutil)

    if kind == "write":
        kill_at("save_tensors", checkpoints)
    if kind == "rename":
        kill_at("rename", Path)
    run(directory, on_step=on_step)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 4}, "seed was 3, now 4"),
        ({"identity": "other"}, "model was m, now other"),
        ({"settings": changed(learning_rate=0.02)}, "learning_rate was 0.01, now 0.02"),
        ({"samples": pack(["other text"] * 9, byte_tokenizer(), 10)}, "data was"),
        ({"model": small_model("gpt_neox")}, "a checkpoint of another model"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    run(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, **options)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_how_often_to_save_and_measure_may_change(tmp_path: Path) -> None:
    run(tmp_path)
    _, result = run(tmp_path, settings=changed(save_every=9, evaluate_every=None, recompute=True))
    assert result.resumed_at == 5


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _with_state(path: Path, **changes: object) -> None:
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, **changes}))


def _emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no weights": lambda path: (path / "model.safetensors").unlink(),
    "weights cut short": lambda path: _cut_short(path / "model.safetensors"),
    "weights of the same size": lambda path: (path / "model.safetensors").write_bytes(
        bytes((path / "model.safetensors").stat().st_size)
    ),
    "weights of another training": lambda path: save_file(
        {"a": torch.ones(3)}, path / "model.safetensors"
    ),
    "no optimiser state": lambda path: (path / "optimizer.safetensors").unlink(),
    "no state": lambda path: (path / "state.json").unlink(),
    "state cut short": lambda path: _cut_short(path / "state.json"),
    "state that is no object": lambda path: (path / "state.json").write_text("[]"),
    "no list of files": lambda path: _with_state(path, files=None),
    "a size that is a list": lambda path: _with_state(path, files={"model.safetensors": [1]}),
    "files elsewhere": lambda path: _with_state(path, files={"../../x": 1}),
    "a step that is no number": lambda path: _with_state(path, step="5"),
    "a curve without pairs": lambda path: _with_state(path, curve=[[1]]),
    "settings that are a list": lambda path: _with_state(path, run=[]),
    "losses that are a number": lambda path: _with_state(path, heldout=3),
    "nothing": _emptied,
}


@pytest.fixture(scope="module")
def whole_and_stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The model of a whole training, and the directory of one that was stopped at step 3."""
    home = tmp_path_factory.mktemp("damaged")
    model, _ = run(home / "whole")

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise StopError

    with pytest.raises(StopError):
        run(home / "stopped", on_step=stop)
    return model, home / "stopped"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    whole_and_stopped: tuple[Any, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    whole, stopped = whole_and_stopped
    directory = shutil.copytree(stopped, tmp_path / "training")
    DAMAGES[damage](directory / "step-00000003")
    with caplog.at_level(logging.WARNING):
        resumed, result = run(directory)
    (said,) = [r.getMessage() for r in caplog.records if r.name.startswith("regrow")]
    assert said.startswith(f"{directory / 'step-00000003'}: damaged (")
    assert said.endswith("; going on from step-00000002")
    assert "\n" not in said
    assert result.resumed_at == 2
    assert_same_bits(whole, resumed)


def test_if_all_checkpoints_are_damaged_none_is_touched(tmp_path: Path) -> None:
    run(tmp_path)
    for step in (4, 5):
        _cut_short(tmp_path / f"step-{step:08d}/model.safetensors")
    message = rf"^{tmp_path}/step-00000005: damaged \(.*no older checkpoint is whole; remove"
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)
    assert steps_in(tmp_path) == [4, 5]


def test_a_checkpoint_that_cannot_be_read_now_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path == tmp_path / "step-00000005/state.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(UserError, match="step-00000005: cannot be read: Input/output error"):
        run(tmp_path)
    assert steps_in(tmp_path) == [4, 5]


def test_a_resume_elsewhere_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path)
    with caplog.at_level(logging.WARNING):
        run(tmp_path)
    assert not [r for r in caplog.records if r.name.startswith("regrow")]
    now = {**environment(torch.device("cpu"), "fp32", 1), "threads": 99}
    monkeypatch.setattr(loop, "environment", lambda *_: now)
    with caplog.at_level(logging.WARNING):
        run(tmp_path)
    assert "now 99" in caplog.text


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    model = small_model("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = float("inf")
    untouched = model.model.embed_tokens.weight.clone()
    settings = changed(tokens=40)
    objective = Causal()
    objective.check = lambda model: None  # type: ignore[method-assign]
    message = r"not finite at step 1 of 1, after 0 steps skipped in a row; a learning_rate below 0"
    with pytest.raises(UserError, match=message):
        train_on(model, data(), objective, settings, seed=0, directory=tmp_path)
    assert torch.equal(model.model.embed_tokens.weight, untouched)
    assert list(tmp_path.iterdir()) == []


class BrokenAt(Causal):
    """The loss of these calls is multiplied; a call is a micro-batch."""

    def __init__(self, calls: set[int], factor: float) -> None:
        self.calls, self.factor, self.called = calls, factor, 0

    def __call__(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss, each = super().__call__(model, batch)
        self.called += 1
        return loss * (self.factor if self.called in self.calls else 1.0), each


SHORT = changed(tokens=200, batch_tokens=10, micro_batch=1, evaluate_every=None)
"""A call of the objective is a step."""


@pytest.mark.parametrize(
    ("factor", "reason"),
    [
        (float("nan"), "the loss is not finite at step 12 of"),
        (100.0, r"the loss is \d+, where \d\.\d+ was usual at step 12 of"),
    ],
)
def test_a_broken_step_is_skipped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, factor: float, reason: str
) -> None:
    reports: list[StepReport] = []
    weights: list[Tensor] = []
    model = small_model("llama")

    def keep(report: StepReport) -> None:
        reports.append(report)
        weights.append(model.model.embed_tokens.weight.detach().clone())

    objective = BrokenAt({12}, factor)
    with caplog.at_level(logging.WARNING):
        result = train_on(model, data(), objective, SHORT, seed=0, directory=tmp_path, on_step=keep)
    assert re.search(reason, caplog.text)
    assert [r.step for r in reports if r.skipped] == [12]
    same = [torch.equal(one, other) for one, other in itertools.pairwise(weights)]
    assert [step + 2 for step, equal in enumerate(same) if equal] == [12]
    assert result.skipped == 1
    assert len(result.curve) == len(reports) - 1
    assert result.tokens == reports[-1].tokens


def test_a_training_that_only_skips_ends(tmp_path: Path) -> None:
    objective = BrokenAt({9, 11, 12, 13}, 1e3)
    settings = SHORT.model_copy(update={"skips": 3})
    with pytest.raises(UserError, match=r"step 13 of \d+, after 2 steps skipped in a row"):
        train_on(small_model("llama"), data(), objective, settings, seed=0, directory=tmp_path)
    saved = json.loads(next(tmp_path.glob("*/state.json")).read_text())
    assert (saved["step"], saved["skipped"], saved["skipped_in_a_row"]) == (12, 3, 2)
    objective = BrokenAt({1}, 1e3)
    with pytest.raises(UserError, match=r"step 13 of \d+, after 2 steps skipped in a row"):
        train_on(small_model("llama"), data(), objective, settings, seed=0, directory=tmp_path)


def deliver(number: int) -> None:
    """Call the handler of a signal; a signal without one would end the tests."""
    handler = signal.getsignal(number)
    assert callable(handler)
    assert handler is not signal.default_int_handler or number == signal.SIGINT
    handler(number, None)


@pytest.mark.parametrize(
    ("number", "left"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_training_asked_to_stop_saves_and_ends_in_the_same_bits(
    tmp_path: Path, number: int, left: type[BaseException]
) -> None:
    settings = changed(save_every=1000)
    handlers = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    asked: list[int] = []

    def ask(report: StepReport) -> None:
        asked.append(report.step)
        if report.step == 2:
            deliver(number)

    whole, expected = run(tmp_path / "whole", settings=settings)
    with pytest.raises(left) as caught:
        run(tmp_path / "asked", settings=settings, on_step=ask)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 143
    assert asked == [1, 2, 3]
    assert [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)] == handlers
    resumed, result = run(tmp_path / "asked", settings=settings)
    assert result.resumed_at == 3
    assert result.curve == expected.curve
    assert_same_bits(whole, resumed)


@pytest.mark.parametrize(
    ("number", "left"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_in_the_last_step_is_not_lost(
    tmp_path: Path, number: int, left: type[BaseException]
) -> None:
    """Else a run would go on with its next steps."""
    last: list[int] = []

    def ask(report: StepReport) -> None:
        last.append(report.step)
        if report.step == report.steps:
            deliver(number)

    with pytest.raises(left):
        run(tmp_path, on_step=ask)
    resumed, result = run(tmp_path)
    assert result.resumed_at == last[-1]  # the training was complete
    whole, _ = run(tmp_path / "whole")
    assert_same_bits(whole, resumed)


def test_a_second_interrupt_interrupts(tmp_path: Path) -> None:
    def insist(_: StepReport) -> None:
        deliver(signal.SIGINT)
        deliver(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, settings=changed(save_every=1000), on_step=insist)
    assert list(tmp_path.iterdir()) == []


def test_in_a_thread_signals_are_left_alone(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        _, result = pool.submit(run, tmp_path).result()
    assert result.tokens == 180


def test_a_stopped_training_by_muon_ends_in_the_same_bits(tmp_path: Path) -> None:
    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise StopError

    settings = changed(optimizer="muon", schedule="wsd", decay=0.5)
    whole, expected = run(tmp_path / "whole", settings=settings)
    with pytest.raises(StopError):
        run(tmp_path / "stopped", settings=settings, on_step=stop)
    resumed, result = run(tmp_path / "stopped", settings=settings)
    assert result.resumed_at == 3
    assert result.curve == expected.curve
    assert_same_bits(whole, resumed)
    by_adamw, _ = run(tmp_path / "other", settings=changed(schedule="wsd", decay=0.5))
    assert not torch.equal(by_adamw["model.norm.weight"], whole["model.norm.weight"])


def test_layers_that_are_computed_again_change_no_bit(tmp_path: Path) -> None:
    calls: list[bool] = []

    def trained(directory: str, recompute: bool) -> tuple[dict[str, Tensor], int]:
        calls.clear()
        model = small_model("llama", attention_dropout=0.1)
        layer = model.model.layers[0]
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(model.training))
        found, _ = run(tmp_path / directory, model, changed(recompute=recompute))
        assert not layer.gradient_checkpointing
        return found, calls.count(True)

    kept, once = trained("kept", recompute=False)
    again, twice = trained("again", recompute=True)
    assert twice == 2 * once
    assert_same_bits(kept, again)


def test_a_model_that_cannot_compute_its_layers_again_says_so(tmp_path: Path) -> None:
    model = small_model("llama")
    model.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match=r"LlamaForCausalLM: .*leave recompute out"):
        run(tmp_path, model, changed(recompute=True))


def test_weights_must_be_float32(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        run(tmp_path, small_model("llama").bfloat16())


def test_rows_must_be_those_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows of 11"):
        run(tmp_path, samples=data(11))


def test_the_random_state_of_the_caller_is_left_alone(tmp_path: Path) -> None:
    model = small_model("llama", attention_dropout=0.1)
    before = torch.get_rng_state().numpy().copy()
    run(tmp_path, model)
    assert np.array_equal(torch.get_rng_state().numpy(), before)
