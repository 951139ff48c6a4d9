"""The data card of a build: README.md, with metadata that the Hugging Face hub reads."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from regrow.common.printable import as_markdown
from regrow.instructions.report import BuildReport, SourceReport

_LANGUAGES = {"en": "English", "zh": "Chinese", "other": "other"}
_MOST_REASONS = 40


def data_card(report: BuildReport) -> bytes:
    """The card as UTF-8. Equal reports and versions give equal bytes."""
    from huggingface_hub import DatasetCardData

    metadata = DatasetCardData(
        pretty_name=report.name,
        language=[name for name in report.languages if name != "other"],
        task_categories=["text-generation"],
        configs=_configs(report),
    ).to_yaml(line_break="\n")
    body = "\n".join(_lines(report))
    return f"---\n{metadata}\n---\n\n{body}\n".encode()


def _configs(report: BuildReport) -> list[dict[str, Any]]:
    splits = [("train", "train"), ("heldout", "test")]
    found = []
    for suffix, name in (("", "messages"), (".encoder-decoder", "encoder-decoder")):
        files = [
            {"split": split, "path": f"{stem}{suffix}.jsonl"}
            for stem, split in splits
            if f"{stem}{suffix}.jsonl" in report.files
        ]
        if files:
            found.append({"config_name": name, "data_files": files})
    return found


def _lines(report: BuildReport) -> Iterator[str]:
    total = report.train + report.heldout
    yield f"# {as_markdown(report.name)}"
    yield ""
    yield (
        f"{total:,} instructions, {report.heldout:,} of them held out, made by regrow "
        f"{version('regrow')} with seed {report.seed}. No subject (passage, question, first turn) "
        "is in both parts. The same configuration, files and version give the same bytes."
    )
    yield ""
    yield "## Files"
    yield ""
    words = {
        "train.jsonl": "conversations to train on: `messages`, `id`, `task`, `source`, `language`, "
        "`template`",
        "heldout.jsonl": "the same, held out",
        "train.encoder-decoder.jsonl": "the same instructions for an encoder-decoder: `input` "
        "begins with `<S>` and ends in `<extra_id_0>`, with which `target` begins; both are names "
        "of special tokens",
        "heldout.encoder-decoder.jsonl": "the same, held out",
    }
    yield from (f"- `{name}`: {words[name]}" for name in report.files)
    yield ""
    yield from _counted(
        "language", [(_LANGUAGES.get(k, k), v) for k, v in report.languages.items()]
    )
    yield from _counted("task", list(report.tasks.items()))
    yield from _counted(
        "examples before the question", [(str(k), v) for k, v in sorted(report.shots.items())]
    )
    yield "## Lengths"
    yield ""
    yield f"| in {report.unit} | mean | median | 95% are at most | longest |"
    yield "|---|---|---|---|---|"
    for name, each in report.lengths.items():
        yield (f"| {name} | {each.mean:,.1f} | {each.median:,} | {each.p95:,} | {each.longest:,} |")
    yield ""
    yield from _sources(report.sources)
    if report.notes:
        yield "## Notes"
        yield ""
        yield from (f"- {as_markdown(note)}" for note in report.notes)


def _counted(what: str, counts: Sequence[tuple[str, int]]) -> Iterator[str]:
    total = sum(count for _, count in counts) or 1
    yield f"## By {what}"
    yield ""
    yield f"| {what} | instructions | share |"
    yield "|---|---|---|"
    for name, count in counts:
        yield f"| {as_markdown(name)} | {count:,} | {count / total:.1%} |"
    yield ""


def _sources(sources: Sequence[SourceReport]) -> Iterator[str]:
    yield "## Sources"
    yield ""
    yield "| source | licence | read as | samples | train | held out |"
    yield "|---|---|---|---|---|---|"
    for each in sources:
        formats = "; ".join(dict.fromkeys(each.formats.values()))
        yield (
            f"| {as_markdown(each.name)} | {as_markdown(each.licence) or 'not stated'} | "
            f"{as_markdown(formats)} | {each.samples:,} | {each.train:,} | {each.heldout:,} |"
        )
    yield ""
    yield "What was not used:"
    yield ""
    for each in sources:
        words = list(_unused(each))[:_MOST_REASONS]
        if words:
            yield f"- {as_markdown(each.name)}: {'; '.join(words)}"
    yield ""


def _unused(source: SourceReport) -> Iterator[str]:
    reasons: Mapping[str, int]
    for reasons in (source.broken, source.dropped):
        for why, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            yield f"{count:,} {as_markdown(why)}"
    if source.left:
        yield f"{source.left:,} not asked for"
