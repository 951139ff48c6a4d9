"""Build instructions from many sources, in two passes over their files.

The first pass reads all samples and keeps some bytes of each: its draw, source and task. Then it is
known what is there, what stands twice, and what is wanted. The second pass makes instructions of
what is wanted and measures them. What does not fit is dropped, and others take its place, in
further passes over the files; without caps and rates there are none.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.files import json_bytes
from regrow.common.outputs import check_new_directory
from regrow.common.progress import QUIET, Progress
from regrow.common.publishing import publish, workplace
from regrow.instructions.card import data_card
from regrow.instructions.config import Instructions, files_of
from regrow.instructions.limits import AnyRoom, ModelRoom, Room
from regrow.instructions.lint import check_templates
from regrow.instructions.mixture import Chooser, Index, Mask, shortages
from regrow.instructions.reading import Reading, read_source
from regrow.instructions.rendering import Pool, Renderer
from regrow.instructions.report import (
    HELDOUT,
    TRAIN,
    BuildReport,
    Counts,
    SourceReport,
    as_json,
    by_count,
)
from regrow.instructions.sample import Instruction, Message, Sample, number_of
from regrow.instructions.screening import NEARLY, REPEATS, Screen
from regrow.instructions.spool import Spool, SpoolRow
from regrow.instructions.template import as_one_text, load_templates, own_templates
from regrow.objectives.chat_segments import special_names
from regrow.objectives.prompt_form import encoder_decoder_texts
from regrow.objectives.special_tokens import PREFIXES, SENTINELS

_BATCH = 256
"""Instructions that are measured at once."""
_SPARE = 0.1
"""The share of instructions that are made beyond those wanted, in place of those too long."""
_PLACEHOLDER = re.compile(r"\{\{ *\w+ *\}\}")
_SPECIAL = (*SENTINELS, *PREFIXES, "</s>", "<pad>", "<unk>")
"""Names of special tokens of most encoder-decoders."""
_NO_TEMPLATE = "no template for its language and fields"
_Numbered = tuple[int, Sample]


@dataclass(frozen=True)
class Built:
    """The result of a build.

    Attributes:
        directory: Where it lies.
        report: What was read, dropped and written.
        passes: Passes over the files.
        seconds: Wall time.
    """

    directory: Path
    report: BuildReport
    passes: int
    seconds: float


def build(
    spec: Instructions, model: ModelDirectory | None, out: Path, progress: Progress = QUIET
) -> Built:
    """Build instructions and write them to a new directory, completely or not at all.

    Args:
        spec: what is built.
        model: whose tokens lengths are counted in; None counts characters.
        out: a new or empty directory.
        progress: receives messages.

    Raises:
        UserError: a template, a source or an evaluation set cannot be used, nothing is left, or
            `out` cannot be written.
    """
    started = time.monotonic()
    check_new_directory(out, None if model is None else model.path)
    templates = [*own_templates(), *(t for path in spec.templates for t in load_templates(path))]
    check_templates(templates)
    room: Room = AnyRoom()
    if model is not None:
        room = ModelRoom(model, spec.prompt_tokens, spec.answer_tokens)
    work = _Build(spec, room, Screen(spec), progress)
    with workplace(out) as place:
        work.survey(place)
        renderer = Renderer(templates, work.pool, spec.few_shot, spec.seed)
        result = place / "result"
        result.mkdir()
        rows = work.spool(place, renderer)
        report = work.write(rows, result, _special_names(model))
        (result / "report.json").write_bytes(json_bytes(as_json(report)))
        (result / "README.md").write_bytes(data_card(report))
        work.check_unchanged()
        publish(result, out)
    return Built(out, report, work.passes, time.monotonic() - started)


class _Build:
    """The state of a build."""

    def __init__(self, spec: Instructions, room: Room, screen: Screen, progress: Progress) -> None:
        self._spec, self._room, self._screen, self._say = spec, room, screen, progress.say
        self._files = {
            file: _signature(file)
            for source in spec.sources
            for path in ([*source.path, source.translation] if source.translation else source.path)
            for file in files_of([path])
        }
        self._index, self.pool = Index(), Pool()
        self._sources = [SourceReport(each.title, each.licence or "") for each in spec.sources]
        self._placeholders: Counter[str] = Counter()
        self._notes: list[str] = []
        self.passes = 0

    def survey(self, place: Path) -> None:
        """The first pass: what there is. `place`: a directory for work."""
        spec, index = self._spec, self._index
        self._screen.begin(place)
        self.passes += 1
        for number, (source, report) in enumerate(zip(spec.sources, self._sources, strict=True)):
            reading = Reading()
            for sample in read_source(source, reading, spec.seed):
                report.samples += 1
                draw = number_of(spec.seed, "draw", sample.key)
                subject = number_of(spec.seed, "heldout", sample.subject)
                heldout = subject / 2**64 < spec.heldout
                repeats = self._screen.repeats_evaluation(sample)
                if repeats:
                    report.dropped[REPEATS] += 1
                else:
                    self.pool.add(sample, draw, heldout=heldout)
                index.add(draw, number, sample.task, heldout=heldout, dropped=repeats)
            report.records, report.formats = reading.records, reading.formats
            report.broken, report.places = reading.broken, reading.places
            self._notes += [f"{source.title}: {note}" for note in reading.notes]
            broken = sum(reading.broken.values())
            words = "; ".join(dict.fromkeys(reading.formats.values()))
            self._say(f"{source.title}: {report.samples:,} samples, broken {broken:,} ({words})")

    def spool(self, place: Path, renderer: Renderer) -> Iterator[tuple[SpoolRow, str]]:
        """The other passes: the rows that are taken, in random order, and the part of each."""
        index = self._index
        chooser = Chooser(index, self._spec)
        dropped: Mask = np.frombuffer(index.dropped, dtype=np.uint8).astype(bool)
        twice = chooser.duplicates(dropped)
        self._count_dropped(twice, "says the same as another")
        dropped |= twice
        nearly = self._screen.nearly_equal()
        if len(nearly):
            self._count_dropped(nearly & ~dropped, NEARLY)
            dropped |= nearly
            self.pool.remove({index.draws[number] for number in np.flatnonzero(nearly).tolist()})
        measured = np.zeros(len(index), dtype=bool)
        with Spool(place / "spool", int((~dropped).sum())) as spool:
            while (chooser.choose(~dropped).taken & ~measured).any():
                self.passes += 1
                todo = chooser.choose(~dropped, _SPARE).taken & ~measured
                self._say(f"making instructions of {int(todo.sum()):,} samples")
                measured |= todo
                for batch in _batched(self._samples(todo), _BATCH):
                    for number in self._add_rows(batch, renderer, spool):
                        dropped[number] = True
        self._choice = chooser.choose(~dropped)
        taken = self._choice.taken
        for report, left in zip(self._sources, self._by_source(~dropped & ~taken), strict=True):
            report.left = left
        for row in spool.rows():
            if taken[row.number]:
                yield row, HELDOUT if index.heldout[row.number] else TRAIN

    def _samples(self, wanted: Mask) -> Iterator[tuple[int, Sample]]:
        """Read the wanted samples again, with their numbers; files without any are passed over."""
        counts = np.bincount(
            np.frombuffer(self._index.sources, dtype=np.uint16), minlength=len(self._sources)
        )
        first = 0
        for source, count in zip(self._spec.sources, counts.tolist(), strict=True):
            here = wanted[first : first + count]
            if here.any():
                samples = read_source(source, Reading(), self._spec.seed)
                for place, (sample, is_wanted) in enumerate(zip(samples, here, strict=False)):
                    if is_wanted:
                        yield first + place, sample
            first += count

    def _add_rows(
        self, batch: Sequence[tuple[int, Sample]], renderer: Renderer, spool: Spool
    ) -> Iterator[int]:
        """Put the instructions of some samples into the spool; the numbers of those that fail."""
        index, room = self._index, self._room
        found = []
        for number, sample in batch:
            choices = renderer.instructions(sample, index.draws[number])
            instruction = next(choices, None)
            if instruction is None:
                self._sources[index.sources[number]].dropped[_NO_TEMPLATE] += 1
                yield number
            else:
                found.append((number, instruction, choices))
        measured = room.measure([instruction for _, instruction, _ in found])
        for (number, instruction, fewer), lengths in zip(found, measured, strict=True):
            while (why := room.too_long(lengths)) and (less := next(fewer, None)) is not None:
                instruction, lengths = less, room.measure([less])[0]
            if why:
                self._sources[index.sources[number]].dropped[why] += 1
                yield number
                continue
            row = json.dumps(_row(instruction), ensure_ascii=False)
            spool.add(SpoolRow(index.draws[number], number, *lengths, instruction.shots, row))

    def write(
        self, rows: Iterator[tuple[SpoolRow, str]], result: Path, names: Sequence[str]
    ) -> BuildReport:
        """Write the rows to their files, and count them. `names`: of special tokens.

        Raises UserError if there is none.
        """
        spec, counts = self._spec, Counts()
        with _Files(result, spec, names) as files:
            for spooled, split in rows:
                row = json.loads(spooled.row)
                files.write(split, row)
                self._placeholders[row["source"]] += _has_placeholder(row)
                counts.add(row, split, (spooled.prompt, spooled.answer), spooled.shots)
                report = self._sources[self._index.sources[spooled.number]]
                if split == TRAIN:
                    report.train += 1
                else:
                    report.heldout += 1
        if not counts.splits[TRAIN]:
            raise UserError(f"nothing is left to train on{self._most_common_loss()}")
        self._notes += [
            f"{name}: {count:,} rows have the name of a special token in their words; left out of "
            "the form encoder-decoder"
            for name, count in by_count(files.left_out).items()
        ]
        return self._report(counts, files.names)

    def _most_common_loss(self) -> str:
        losses: Counter[str] = sum((each.dropped for each in self._sources), Counter())
        return "".join(f"; {count:,}: {why}" for why, count in losses.most_common(2))

    def _report(self, counts: Counts, files: tuple[str, ...]) -> BuildReport:
        spec = self._spec
        written = {each.name: each.train + each.heldout for each in self._sources}
        notes = [*self._notes, *shortages(spec, self._choice, written)]
        notes += [
            f"{name}: {count:,} samples repeat a text of this evaluation set; left out"
            for name, count in by_count(self._screen.contaminated).items()
        ]
        notes += [
            f"{name}: {count:,} rows have words in double braces, such as {{{{name}}}}; if they "
            "stand for something, write it into the file"
            for name, count in self._placeholders.items()
            if count
        ]
        return BuildReport(
            spec.name, spec.seed, tuple(self._sources), by_count(counts.tasks),
            by_count(counts.languages), by_count(counts.templates), by_count(counts.shots),
            counts.splits[TRAIN], counts.splits[HELDOUT], self._room.unit, counts.spreads(),
            by_count(self._screen.contaminated), tuple(notes), files,
        )  # fmt: skip

    def check_unchanged(self) -> None:
        """Raise UserError if a file changed while it was read."""
        for path, signature in self._files.items():
            if _signature(path) != signature:
                raise UserError(f"{path}: changed while it was read; build again")

    def _count_dropped(self, mask: Mask, why: str) -> None:
        for report, count in zip(self._sources, self._by_source(mask), strict=True):
            if count:
                report.dropped[why] += count

    def _by_source(self, mask: Mask) -> list[int]:
        sources = np.frombuffer(self._index.sources, dtype=np.uint16)
        return [int(n) for n in np.bincount(sources[mask], minlength=len(self._sources))]


class _Files:
    """The files of a result: for each form and part, if it has a row. A context manager.

    Attributes:
        left_out: Rows that the form encoder-decoder cannot have, by source.
    """

    def __init__(self, directory: Path, spec: Instructions, names: Sequence[str]) -> None:
        self.left_out: Counter[str] = Counter()
        self._directory, self._forms = directory, spec.forms
        self._special = re.compile("|".join(map(re.escape, names)))
        self._open: dict[str, Any] = {}

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files, sorted."""
        return tuple(sorted(self._open, key=lambda name: (name.startswith(HELDOUT), len(name))))

    def write(self, split: str, row: dict[str, Any]) -> None:
        """Write a row in all forms."""
        if "messages" in self._forms:
            self._line(f"{split}.jsonl", row)
        if "encoder-decoder" in self._forms:
            if any(self._special.search(message["content"]) for message in row["messages"]):
                self.left_out[row["source"]] += 1
                return
            *before, last = [Message(**message) for message in row["messages"]]
            texts = encoder_decoder_texts(as_one_text(before, row["language"]), last.content)
            rest = {key: value for key, value in row.items() if key != "messages"}
            self._line(
                f"{split}.encoder-decoder.jsonl", {"input": texts[0], "target": texts[1], **rest}
            )

    def _line(self, name: str, row: dict[str, Any]) -> None:
        if name not in self._open:
            path = self._directory / name
            self._open[name] = path.open("w", encoding="utf-8", newline="\n")
        self._open[name].write(json.dumps(row, ensure_ascii=False) + "\n")


def _special_names(model: ModelDirectory | None) -> tuple[str, ...]:
    """Names that a tokenizer may read as special tokens: the usual ones, and those of the model."""
    own = () if model is None else special_names(model.tokenizer)
    return (*_SPECIAL, *own)


def _has_placeholder(row: dict[str, Any]) -> bool:
    return any(_PLACEHOLDER.search(message["content"]) for message in row["messages"])


def _row(instruction: Instruction) -> dict[str, Any]:
    return {
        "messages": [message._asdict() for message in instruction.messages],
        "id": instruction.sample.id,
        "task": instruction.task,
        "source": instruction.sample.source,
        "language": instruction.language,
        "template": instruction.template,
    }


def _batched(samples: Iterator[_Numbered], size: int) -> Iterator[list[_Numbered]]:
    """The samples in lists of `size`; `itertools.batched` came with Python 3.12."""
    while batch := list(islice(samples, size)):
        yield batch


def _signature(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
