"""A run puts its scores into the cards of its stages."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

import regrow
from regrow.common.errors import UserError
from regrow.pipeline.cards import scores_of
from regrow.pipeline.ledger import Entry, Ledger, read_entries
from tests.tiny import sentences, write_model, write_text

STAGES = [
    {"name": "depth", "cut": {"layers": 3, "calibration_tokens": 256},
     "recover": {"tokens": 128, "row_length": 64, "batch_tokens": 64, "track": []}},
    {"name": "width", "cut": {"ffn": 24, "calibration_tokens": 256}},
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "m", num_hidden_layers=4)
    write_text(home / "train.jsonl", sentences(60))
    for name in ("domain", "other"):
        write_text(home / f"{name}.jsonl", sentences(3, seed=len(name)))
    heldout = {name: str(home / f"{name}.jsonl") for name in ("domain", "other")}
    recipe = {
        "name": "tiny", "model": str(home / "m"), "threads": 1, "stages": STAGES,
        "data": {"train": str(home / "train.jsonl"), "heldout": heldout},
    }  # fmt: skip
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    regrow.run(home / "recipe.yaml", home / "run")
    return home


def entries_in(out: Path) -> dict[str, Any]:
    return dict(read_entries(out / "ledger.jsonl"))


def entries(home: Path) -> dict[str, Any]:
    return entries_in(home / "run")


def test_the_card_of_a_stage_has_all_steps_and_the_scores_of_the_ledger(home: Path) -> None:
    done = entries(home)
    for stage, kinds, measured in (
        (
            "depth",
            ["Cut:", "Training:"],
            ("original/measure", "depth/measure-cut", "depth/measure"),
        ),
        ("width", ["Cut:", "Training:", "Cut:"], ("original/measure", "width/measure-cut")),
    ):
        card = ModelCard((home / "run/stages" / stage / "model/README.md").read_text())
        steps = [line for line in card.text.splitlines() if line[:2] in ("1.", "2.", "3.", "4.")]
        assert [step.split()[1] for step in steps] == kinds
        assert "128 tokens, objective causal; text: train" in steps[1]
        for text in ("domain", "other"):
            found = [done[step].outputs["heldout"][text]["bits_per_byte"] for step in measured]
            assert f"| {text} | {' | '.join(f'{value:.3f}' for value in found)} |" in card.text
        assert str(home) not in str(card)


def test_a_card_that_a_user_has_changed_stays_and_a_missing_score_is_added(
    home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(home / "run", out, symlinks=True)
    mine, unscored = (out / "stages" / stage / "model/README.md" for stage in ("depth", "width"))
    scored = unscored.read_text()
    begin, end = scored.index("## Measured"), scored.index("## Load it")
    mine.write_text("# My own words")
    unscored.write_text(scored[:begin] + scored[end:])  # as a kill after the measurement leaves it
    regrow.run(home / "recipe.yaml", out)
    assert mine.read_text() == "# My own words"
    assert unscored.read_text() == scored


def test_a_card_has_new_scores_before_the_ledger_has_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a kill between the two leaves no card with scores of an earlier measurement."""
    out = tmp_path / "run"
    shutil.copytree(home / "run", out, symlinks=True)
    recipe = yaml.safe_load((home / "recipe.yaml").read_text())
    write_text(tmp_path / "domain.jsonl", sentences(4, seed=77))
    recipe["data"]["heldout"]["domain"] = str(tmp_path / "domain.jsonl")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    card = out / "stages/depth/model/README.md"
    old = card.read_bytes()
    record = Ledger.record

    def killed(self: Ledger, entry: Entry) -> None:
        if entry.step == "depth/measure":
            raise KeyboardInterrupt
        record(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            regrow.run(tmp_path / "recipe.yaml", out, redo=True)
    new = card.read_bytes()
    assert new != old
    regrow.run(tmp_path / "recipe.yaml", out)
    assert card.read_bytes() == new
    for stage in ("depth", "width"):
        found = entries_in(out)[f"{stage}/measure-cut"].outputs["heldout"]["domain"]
        written = (out / "stages" / stage / "model/README.md").read_text()
        assert f"{found['bits_per_byte']:.3f}" in written


def test_a_damaged_card_of_the_original_is_refused_before_any_step(
    home: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(home / "m", tmp_path / "m"))
    (model / "README.md").write_text("---\nlicense: [mit\n---\n")
    recipe = yaml.safe_load((home / "recipe.yaml").read_text())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "model": str(model)}))
    with pytest.raises(UserError, match=r"README\.md"):
        regrow.run(tmp_path / "recipe.yaml", tmp_path / "run")
    assert not (tmp_path / "run/ledger.jsonl").exists()
    with pytest.raises(UserError, match=r"README\.md"):
        regrow.prune(model, tmp_path / "out", layers=3, dry_run=True)


def test_scores_are_bits_per_byte_where_all_texts_have_them(home: Path) -> None:
    done = {name: entry.outputs for name, entry in entries(home).items()}
    found = scores_of(done, "depth")
    assert found is not None
    assert found.unit == "bits per byte"
    assert [each.text for each in found.texts] == ["domain", "other"]
    measured = [done[f"{stage}/measure"]["heldout"] for stage in ("original", "depth")]
    for predicts, unit in (
        ("answers", "bits per byte; of conversations, of the answers alone"),
        ("what is taken out", "bits per byte of the 64 characters after 192"),
    ):
        for heldout in measured:
            heldout["other"]["predicts"] = predicts
        found = scores_of(done, "depth")
        assert found is not None
        assert found.unit == unit
    losses = done["original/measure"]["heldout"]
    losses["other"]["bits_per_byte"] = None
    found = scores_of(done, "depth")
    assert found is not None
    assert found.unit.startswith("nats per token")
    assert found.texts[0].original == pytest.approx(losses["domain"]["loss_per_token"])
    assert scores_of({}, "depth") is None
