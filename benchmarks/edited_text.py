"""Documents for the benchmarks of cleaning, and edited copies of them."""

import gzip
import json
import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")


def read_text(directory: Path | None, made_up: int) -> list[str]:
    """The documents of a directory in random order, or else so many made-up ones."""
    if directory is None:
        from tests.tiny import sentences

        texts = sentences(20 * made_up, seed=1)
        return ["\n".join(texts[at : at + 20]) for at in range(0, len(texts), 20)]
    texts = []
    for path in sorted(directory.glob("*.jsonl*")):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["text"] for line in file]
    random.Random(0).shuffle(texts)
    return texts


def edited(text: str, every: int, draw: random.Random) -> str:
    """The text with every so-many-th word, or Chinese character, replaced by another of it."""
    words = list(WORD.finditer(text))
    changed, last = [], 0
    for number in range(draw.randrange(every), len(words), every):
        hit = words[number]
        changed += [text[last : hit.start()], draw.choice(words)[0]]
        last = hit.end()
    return "".join([*changed, text[last:]])
