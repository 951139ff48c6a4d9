"""Compressed files with damaged parts: what can be unpacked is, and what cannot is named.

A file of gzip or zstd has one or several parts (members or frames). After a damaged part the next
one is searched by the bytes that it begins with.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from regrow.corpus.text import as_file

_PIECE = 1 << 14
"""Bytes that are unpacked at once; gzip makes 16 MB of them at most, and zstd 512 MB."""
_SMALL_PIECE = 1 << 12
_PROBE = 1 << 16
"""Bytes that must be sound where a part is taken to begin after a damaged one."""
_MOST_TIMES, _FREE = 1_000, 64 << 20
"""A part that unpacks to more than so many times its size, and to more bytes, is a bomb."""


@dataclass(frozen=True)
class Damage:
    """A part of a file that cannot be unpacked.

    Attributes:
        offset: Bytes of unpacked text before it.
        reason: What is wrong, the same words for all files.
        where: The place in the packed file.
    """

    offset: int
    reason: str
    where: str


@dataclass(frozen=True)
class _Packing:
    """A way of packing: its name, the first bytes of a part, its errors, how to unpack a part."""

    name: str
    magic: bytes
    errors: tuple[type[Exception], ...]
    new: Callable[[], Any]
    piece: int


def unpacked(file: BinaryIO, compression: str, note: Callable[[Damage], None]) -> io.BufferedReader:
    """The content of a file; `note` is told of each damage before the bytes after it are read.

    A damaged part ends in a line end, so that it spoils no line of the next part.

    Args:
        file: open for reading, from the beginning.
        compression: ``.gz``, ``.zst`` or ``""``.
        note: takes each damage.
    """
    if not compression:
        return file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)  # type: ignore[arg-type]
    return as_file(_parts(file, _packing(compression), note))


def _packing(compression: str) -> _Packing:
    if compression == ".gz":
        return _Packing(
            "gzip", b"\x1f\x8b\x08", (zlib.error,), lambda: zlib.decompressobj(31), _PIECE
        )
    import zstandard

    made = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    return _Packing(
        "zstd", b"\x28\xb5\x2f\xfd", (zstandard.ZstdError,), made.decompressobj, _SMALL_PIECE
    )


def _parts(file: BinaryIO, packing: _Packing, note: Callable[[Damage], None]) -> Iterator[bytes]:
    made, data, part, begun, before = 0, b"", None, 0, 0
    while True:
        if not data:
            data = file.read(packing.piece)
            if not data:
                break
        if part is None:
            data = data.lstrip(b"\0")  # some tools fill up the last block of a file
            if not data:
                continue
            part, begun, before = packing.new(), file.tell() - len(data), made
        try:
            piece = part.decompress(data)
        except packing.errors:
            note(Damage(made, f"damaged {packing.name}", f"byte {begun:,}"))
            made += 1
            yield b"\n"
            data, part = b"", None
            if not _seek_next_part(file, begun + 1, packing):
                return
            continue
        data = b""
        made += len(piece)
        grown = made - before
        if grown > _FREE and grown > _MOST_TIMES * (file.tell() - begun):
            made += 1 - len(piece)
            note(Damage(made - 1, "unpacks to 1,000 times its size", f"byte {begun:,}"))
            yield b"\n"
            data, part = b"", None
            if not _seek_next_part(file, begun + 1, packing):
                return
            continue
        if piece:
            yield piece
        if part.eof:
            data, part = part.unused_data, None
    if part is not None:
        note(Damage(made, f"incomplete {packing.name}", f"byte {begun:,}"))
        yield b"\n"


def _seek_next_part(file: BinaryIO, start: int, packing: _Packing) -> bool:
    """Go to the next place from `start` on where a sound part begins; False if there is none."""
    file.seek(start)
    rest, at = b"", start
    while data := file.read(1 << 20):
        rest += data
        found = rest.find(packing.magic)
        while found >= 0:
            if _is_sound(file, at + found, packing):
                file.seek(at + found)
                return True
            found = rest.find(packing.magic, found + 1)
        file.seek(at + len(rest))
        keep = len(packing.magic) - 1
        at, rest = at + len(rest) - keep, rest[-keep:]
    return False


def _is_sound(file: BinaryIO, start: int, packing: _Packing) -> bool:
    """Whether a part begins at a place whose first bytes can be unpacked."""
    file.seek(start)
    part, left = packing.new(), _PROBE
    try:
        while left > 0 and not part.eof and (data := file.read(_SMALL_PIECE)):
            part.decompress(data)
            left -= len(data)
    except packing.errors:
        return False
    return True
