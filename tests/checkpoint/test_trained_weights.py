"""Trained weights are written in the files of the checkpoint before training."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from regrow.architectures.llama import LLAMA
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from tests.tiny import write_tiny


def test_weight_files_of_one_name_in_two_folders_are_refused(tmp_path: Path) -> None:
    """Written to one folder, the second file would replace the first."""
    source = write_tiny(LLAMA, tmp_path / "in")
    state = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    names = sorted(state)
    for folder, part in (("a", names[::2]), ("b", names[1::2])):
        (source / folder).mkdir()
        save_file({name: state[name] for name in part}, source / folder / "w.safetensors")
        weight_map |= dict.fromkeys(part, f"{folder}/w.safetensors")
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    with pytest.raises(UserError, match=r"is '[ab]/w\.safetensors', in a folder; move the file"):
        open_checkpoint(source)
