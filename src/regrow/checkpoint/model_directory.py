"""A model on disk, as it goes from step to step."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.architectures import Layout
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.companions import companion_files
from regrow.checkpoint.config_only import bind_config, is_config_only, stored_type
from regrow.checkpoint.reader import Checkpoint, open_checkpoint
from regrow.common.files import read_json_object
from regrow.models.loading import load_config, load_model, load_tokenizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelDirectory:
    """A local model directory, of which each part is read once, when it is first asked for.

    What is read must not change while the object lives: a step that writes a directory anew makes
    a new `ModelDirectory`. Every attribute raises UserError where the directory does not hold what
    is asked for.
    """

    path: Path

    def __reduce__(self) -> tuple[type["ModelDirectory"], tuple[Path]]:
        """Another process reads for itself what it needs."""
        return ModelDirectory, (self.path,)

    @cached_property
    def is_config_only(self) -> bool:
        """Whether there is a config.json, and nothing that looks like weights."""
        return is_config_only(self.path)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Config, index and headers of the weights."""
        return open_checkpoint(self.path)

    @cached_property
    def layout(self) -> Layout:
        """What the blueprint says of the checkpoint, or of the config where there is no more."""
        return bind_config(self.path) if self.is_config_only else bind_checkpoint(self.checkpoint)

    @cached_property
    def config(self) -> Any:
        """The config as transformers has it."""
        return load_config(self.path)

    @cached_property
    def generation_config(self) -> dict[str, Any] | None:
        """The contents of generation_config.json; None where there is none."""
        path = self.path / "generation_config.json"
        return read_json_object(path) if path.is_file() else None

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer as transformers has it; whoever changes it works on a copy."""
        return load_tokenizer(self.path)

    def load(self, *, dtype: "torch.dtype | str" = "float32") -> Any:
        """The model with its weights, a new one at each call; see `load_model`."""
        return load_model(self.path, dtype=dtype)

    @cached_property
    def files_sha256(self) -> str:
        """SHA-256 (hex) over config, tokenizer and the other small files."""
        digest = hashlib.sha256()
        small = {"config.json": self.path / "config.json", **companion_files(self.path)}
        for name, path in small.items():
            data = path.read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()

    @cached_property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes of all weights by their type (`BF16`); from a config alone, as they would be."""
        if self.is_config_only:
            name, width = stored_type(self.layout)
            return {name: sum(prod(t.shape) for t in self.layout.tensors.values()) * width}
        found: dict[str, int] = {}
        for info in self.checkpoint.tensors.values():
            found[info.dtype] = found.get(info.dtype, 0) + info.nbytes
        return found

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in the file."""
        return sum(self.bytes_by_type.values())

    def facts(self) -> dict[str, Any]:
        """Hashes, parameters and sizes, as the ledger records them."""
        files = [path for path in self.path.rglob("*") if path.is_file()]
        return {
            "fingerprint": self.checkpoint.fingerprint,
            "files": self.files_sha256,
            "parameters": self.layout.parameters(),
            "parts": self.layout.parameters_by_part(),
            "vocabulary": self.layout.sizes["vocab"],
            "bytes": sum(path.stat().st_size for path in files),
            "directory": str(self.path),
        }
