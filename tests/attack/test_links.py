"""Weights may be links to any place: of the file there, only tensors are passed on."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import regrow
from regrow.checkpoint.config_only import bind_config
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from regrow.surgery.extend import add_tokens
from tests.tiny import write_model

SECRET = "a secret of another place"


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A model whose weights are a link out of its directory; the file there holds more."""
    model = write_model(tmp_path / "m")
    weights = model / "model.safetensors"
    elsewhere = tmp_path / "elsewhere.safetensors"
    save_file(load_file(weights), elsewhere, metadata={"format": "pt", "note": SECRET})
    weights.unlink()
    weights.symlink_to(elsewhere)
    return model


def test_only_tensors_are_passed_on(linked: Path, tmp_path: Path) -> None:
    assert SECRET.encode() in (linked / "model.safetensors").read_bytes()
    regrow.prune(linked, tmp_path / "pruned", layers=3, by="random")
    add_tokens(ModelDirectory(linked), tmp_path / "extended", ["<new>"])
    for out in (tmp_path / "pruned", tmp_path / "extended"):
        files = [path for path in out.rglob("*") if path.is_file()]
        assert len(files) >= 3
        assert not any(path.is_symlink() for path in files)
        assert not any(SECRET.encode() in path.read_bytes() for path in files)
        open_checkpoint(out)


def test_another_file_is_no_weights_and_nothing_of_it_is_shown(
    linked: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET * 100)
    (linked / "model.safetensors").unlink()
    (linked / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="truncated or not safetensors") as caught:
        open_checkpoint(linked)
    assert SECRET not in str(caught.value)


def test_a_config_may_not_lie_elsewhere(linked: Path, tmp_path: Path) -> None:
    """It is passed on with all of its keys."""
    config = linked / "config.json"
    config.rename(tmp_path / "config.json")
    config.symlink_to(tmp_path / "config.json")
    refused = r"config\.json: a link that leads out of the directory"
    with pytest.raises(UserError, match=refused):
        open_checkpoint(linked)
    (linked / "model.safetensors").unlink()  # random weights are made from a config alone
    with pytest.raises(UserError, match=refused):
        bind_config(linked)
