"""How the time of each cleaning step grows with the length of a text.

    python benchmarks/cleaning_steps.py [--text FILE.jsonl ...]

Texts of one repeated pattern are given to each step, among them such as make regular expressions
with nested repeats slow: long runs of digits, of brackets, of `@` and dots. Each text is given in
two sizes, one four times the other. The value is the largest ratio of the two times among all
patterns; for a step whose time grows with the length it is about 4, and for one whose time grows
with its square it is about 16. With --text, the speed of each step on
documents of these files (.jsonl or .jsonl.gz) is measured too.
"""

import argparse
import gzip
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import Goal, Result, parser, say, show

from regrow.cleaning.document import Document
from regrow.cleaning.steps import STEPS, CleaningStep

PATTERNS: Mapping[str, str] = {
    "letters": "a", "words": "word ", "lines": "one two three\n", "digits": "1", "1 2 ": "1 2 ",
    "12-34-": "12-34-", "card": "4111 ", "mobile": "13800138000", "mobiles": "13800138000 ",
    "+": "+", "+1": "+1 ", "00": "0 0 ", "(": "(", ")": ")", "[": "[", "<": "<", "</p>": "<p></p>",
    "<p ": "<p a=", "<!--": "<!--", "@": "@", "a@": "a@", "a.": "a.", "a@a.": "a@a.", "-": "-",
    ".": ".", "://": "http://", "http://(": "http://((((", ":": ":", "a:": "a:", "f:": "ff:",
    "1.": "1.", "192.": "192.168.", "QQ": "QQ:", "QQ ": "QQ 微信 ", "wechat": "微信",
    "passport": "护照 ", "id": "身份证", "id digits": "110101190001010014", "blank": "\n",
    "blanks": " \n", "space": " ", "tab": "\t", "fence": "```\n", "~~~": "~~~", "=": "=",
    "a =": "a = ", "{": "{", "code": "x = f(y);\n", "hash": "#", "dots": "…", "full stops": "。",
    "ends": "!?", "quotes": "”", "A.": "A. ", "han": "汉", "han.": "汉字。", "han a": "哈a",
    "abab": "ab", "aab": "aab", "mojibake": "Ã©", "Ã": "Ã ", "surrogate": "\ud800", "nul": "\x00",
    "escape": "\x1b[", "backspace": "a\x08", "joiner": "\u200d", "combining": "a\u0301",
    "combining only": "\u0301", "emoji": "👨\u200d", "tags": "\U000e0067", "import": "import a, ",
    "def": "def f", "return": "return a ", "if": "if a: ", "$ ": "$ a", "at": "a[at]",
    "statements": "a = " * 480 + "\n", "static": "static " + "a" * 1_900 + "\n",
    "calls": "f(" * 900 + "\n", "ifs": "if " + "= " * 900 + "\n", "</": "<a " + "b" * 1_900 + "\n",
    "www": "www.a", "com/": "a.com/", "extension": "010-60000001转",
    "<div>": "<div>", "<div><p>": "<div><p>a</p>",
}  # fmt: skip
SHORTEST_TIME = 0.005
"""Seconds; the ratio of shorter times says nothing."""
_SHORT = 0.1


def growth(step: CleaningStep, pattern: str, size: int) -> float:
    """The time for a text of four times the size, as a ratio."""
    small, large = (_seconds(step, (pattern * n)[:n]) for n in (size, 4 * size))
    return large / max(small, SHORTEST_TIME)


def _seconds(step: CleaningStep, text: str) -> float:
    """The time of the process, the lesser of two where it is short."""
    times = []
    for _ in range(2):
        began = time.process_time()
        step.apply(Document(text, "id", "source"))
        times.append(time.process_time() - began)
        if times[-1] > _SHORT:
            break
    return min(times)


def _read(path: Path) -> list[str]:
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).split(b"\n")
    return [str(json.loads(line)["text"]) for line in lines if line.strip()]


def _speed(step: CleaningStep, texts: Sequence[str]) -> float:
    began = time.process_time()
    for text in texts:
        step.apply(Document(text, "id", "source"))
    return sum(map(len, texts)) / (time.process_time() - began) / 1e6


def _results(options: argparse.Namespace) -> list[Result]:
    size = 16_000 if options.quick else 64_000
    results = []
    for name, kind in STEPS.items():
        step = kind.model_validate({})
        step.apply(Document("Some text, so that packages are loaded: 010-60000001. é", "", ""))
        found = {text: growth(step, pattern, size) for text, pattern in PATTERNS.items()}
        worst = max(found, key=lambda text: found[text])
        above = [f"{text} {ratio:.1f}" for text, ratio in found.items() if ratio > 6]
        say(f"{name}: {', '.join(above) or 'nothing above 6'}")
        label = f"{name}: growth, worst for {worst}"
        results.append(Result(label, found[worst], "times", goal=Goal("value", "<=", 8)))
        results += [
            Result(f"{name}: {path.name}", _speed(step, _read(path)), "M characters/s")
            for path in options.text
        ]
    return results


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--text", type=Path, nargs="*", default=[], help="JSONL files")
    chosen = made.parse_args()
    show(_results(chosen), as_json=chosen.json)
