"""A corpus with planted faults: what `regrow corpus build` finds of them, and takes wrongly.

The documents are those of `--text DIR` (`*.jsonl`, also `.gz`), or else made-up sentences. Each
kind of fault is planted in, or made from, 5% of them, each time of other documents:

- equal: the same text in other case, with other line ends;
- 2%, 5% and 10% edited: so many words, evenly spread, are replaced by other words of the text; in
  Chinese text, so many characters;
- an edited part: the last tenth of the text is replaced by that of another document;
- paragraphs: three lines of another document stand in the middle;
- personal data: made-up e-mail addresses, telephone numbers and identity numbers;
- another language: a text in Russian, Spanish, Japanese or German;
- questions: a question of `--questions FILE` (else made-up ones) stands in the middle.

A kind is found as far as its documents go, its lines stand in one document only, or its data are
gone. Taken wrongly is what goes of the documents in which nothing was planted, and of which no copy
was made. The text has duplicates of its own, so it is built once before, and what stays is used.

The settings are the defaults of near-duplicates, and some others.
"""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import Result, parser, say, show
from edited_text import edited, read_text

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SHARE = 0.05
OTHERS: dict[str, dict[str, float]] = {
    ", threshold 0.7": {"threshold": 0.7},
    ", threshold 0.35": {"threshold": 0.35},
    ", ngram 3": {"ngram": 3},
}
"""Other settings of near-duplicates."""
FOREIGN = (
    "Вчера вечером мы долго гуляли вдоль реки и говорили о книгах, которые читали в детстве. ",  # noqa: RUF001
    "Ayer por la tarde paseamos por la orilla del río y hablamos de los libros de la infancia. ",
    "昨日の夕方、私たちは川のほとりを散歩しながら、子どものころに読んだ本について話しました。",
    "Gestern Abend gingen wir lange am Fluss entlang und sprachen über die Bücher der Kindheit. ",
)  # fmt: skip
NAMES = ("li.wei", "anna.schmidt", "j.smith", "wang.fang", "maria.garcia", "zhang_min")


@dataclass
class Planted:
    """The documents of a corpus with faults.

    Attributes:
        documents: Text and kind of each; the kind of those without a fault is ``""``.
        marks: For documents that stay, what should be gone from their text.
        touched: The numbers of documents of which a copy or a part was taken.
        donors: The documents that the lines in other documents were taken from.
    """

    documents: list[tuple[str, str]] = field(default_factory=list)
    marks: dict[int, list[str]] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    donors: dict[int, int] = field(default_factory=dict)


def plant(texts: Sequence[str], questions: Sequence[str], draw: random.Random) -> Planted:
    """Plant all kinds of faults; copies stand at the end, and other faults in their documents."""
    made = Planted([(text, "") for text in texts])
    free = [*range(len(texts))]
    draw.shuffle(free)
    count = max(2, int(SHARE * len(texts)))

    def some() -> Iterator[int]:
        for _ in range(count):
            made.touched.add(number := free.pop())
            yield number

    copies: dict[str, Callable[[str], str]] = {
        "equal": lambda text: text.upper().replace("\n", " \n"),
        "2% edited": lambda text: edited(text, 50, draw),
        "5% edited": lambda text: edited(text, 20, draw),
        "10% edited": lambda text: edited(text, 10, draw),
        "an edited part": lambda text: text[: int(0.9 * len(text))]
        + (other := draw.choice(texts))[-int(0.1 * len(text)) :] + other[:1],
    }  # fmt: skip
    for kind, change in copies.items():
        made.documents += [(change(texts[number]), kind) for number in [*some()]]
    numbers = [*some()]
    for number in [*some()]:
        donor = numbers.pop()
        lines = [line for line in texts[donor].split("\n") if len(line) >= 60][:3]
        insert(made, number, "paragraphs", lines)
        made.donors[number] = donor
    for number in [*some()]:
        insert(made, number, "personal data", personal(draw))
    for number in [*some()]:
        made.documents[number] = (draw.choice(FOREIGN) * draw.randint(8, 20), "another language")
    for number in [*some()]:
        insert(made, number, "questions", [draw.choice(questions)])
    return made


def insert(made: Planted, number: int, kind: str, lines: list[str]) -> None:
    """Put lines into the middle of a document."""
    own = made.documents[number][0].split("\n")
    middle = len(own) // 2
    made.documents[number] = ("\n".join([*own[:middle], *lines, *own[middle:]]), kind)
    made.marks[number] = [mark for line in lines for mark in marks_of(line, kind)]


def marks_of(line: str, kind: str) -> list[str]:
    return line.split(": ")[1:] if kind == "personal data" else [line]


def personal(draw: random.Random) -> list[str]:
    """Made-up personal data, a line each, after the kind of it."""
    name = draw.choice(NAMES)
    digits = "".join(str(draw.randrange(10)) for _ in range(8))
    born = f"19{draw.randint(50, 99)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"
    body = f"110101{born}{draw.randrange(1000):03}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    check = "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]
    return [
        f"E-mail: {name}@mail-{digits[:3]}.com", f"电话: 138{digits}",
        f"Call: +1 212 555 {digits[:4]}", f"身份证号: {body}{check}",
    ]  # fmt: skip


def build(texts: Sequence[str], place: Path, **changes: Any) -> dict[int, str]:
    """The text of each document that is left, by its number."""
    from regrow.cleaning.build import build as build_corpus
    from regrow.cleaning.config import CorpusConfig

    place.mkdir()
    raw = place / "raw.jsonl"
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    wanted = CorpusConfig.model_validate(
        {"out": place / "out", "sources": [{"name": "s", "path": raw}], **changes}
    )
    found = build_corpus(wanted, workers=1)
    lines = [json.loads(line) for path in found.files for line in path.open(encoding="utf-8")]
    return {int(line["id"].rpartition("#")[2]) - 1: line["text"] for line in lines}


def results_of(made: Planted, left: dict[int, str], name: str) -> list[Result]:
    """The share of each kind that was found, and what was taken wrongly."""
    kinds = dict.fromkeys(kind for _, kind in made.documents if kind)
    results = []
    for kind in kinds:
        numbers = [number for number, (_, each) in enumerate(made.documents) if each == kind]
        marks = [(number, mark) for number in numbers for mark in made.marks.get(number, [])]
        if kind in ("paragraphs", "personal data"):
            if kind == "paragraphs":  # one of the two places keeps it
                gone = sum(
                    (mark in left.get(number, "")) != (mark in left.get(made.donors[number], ""))
                    for number, mark in marks
                )
            else:
                marks = [(number, mark) for number, mark in marks if number in left]
                gone = sum(mark not in left[number] for number, mark in marks)
            results.append(Result(f"{kind}{name}: found", gone / len(marks), "share"))
            lost = sum(number not in left for number in numbers)
            results.append(Result(f"{kind}{name}: whole documents lost", lost, "documents"))
        else:
            gone = sum(number not in left for number in numbers)
            results.append(Result(f"{kind}{name}: found", gone / len(numbers), "share"))
    clean = [
        number for number, (_, kind) in enumerate(made.documents)
        if not kind and number not in made.touched
    ]  # fmt: skip
    lost = sum(number not in left for number in clean)
    size = sum(len(made.documents[number][0]) for number in clean)
    kept = sum(len(left.get(number, "")) for number in clean)
    results.append(Result(f"without a fault{name}: taken", lost, f"of {len(clean):,} documents"))
    results.append(Result(f"without a fault{name}: taken", 1 - kept / size, "share of characters"))
    return results


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--text", type=Path, metavar="DIR", help="of *.jsonl or *.jsonl.gz")
    options.add_argument("--questions", type=Path, metavar="FILE", help=".jsonl, key: query")
    given = options.parse_args()
    draw = random.Random(2)
    if given.questions is None:
        from tests.tiny import sentences

        questions = sentences(50, seed=9)
    else:
        with given.questions.open(encoding="utf-8") as file:
            questions = [json.loads(line)["query"] for line in file]
    place = Path(tempfile.mkdtemp(prefix="regrow-planted-"))
    try:
        steps = ["repair", {"language": {"keep": ["zh", "en"]}}, "privacy"]
        settings: dict[str, Any] = {
            "steps": steps, "duplicates": {"paragraphs": True},
            "contamination": {"against": place / "questions.jsonl"},
        }  # fmt: skip
        lines = [json.dumps({"query": question}) for question in questions]
        (place / "questions.jsonl").write_text("\n".join(lines))
        say("the text without its own duplicates")
        most = 400 if given.quick else 2_500
        texts = read_text(given.text, most)
        if given.text is not None:
            texts = [text for text in texts if 400 <= len(text) <= 20_000][:most]
        left = build(texts, place / "first", **settings)
        texts = [text for text in left.values() if len(text) >= 300]
        made = plant(texts, questions, draw)
        say(f"{len(texts):,} documents, {len(made.documents) - len(texts):,} copies")
        documents = [text for text, _ in made.documents]
        results = results_of(made, build(documents, place / "second", **settings), "")
        for name, near in OTHERS.items():
            say(name[2:])
            changed = {**settings, "duplicates": {"near": near, "paragraphs": True}}
            results += results_of(made, build(documents, place / name[2:], **changed), name)
    finally:
        shutil.rmtree(place)
    show(results, as_json=given.json)


if __name__ == "__main__":
    main()
