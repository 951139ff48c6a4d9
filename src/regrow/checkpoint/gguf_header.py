"""Check the header of a GGUF file before a library reads it.

The reader of the gguf package takes every length in the file as true. A length of 2^62 keeps it
busy for years. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

from regrow.common.errors import UserError

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by the number of its type."""
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_MAX_LAYERS = 10_000
_TEXT = (
    "general.architecture", "general.type", "tokenizer.ggml.pre", "tokenizer.ggml.model",
    "tokenizer.chat_template", "{}.rope.scaling.type",
)  # fmt: skip
_WHOLE = (
    "split.count", "{}.block_count", "{}.embedding_length", "{}.rope.dimension_count",
)  # fmt: skip
_NUMBERS = ("{}.rope.scaling.factor", "{}.rope.scale_linear", "{}.rope.freq_base")


class _Header:
    """Reads the header from its beginning on. Raises ValueError where the file ends too early."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._order = file, size, "<"

    def check(self) -> None:
        self._skip(4)
        version = self._number("I")
        if version & 0xFFFF == 0:  # written on a machine of the other byte order
            self._order = ">"
        tensors, keys = self._number("Q"), self._number("Q")
        for _ in range(keys):
            self._skip(self._number("Q"))
            self._skip_value(self._number("I"))
        for _ in range(tensors):
            self._skip(self._number("Q"))
            dimensions = self._number("I")
            if not 1 <= dimensions <= _MAX_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            self._skip(8 * dimensions + 4 + 8)  # the sizes, the type and the offset

    def _number(self, kind: str) -> int:
        raw = self._file.read(struct.calcsize(kind))
        return int(struct.unpack(self._order + kind, raw)[0])

    def _skip(self, count: int) -> None:
        place = self._file.tell() + count
        if place > self._size:
            raise ValueError("a length beyond the end of the file")
        self._file.seek(place)

    def _skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self._skip(self._number("Q"))
        elif kind == _ARRAY:
            inner, count = self._number("I"), self._number("Q")
            if inner == _STRING:
                for _ in range(count):
                    self._skip(self._number("Q"))
            else:
                self._skip(_SCALAR_BYTES[inner] * count)
        else:
            self._skip(_SCALAR_BYTES[kind])


def check_header(gguf: Path) -> None:
    """Raise UserError if a GGUF file is truncated, or a length in its header leads out of it."""
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{gguf}: is not a GGUF file (it does not begin with 'GGUF')")
        file.seek(0)
        try:
            _Header(file, gguf.stat().st_size).check()
        except (ValueError, KeyError, OverflowError, struct.error) as error:
            raise UserError(f"{gguf}: truncated or corrupt GGUF file; fetch it again") from error


def check_types(gguf: Path, metadata: dict[str, Any]) -> None:
    """Raise UserError if a value of the metadata that is read here has another type or size."""
    architecture = metadata.get("general.architecture")
    for keys, types, wanted in (
        (_TEXT, (str,), "text"),
        (_WHOLE, (int,), "a whole number"),
        (_NUMBERS, (int, float), "a number"),
    ):
        for key in (key.format(architecture) for key in keys):
            if key in metadata and type(metadata[key]) not in types:
                raise UserError(f"{gguf}: {key} is {metadata[key]!r:.60}; {wanted} is wanted")
    layers = metadata.get(f"{architecture}.block_count", 0)
    if not 0 <= layers <= _MAX_LAYERS:
        raise UserError(
            f"{gguf}: {architecture}.block_count is {layers}; a number of layers is wanted"
        )
