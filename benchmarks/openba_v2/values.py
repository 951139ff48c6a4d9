"""The measured values, in a JSON file: for each part and model, what was found, when and where."""

import datetime
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common import say

from regrow.common.environment import machine
from regrow.common.files import json_bytes, write_atomically

Values = dict[str, dict[str, dict[str, Any]]]
"""By part and model: `date`, `machine`, `seconds`, `settings`, and the part's own `values`."""


def read_values(path: Path) -> Values:
    """The values measured so far; none if the file does not exist."""
    if not path.is_file():
        return {}
    found: Values = json.loads(path.read_text(encoding="utf-8"))
    return found


def measure(
    path: Path,
    part: str,
    model: str,
    settings: Mapping[str, Any],
    work: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
    """Measure one part for one model, and write what was found at once."""
    say(f"{part}, {model}")
    began = time.perf_counter()
    found = dict(work())
    facts = machine()
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{facts['cpu']}, threads: {facts['threads']}, {facts['products']}",
        "seconds": round(time.perf_counter() - began),
        "settings": dict(settings),
        "values": found,
    }
    values = read_values(path)
    values.setdefault(part, {})[model] = record
    write_atomically(path, json_bytes(values, 1))
    return record
