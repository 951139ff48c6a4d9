"""The token store of datatrove: ``.ds``, ``.ds.index`` and ``.ds.metadata``.

The ``.ds`` holds the tokens of all documents, one after the other, uint16 or uint32. The index
holds where each document ends (uint64, in tokens). The metadata has two lines: the name of the
tokenizer, a bar and the bytes of a token; then the number of tokens.
"""

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regrow.common.errors import UserError
from regrow.corpus.mapped_files import Offsets, StoreFiles, corrupt, map_file, map_tokens


@dataclass(frozen=True, eq=False)
class DatatroveIndex:
    """Where documents begin.

    Attributes:
        ends: Where each document ends, in tokens, [documents].
    """

    ends: Offsets

    def __len__(self) -> int:
        return len(self.ends)

    def bounds(self, first: int, last: int) -> Offsets:
        if first == 0:
            return np.concatenate([np.zeros(1, np.int64), self.ends[:last]])
        return np.array(self.ends[first - 1 : last])

    def starts_of(self, numbers: Offsets) -> Offsets:
        if len(self.ends) == 0:
            return np.zeros_like(numbers)
        return np.where(numbers > 0, self.ends[numbers - 1], 0)

    def before(self, token: int) -> int:
        if token <= 0 or len(self.ends) == 0:
            return 0
        return 1 + bisect_left(self.ends, token, hi=len(self) - 1)


def open_datatrove(path: Path) -> StoreFiles:
    """Open a ``.ds`` file. Raises UserError if there is no such store, or it is not complete."""
    index, notes = Path(f"{path}.index"), Path(f"{path}.metadata")
    raw = map_file(index)
    if len(raw) % 8:
        raise corrupt(index, f"{len(raw):,} bytes are no whole number of entries")
    ends: Offsets = np.frombuffer(raw, "<i8")
    total = int(ends[-1]) if len(ends) else 0
    if not notes.is_file():
        raise UserError(f"{notes}: no such file; it says how many bytes a token takes")
    lines = notes.read_text(encoding="utf-8", errors="replace").splitlines()
    # Older versions write the name alone; their tokens have two bytes.
    size = lines[0].rpartition("|")[2] if lines and "|" in lines[0] else "2"
    if size not in ("2", "4") or len(lines) < 2 or lines[1] != str(total):
        raise corrupt(notes, f"it should say 'tokenizer|2' or '|4', then {total}, as the index")
    tokens = map_tokens(path, "uint16" if size == "2" else "int32")
    if len(tokens) != total:
        raise corrupt(path, f"{len(tokens):,} tokens, where the index has {total:,}")
    return StoreFiles(path, tokens, DatatroveIndex(ends), {})
