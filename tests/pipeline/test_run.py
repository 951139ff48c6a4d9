"""A run from end to end, and what is reported of it."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import regrow
from regrow.common.errors import UserError
from regrow.common.progress import QUIET, Progress
from regrow.pipeline.recipe_file import load_recipe
from regrow.pipeline.run_plan import RunOptions, plan_run
from regrow.pipeline.step_work import step_work
from regrow.pipeline.summary import summarise
from regrow.surgery.prune import repeat_cut
from tests.pipeline.runs import ALL, Finished, contents, entries, flip, go


def test_all_steps_are_done_in_order(finished: Finished) -> None:
    assert list(entries(finished.out)) == ALL
    assert finished.result.report == finished.out / "report.html"
    assert finished.result.report.stat().st_size > 10_000
    assert {path.name for path in finished.out.iterdir()} == {
        "finished.json", "ledger.jsonl", "lock", "model", "report.html", "stages",
    }  # fmt: skip
    for stage in ("depth", "width", "vocabulary"):
        left = {path.name for path in (finished.out / "stages" / stage).iterdir()}
        assert left == {"model", "tensorboard"}


def test_the_result_is_a_plain_model_of_the_planned_size(finished: Finished) -> None:
    code = (
        "import sys, transformers\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "assert 'regrow' not in sys.modules\n"
        "print(sum(p.numel() for p in model.parameters()), len(tokenizer))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(finished.result.model)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Embedding, and 3 layers: queries and outputs, keys and values, three of ffn, two norms.
    layer = 2 * 28 * 32 + 2 * 28 * 16 + 3 * 24 * 28 + 2 * 28
    planned = 300 * 28 + 3 * layer + 28
    assert done.stdout.split() == [str(planned), "300"]
    assert entries(finished.out)["vocabulary/carve"].outputs["parameters"] == planned


def test_training_helped(finished: Finished) -> None:
    done = entries(finished.out)
    for stage in ("depth", "width"):
        before, after = (
            done[f"{stage}/{step}"].outputs["heldout"]["domain"]["loss_per_token"]
            for step in ("measure-cut", "measure")
        )
        assert after < before - 0.02
    curve = done["depth/recover"].outputs["heldout_curve"]
    assert [tokens for tokens, _ in curve] == [128, 256, 320]
    assert curve[-1][1]["domain"] == pytest.approx(
        done["depth/measure"].outputs["heldout"]["domain"]["loss_per_token"], abs=1e-5
    )


def test_who_watches_sees_it_go_on(finished: Finished) -> None:
    assert finished.updates[0].stage == "original"
    assert finished.updates[-1].stage == "speed"
    shares = [update.share for update in finished.updates]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    lefts = [update.seconds_left for update in finished.updates]
    assert lefts[0] is None  # nothing is measured yet
    assert all(left is None or 0 <= left < math.inf for left in lefts)
    stages = list(dict.fromkeys(update.stage for update in finished.updates))
    assert stages == ["original", "depth", "width", "vocabulary", "speed"]
    training = [u for u in finished.updates if u.stage == "depth" and u.loss is not None]
    assert len(training) == 5
    assert training[0].heldout == ""
    assert training[-1].heldout.endswith(" bits per byte")
    assert "depth: 4 -> 3 layers" in "\n".join(finished.said)


def test_running_again_does_nothing(finished: Finished) -> None:
    before = contents(finished.out)
    said: list[str] = []
    go(finished.recipe, finished.out, progress=Progress(say=said.append))
    assert [line.partition(":")[0] for line in said] == ["finished already"]
    assert contents(finished.out) == before
    assert (finished.out / "lock").read_bytes() == b""


def test_a_run_can_be_reported_after_every_step(finished: Finished, tmp_path: Path) -> None:
    whole = (finished.out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(1, len(whole) + 1):
        (tmp_path / "ledger.jsonl").write_bytes(b"".join(whole[:count]) + b'{"torn')
        page = regrow.write_report(tmp_path)
        assert page.stat().st_size > 5_000
        summary = summarise(tmp_path)
        done = [stage.name for stage in summary.stages if stage.done]
        assert done == [n for n in ("depth", "width", "vocabulary")
                        if f"{n}/measure" in ALL[:count]]  # fmt: skip
        assert len(summary.models) == 1 + len(summary.stages)
    (tmp_path / "ledger.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="no run was begun here"):
        summarise(tmp_path)


def test_a_run_without_recovery(finished: Finished, tmp_path: Path) -> None:
    stages = [{"name": "depth", "cut": {"drop_layers": "1-2"}}]
    result = go(finished.changed(("stages", stages), ("prompts", [])), tmp_path / "run")
    assert result.model.resolve() == (tmp_path / "run/stages/depth/model").resolve()
    config = json.loads((result.model / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    (stage,) = summarise(result.directory).stages
    assert (stage.done, stage.recovery, stage.curve) == (True, "", ())
    original, row = summarise(result.directory).models
    assert row.after_cut.keys() == original.after_recovery.keys()
    assert row.after_recovery == {}
    assert row.speed is not None
    go(finished.changed(("stages", stages), ("prompts", [])), tmp_path / "run")
    assert "control/recover" not in entries(tmp_path / "run")


def test_layers_that_a_cut_trains_are_told(finished: Finished, tmp_path: Path) -> None:
    cut: dict[str, Any] = {"drop_layers": "1-2", "calibration_tokens": 2_048}
    work: list[float] = []
    for passes in (0, 6):
        stages = [{"name": "depth", "cut": {**cut, "refit_passes": passes}}]
        recipe = finished.changed(("stages", stages), ("prompts", []))
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        plan = plan_run(load_recipe(tmp_path / "r.yaml"), tmp_path / "o", RunOptions(), QUIET)
        (carving,) = (each for each in step_work(plan) if each.step == "depth/carve")
        work.append(carving.amount)
    trained = 6 * 2_048 * 4 * plan.stages["depth"].parameters
    assert work[1] == pytest.approx(work[0] + trained)
    result = go(recipe, tmp_path / "run")
    (stage,) = summarise(result.directory).stages
    carved = entries(tmp_path / "run")["depth/carve"].outputs["refitted"]
    assert stage.layers_trained == sum(each["trained"] for each in carved) > 0
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert f"{stage.layers_trained} layers trained alone" in page


def test_a_refit_that_rounds_differently_on_another_machine_is_recorded_anew(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut is needed again for a changed recovery, and its files are gone."""
    out = finished.copied(tmp_path / "run")
    recorded = entries(out)["depth/carve"]
    assert recorded.outputs["refitted"]

    def rounded(source: Any, made: Path, *args: Any, **more: Any) -> None:
        repeat_cut(source, made, *args, **more)
        flip(made / "model.safetensors")

    monkeypatch.setattr("regrow.pipeline.run.repeat_cut", rounded)
    changed = finished.changed(("stages.depth.recover.tokens", 192))
    go(changed, out, redo=True)
    again = entries(out)
    assert again["depth/carve"].outputs["fingerprint"] == recorded.outputs["fingerprint"]
    assert again["depth/measure-cut"].started > recorded.started
