"""Kept tokens as a file: a token in each line, with its old id, text, count and reason."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

Line = tuple[int, str | None, int | None, str | None]
"""Old id, text as the vocabulary writes it, count, reason; None if it is not known."""


def listing(facts: Mapping[str, Any], tokens: Iterable[Line]) -> bytes:
    """A JSON file with the facts, and then ``tokens``, one a line."""
    lines = [json.dumps(token, ensure_ascii=False) for token in tokens]
    head = json.dumps(facts, ensure_ascii=False, indent=1).removesuffix("\n}")
    text = head + ',\n "tokens": [\n' + ",\n".join(lines) + "\n ]\n}\n"
    return text.encode("utf-8", "surrogatepass")
