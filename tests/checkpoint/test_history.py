"""Each writer of a model adds its step to the history, and the card comes with it."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import regrow
from regrow.checkpoint.history import read_history, with_names
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.pipeline.from_scratch import with_random_weights
from regrow.surgery.extend import add_merged_tokens, add_tokens
from tests.tiny import sentences, write_model, write_text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    base = home / "models--owner--tiny" / "snapshots" / ("b" * 40)
    base.parent.mkdir(parents=True)
    write_model(base)
    metadata = "---\nlicense: mit\nbase_model: other/older\n---\n# I am the base\n"
    (base / "README.md").write_text(metadata)
    (base / "LICENSE").write_text("free")
    write_text(home / "secret-place.jsonl", sentences(60))
    regrow.prune(base, home / "once", drop_layers="0", by="random")
    return home


def base_of(home: Path) -> Path:
    return home / "models--owner--tiny" / "snapshots" / ("b" * 40)


def test_a_chain_of_cuts_names_the_first_original_and_all_steps(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "once", tmp_path / "moved")
    text = home / "secret-place.jsonl"
    regrow.prune(
        tmp_path / "moved", tmp_path / "twice", ffn=24, vocab_size=300, calibration=text,
        calibration_tokens=256,
    )  # fmt: skip
    history = read_history(tmp_path / "twice/regrow_history.json")
    assert (history.base.hub_id, history.base.name) == ("owner/tiny", "tiny")
    assert [step.words for step in history.steps] == [
        "4 -> 3 layers (without 0)",
        "ffn 48 -> 24, vocabulary 320 -> 300; refitted on 256 tokens of text",
    ]
    assert history.steps[0].settings == {"cut": {"drop_layers": "0", "by": "random"}}
    assert history.base.parameters == regrow.inspect(base_of(home)).parameters
    assert history.parameters == regrow.inspect(tmp_path / "twice").parameters
    assert history.sizes["vocab"] == 300


def test_the_card_of_the_base_is_replaced_and_its_licence_carried_over(home: Path) -> None:
    card = ModelCard((home / "once/README.md").read_text())
    assert card.data.get("base_model") == "owner/tiny"
    assert card.data.get("license") == "mit"
    assert "I am the base" not in card.text
    assert "https://huggingface.co/owner/tiny" in card.text
    assert (home / "once/LICENSE").read_text() == "free"


def test_no_path_is_in_card_and_history(home: Path, tmp_path: Path) -> None:
    regrow.score(base_of(home), tmp_path / "scores.json", by="magnitude", axes=["ffn"])
    regrow.prune(base_of(home), tmp_path / "out", ffn=24, scores=tmp_path / "scores.json")
    for name in ("README.md", "regrow_history.json"):
        text = (tmp_path / "out" / name).read_text()
        assert "scores.json" in text
        assert str(tmp_path) not in text
        assert str(home) not in text


def test_neither_file_decides_the_hash_of_a_model(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "once", tmp_path / "m")
    before = ModelDirectory(tmp_path / "m").files_sha256
    (tmp_path / "m/README.md").unlink()
    (tmp_path / "m/regrow_history.json").unlink()
    assert ModelDirectory(tmp_path / "m").files_sha256 == before


def test_added_tokens_are_steps(home: Path, tmp_path: Path) -> None:
    add_tokens(ModelDirectory(home / "once"), tmp_path / "a", ["<S>", "<X>"])
    add_merged_tokens(ModelDirectory(tmp_path / "a"), tmp_path / "b", [("Ġ", "1"), ("1", "2")])
    history = read_history(tmp_path / "b/regrow_history.json")
    assert [(step.kind, step.sizes["vocab"]) for step in history.steps] == [
        ("cut", 320), ("tokens", 322), ("tokens", 324),
    ]  # fmt: skip
    assert history.parameters == ModelDirectory(tmp_path / "b").layout.parameters()
    card = (tmp_path / "b/README.md").read_text()
    assert r"2 special tokens added, \<S> to \<X>" in card
    assert "2 tokens added for frequent words" in card


def test_random_weights_begin_a_new_history(home: Path, tmp_path: Path) -> None:
    model = with_random_weights(ModelDirectory(home / "once"), tmp_path, seed=1)
    history = read_history(model.path / "regrow_history.json")
    assert history.base.random_weights
    assert not history.steps
    assert history.base.sizes["layer"] == 3
    assert ModelCard((model.path / "README.md").read_text()).data.get("base_model") is None


def test_paths_become_names() -> None:
    given = {"a": Path("/x/y.jsonl"), "b": [Path("z")], "c": {"d": (1, "e")}, "f": len}
    assert with_names(given) == {"a": "y.jsonl", "b": ["z"], "c": {"d": [1, "e"]}, "f": "len"}


@pytest.mark.parametrize("recover", [None, 3, "x", []])
def test_a_history_with_settings_of_another_form_is_refused(
    home: Path, tmp_path: Path, recover: object
) -> None:
    """The card of a training would fail at it, after the work."""
    history = json.loads((home / "once/regrow_history.json").read_text())
    history["steps"][0]["settings"] = {"recover": recover}
    path = tmp_path / "regrow_history.json"
    path.write_text(json.dumps(history))
    with pytest.raises(UserError, match="not the history of a model"):
        read_history(path)


@pytest.mark.parametrize("revision", ["<b>x</b>", "](x)", "main", "b" * 39, "b" * 40 + "\n"])
def test_a_history_with_another_revision_than_a_commit_is_refused(
    home: Path, tmp_path: Path, revision: str
) -> None:
    """It stands in the card."""
    history = json.loads((home / "once/regrow_history.json").read_text())
    assert history["base"]["revision"] == "b" * 40
    history["base"]["revision"] = revision
    path = tmp_path / "regrow_history.json"
    path.write_text(json.dumps(history))
    with pytest.raises(UserError, match="not the history of a model"):
        read_history(path)
