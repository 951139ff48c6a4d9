"""Which files of a model directory are copied with a model."""

import os
import pickle
from pathlib import Path

import pytest

from regrow.checkpoint.companions import companion_files, read_companions, write_files
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError

PASSED_ON = (
    "LICENSE", "LICENSE-APACHE-2.0", "LICENSE.md", "NOTICE",
    "additional_chat_templates/rag.jinja", "bpe.codes", "chat_template.jinja",
    "generation_config.json", "regrow_origin.json", "source.spm",
    "special_tokens_map.json", "tekken.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "vocab-src.json",
)  # fmt: skip
LEFT = (
    "README.md", "additional_chat_templates/code.py", "config.json",
    "consolidated.00.pth", "model.safetensors", "modeling_own.py", "pytorch_model.bin",
    "training_args.bin",
    # Names that begin as those of companions do.
    "LICENSE.py", "NOTICE.so", "tokenizer.bin", "tokenizer.pkl", "tokenizer.so",
    "tokenizer_evil.py", "chat_template.py", "regrow_evil.py", "tokenizer.model.py",
)  # fmt: skip


def test_no_code_no_pickle_no_second_weights(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys((*PASSED_ON, *LEFT), b"\nx"))
    (tmp_path / "tokenizer_dir").mkdir()
    found = companion_files(tmp_path)
    assert list(found) == sorted(PASSED_ON)
    assert all(path == tmp_path / name for name, path in found.items())


@pytest.mark.parametrize(
    "data", [pickle.dumps(1), pickle.dumps({"a": 1}, 0), b"\x7fELF\x02", b"PK\x03\x04"]
)
def test_a_model_of_sentencepiece_must_look_like_one(tmp_path: Path, data: bytes) -> None:
    tiktoken = b"IQ== 0\nIg== 1\n"
    pieces = b"\n\x0e\n\x05<unk>"
    files = {"tokenizer.model": tiktoken, "spiece.model": pieces, "source.spm": pieces}
    write_files(tmp_path, files | {"own.model": data, "target.spm": data})
    assert sorted(companion_files(tmp_path)) == sorted(files)


@pytest.mark.parametrize("name", ["NOTICE", "tokenizer_config.json", "1_Pooling/config.json"])
def test_no_link_leads_out(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "m"
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (directory / name).parent.mkdir(parents=True)
    (directory / name).symlink_to(secret)
    with pytest.raises(UserError, match=f"{name}: a link that leads out of the directory"):
        read_companions(directory)


def test_links_inside_and_to_the_blobs_of_the_hub_are_read(tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot, blobs = repository / "snapshots/0123", repository / "blobs"
    for directory in (snapshot, blobs):
        directory.mkdir(parents=True)
    write_files(blobs, {"0": b"of the hub"})
    write_files(snapshot, {"vocab.json": b"{}"})
    (snapshot / "tokenizer.json").symlink_to(Path("../../blobs/0"))
    (snapshot / "vocab.txt").symlink_to("vocab.json")
    (tmp_path / "link").symlink_to(snapshot)
    expected = {"tokenizer.json": b"of the hub", "vocab.json": b"{}", "vocab.txt": b"{}"}
    assert read_companions(snapshot) == read_companions(tmp_path / "link") == expected
    (blobs / "0").unlink()
    (blobs / "0").symlink_to(tmp_path / "link")
    assert "tokenizer.json" not in read_companions(snapshot)  # no file
    (tmp_path / "secret").write_text("secret")
    (blobs / "0").unlink()
    (blobs / "0").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="leads out"):
        read_companions(snapshot)


def test_a_model_in_a_folder_of_a_snapshot_has_the_blobs_of_the_hub(tmp_path: Path) -> None:
    model, blobs = tmp_path / "snapshots/0123/sub/model", tmp_path / "blobs"
    for directory in (model, blobs):
        directory.mkdir(parents=True)
    (blobs / "0").write_bytes(b"of the hub")
    (model / "tokenizer.json").symlink_to(Path("../../../../blobs/0"))
    assert read_companions(model) == {"tokenizer.json": b"of the hub"}


def test_a_config_that_links_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("config.json")
    with pytest.raises(UserError, match=r"config\.json: a link that leads back|no config\.json"):
        open_checkpoint(tmp_path)


def test_a_pipe_is_no_config(tmp_path: Path) -> None:
    """A read would wait without end for somebody to write."""
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json: is not a regular file"):
        open_checkpoint(tmp_path)
