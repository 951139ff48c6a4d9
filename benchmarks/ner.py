"""Named entities after fine-tuning: F1, and seconds for a sentence, free and constrained.

`--data` is a directory with annotated sets: a file `test.txt` beside a `train.txt`, or `NAME.test`
beside `NAME.train`, at any depth. Files that hold no entities are left out, and named. Each model
is fine-tuned once, on the first sentences of all training files together, or of the files of
`--train-on`, so that the types of the sets are new to it. Then it tags the first
sentences of each test file twice: it writes whole answers, and it chooses tags alone (constrained).
Both ways use the same sentences, batches and model, one after the other. Models are kept in
`--out`, and those that are there are not trained again.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common import Goal, Result, parser, say, show

import regrow
from regrow.common.errors import UserError
from regrow.ner.evaluate import EntityResult
from regrow.ner.reading import read_set


@dataclass(frozen=True)
class Scale:
    """Sentences of each set that are trained on and tagged, and how often they are trained on."""

    train: int
    test: int
    epochs: int


FULL = Scale(1_000, 200, 3)
QUICK = Scale(24, 6, 1)
NOT_SLOWER = Goal("ratio", "<=", 1.0)


@dataclass(frozen=True)
class AnnotatedSet:
    """A set with files to train on and to test on, as `NAME=PATH`."""

    name: str
    train: str
    test: str


def annotated_sets(root: Path, names: Sequence[str]) -> list[AnnotatedSet]:
    """The sets below a directory; only those with these names, if there are any."""
    found = []
    for test in sorted([*root.rglob("test.txt"), *root.rglob("*.test")]):
        is_plain = test.name == "test.txt"
        train = test.with_name("train.txt") if is_plain else test.with_suffix(".train")
        name = test.parent.name if is_plain else test.stem
        if (names and name not in names) or not train.is_file():
            continue
        try:
            for path in (train, test):
                read_set(path)
        except UserError as error:
            say(f"left out: {error}")
            continue
        found.append(AnnotatedSet(name, f"{name}={train}", f"{name}={test}"))
    return found


def measure(
    kind: str, model: Path, train: Sequence[str], sets: Sequence[AnnotatedSet], scale: Scale,
    out: Path,
) -> list[Result]:  # fmt: skip
    """Fine-tune a model on some files, and tag the test files in both ways."""
    tuned = out / kind
    if not (tuned / "config.json").is_file():
        trained = regrow.train_entities(model, tuned, train, epochs=scale.epochs, limit=scale.train)
        say(f"{kind}: {trained.examples:,} examples, {trained.tokens:,} tokens, "
            f"{trained.seconds:,.0f} s, loss {trained.curve[-1][1]:.3f}")  # fmt: skip
    free, constrained = (
        regrow.evaluate_entities(
            tuned, [each.test for each in sets], limit=scale.test, constrained=way
        )
        for way in (False, True)
    )
    return list(results(kind, free, constrained))


def results(kind: str, free: EntityResult, constrained: EntityResult) -> list[Result]:
    """The scores and times of both ways; the free way is the peer."""
    found = []
    for one, other in zip(free.sets, constrained.sets, strict=True):
        name = f"{kind}, {one.name}"
        found += [
            Result(f"{name}: strict F1", 100 * other.f1, "%", "free", 100 * one.f1),
            Result(f"{name}: F1 of the report", 100 * other.report_f1, "%", "free",
                   100 * one.report_f1),
            Result(f"{name}: not aligned", other.unaligned, "entities", "free", one.unaligned),
            Result(f"{name}: time", other.seconds, "s/sentence", "free", one.seconds, NOT_SLOWER),
        ]  # fmt: skip
    found.append(
        Result(f"{kind}: mean strict F1", 100 * constrained.f1, "%", "free", 100 * free.f1)
    )
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="directory of annotated sets")
    arguments.add_argument("--seq2seq", type=Path, help="directory of an encoder-decoder")
    arguments.add_argument("--model", type=Path, help="directory of a decoder")
    arguments.add_argument("--sets", metavar="A,B", default="", help="only these sets")
    arguments.add_argument(
        "--train-on", nargs="+", metavar="FILE", help="annotated text, in place of the sets' own"
    )
    arguments.add_argument("--out", type=Path, metavar="DIR", help="keep the tuned models here")
    arguments.add_argument("--train", type=int, metavar="N", help="sentences of a set to train on")
    arguments.add_argument("--test", type=int, metavar="N", help="sentences of a set to tag")
    arguments.add_argument("--epochs", type=int, metavar="N", help="how often each is trained on")
    given: argparse.Namespace = arguments.parse_args()
    models = {"encoder-decoder": given.seq2seq, "decoder": given.model}
    if not any(models.values()):
        arguments.error("give --seq2seq, --model, or both")
    names = [name for name in given.sets.split(",") if name]
    sets = annotated_sets(given.data, names)
    if not sets:
        arguments.error(f"{given.data}: no set with test.txt and train.txt")
    own = {name: getattr(given, name) for name in ("train", "test", "epochs")}
    scale = replace(
        QUICK if given.quick else FULL, **{name: n for name, n in own.items() if n is not None}
    )
    train = given.train_on or [each.train for each in sets]
    with tempfile.TemporaryDirectory() as place:
        out = given.out or Path(place)
        found = [
            result
            for kind, model in models.items()
            if model is not None
            for result in measure(kind, model, train, sets, scale, out)
        ]
    show(found, as_json=given.json)


if __name__ == "__main__":
    main()
