"""What is recorded of a model directory: hashes, parameters, sizes."""

import hashlib
from pathlib import Path
from typing import Any

from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.companions import companion_files
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.files import read_json_object


def generation_config(directory: Path) -> dict[str, Any] | None:
    """The contents of generation_config.json, or None where there is none."""
    path = directory / "generation_config.json"
    return read_json_object(path) if path.is_file() else None


def files_sha256(directory: Path) -> str:
    """SHA-256 (hex) over config, tokenizer and the other small files of a model directory."""
    digest = hashlib.sha256()
    small = {"config.json": directory / "config.json", **companion_files(directory)}
    for name, path in small.items():
        data = path.read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def directory_bytes(directory: Path) -> int:
    """Size of all files of a model directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def model_facts(directory: Path) -> dict[str, Any]:
    """Hashes, parameters and size of a model directory, as the ledger records them."""
    checkpoint = open_checkpoint(directory)
    layout = bind_checkpoint(checkpoint)
    return {
        "fingerprint": checkpoint.fingerprint,
        "files": files_sha256(directory),
        "parameters": layout.parameters(),
        "parts": layout.parameters_by_part(),
        "vocabulary": layout.sizes["vocab"],
        "bytes": directory_bytes(directory),
        "directory": str(directory),
    }
