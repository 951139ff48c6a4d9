"""A model directory on disk, whose parts are read once."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.architectures import Layout
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.companions import CARD_FILE, HISTORY_FILE, companion_files
from regrow.checkpoint.config_only import bind_config, is_config_only, stored_dtype
from regrow.checkpoint.reader import CONFIG_FILE, INDEX_FILE, Checkpoint, open_checkpoint
from regrow.common.files import read_json_object
from regrow.models.loading import load_config, load_meta_model, load_model, load_tokenizer

if TYPE_CHECKING:
    import torch


_SMALL = (CONFIG_FILE, INDEX_FILE, CARD_FILE, HISTORY_FILE, "*.py")
"""Files of a model beside its weights and its companions."""


@dataclass(frozen=True)
class ModelDirectory:
    """A local model directory. Each part is read on first access and kept.

    The files must not change while the object is in use: after writing a directory anew, make a new
    `ModelDirectory`. Every attribute raises UserError if the directory does not hold that part.
    """

    path: Path

    def __reduce__(self) -> tuple[type["ModelDirectory"], tuple[Path]]:
        """Pickle only the path, so that another process reads the parts itself."""
        return ModelDirectory, (self.path,)

    @cached_property
    def is_config_only(self) -> bool:
        """Whether the directory holds a config.json and no weight files."""
        return is_config_only(self.path)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Config, index and headers of the weight files."""
        return open_checkpoint(self.path)

    @cached_property
    def layout(self) -> Layout:
        """The layout of the checkpoint, or of the config if there are no weights."""
        return bind_config(self.path) if self.is_config_only else bind_checkpoint(self.checkpoint)

    @cached_property
    def config(self) -> Any:
        """The config object of transformers."""
        return load_config(self.path)

    @cached_property
    def generation_config(self) -> dict[str, Any] | None:
        """The contents of generation_config.json; None if there is no such file."""
        path = self.path / "generation_config.json"
        return read_json_object(path) if path.is_file() else None

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer object of transformers. It is shared: change only a copy."""
        return load_tokenizer(self.path)

    def load(self, *, dtype: "torch.dtype | str" = "float32") -> Any:
        """Load the model with its weights, anew at each call; see `load_model`."""
        return load_model(self.path, dtype=dtype)

    @cached_property
    def network(self) -> Any:
        """The model without weights: all tensors are on the meta device, in float32."""
        import torch

        return load_meta_model(self.path, dtype=torch.float32)

    @cached_property
    def files_sha256(self) -> str:
        """SHA-256 (hex) of config, tokenizer and the other small files."""
        digest = hashlib.sha256()
        small = {"config.json": self.path / "config.json", **companion_files(self.path)}
        for name, path in small.items():
            data = path.read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()

    @cached_property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes of all weights by dtype (`BF16`).

        If there is only a config, the bytes that a checkpoint of it would have.
        """
        if self.is_config_only:
            name, item_bytes = stored_dtype(self.layout)
            return {name: sum(prod(t.shape) for t in self.layout.tensors.values()) * item_bytes}
        found: dict[str, int] = {}
        for info in self.checkpoint.tensors.values():
            found[info.dtype] = found.get(info.dtype, 0) + info.nbytes
        return found

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.bytes_by_type.values())

    def facts(self) -> dict[str, Any]:
        """Hashes, number of parameters and sizes in bytes, as the ledger records them.

        The bytes on disk are of the files that are read, and of regrow's own, and not of other
        forms of the weights that lie beside them.
        """
        files = {path for name in _SMALL for path in self.path.glob(name)}
        files |= {*self.checkpoint.files, *companion_files(self.path).values()}
        return {
            "fingerprint": self.checkpoint.fingerprint,
            "files": self.files_sha256,
            "parameters": self.layout.parameters(),
            "parts": self.layout.parameters_by_part(),
            "vocabulary": self.layout.sizes["vocab"],
            "bytes": sum(path.stat().st_size for path in files),
            "is_encoder_decoder": bool(self.config.is_encoder_decoder),
            "own_code": "auto_map" in self.checkpoint.config,
            "directory": str(self.path),
        }
