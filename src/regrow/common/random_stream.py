"""Random numbers that are a pure function of (seed, purpose, counter)."""

import hashlib

import numpy as np


def random_stream(seed: int, purpose: str, counter: int) -> np.random.Philox:
    """The generator for a seed, a purpose and a counter.

    Philox is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"):
    the key comes from seed and purpose, and each counter has 2**192 blocks of its own.
    """
    digest = hashlib.sha256(f"{purpose}\0{seed}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, counter], dtype=np.uint64))
