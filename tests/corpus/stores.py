"""Token stores to read, and tokenizers that differ a little."""

import struct
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from regrow.corpus.encoding import Tokenizer
from regrow.corpus.megatron_format import write_index
from regrow.corpus.token_store import TokenStore

DOCUMENTS = st.lists(st.lists(st.integers(0, 65_535), max_size=9), max_size=9)
FILES = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)


def joined(documents: list[list[int]]) -> list[int]:
    return [token for document in documents for token in document]


def write(stem: Path, documents: list[list[int]], dtype: str = "uint16") -> Path:
    """A store of documents of one sequence each."""
    lengths = stem.with_suffix(".lengths")
    lengths.write_bytes(np.array([len(d) for d in documents], dtype="<i4").tobytes())
    with Path(f"{stem}.idx").open("wb") as file:
        write_index(file, lengths, dtype)
    tokens = np.array(joined(documents), dtype=dtype)
    Path(f"{stem}.bin").write_bytes(tokens.tobytes())
    return stem


def read(store: TokenStore) -> list[list[int]]:
    return [store[number].tolist() for number in range(len(store))]


def megatron(stem: Path, documents: list[list[list[int]]], code: int) -> None:
    """A store as Megatron's `IndexedDatasetBuilder` writes it, documents of sequences."""
    kind, size = {4: ("i", 4), 8: ("H", 2)}[code]
    sequences = [sequence for document in documents for sequence in document]
    tokens = joined(sequences)
    Path(f"{stem}.bin").write_bytes(struct.pack(f"<{len(tokens)}{kind}", *tokens))
    lengths = [len(sequence) for sequence in sequences]
    pointers = [size * sum(lengths[:number]) for number in range(len(lengths))]
    boundaries = [sum(map(len, documents[:number])) for number in range(len(documents) + 1)]
    Path(f"{stem}.idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<Q", 1)
        + struct.pack("<B", code)
        + struct.pack("<QQ", len(lengths), len(boundaries))
        + struct.pack(f"<{len(lengths)}i", *lengths)
        + struct.pack(f"<{len(pointers)}q", *pointers)
        + struct.pack(f"<{len(boundaries)}q", *boundaries)
    )


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    from copy import deepcopy

    return deepcopy(tokenizer)


def with_token(tokenizer: Tokenizer) -> Tokenizer:
    changed = _copy(tokenizer)
    changed.add_tokens(["river"])
    return changed


def lowercasing(tokenizer: Tokenizer) -> Tokenizer:
    from tokenizers import normalizers

    changed = _copy(tokenizer)
    changed.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert changed.get_vocab() == tokenizer.get_vocab()
    return changed
