"""The text of a file of annotated sentences, which may be packed."""

from pathlib import Path

from regrow.common.errors import UserError
from regrow.corpus.text import compression_of, uncompressed


def read_packed(path: Path) -> str:
    """The text of a file in UTF-8, without a byte order mark; gzip and Zstandard are unpacked.

    Raises UserError if the file cannot be read or unpacked, or is not UTF-8.
    """
    with uncompressed(path, compression_of(path)) as file:
        raw = file.read()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
