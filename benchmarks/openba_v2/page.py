"""docs/paper.md: the report's tables and figures beside what was measured here."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from common import write_figure

from openba_v2.findings import FINDINGS, above_chance, error_of, kept, line_points
from openba_v2.report import ENTITIES, ENTITY_SETS, SCORES, TASKS
from openba_v2.values import Values
from regrow.common.files import write_atomically
from regrow.pipeline.published import OPENBA_V2
from regrow.report.analysis_charts import lines_over_shares

MODELS: Mapping[str, str] = {"openba": "small OpenBA", "smollm2": "SmolLM2"}
ANSWERS = {True: "yes", False: "**no**", None: "cannot be said"}
DENOISERS = ("R1", "R2", "S", "X1", "X2", "X3", "X4")
Rows = Sequence[Sequence[str]]
_FIGURES = "figures"
_LOSSES = ["cut: nats", "bits/byte", "recovered: nats", "bits/byte"]

_HEAD = """# The OpenBA-V2 report at small scale

<!-- Written by benchmarks/paper.py from docs/paper.json; change openba_v2/page.py in its place. -->

This page puts the tables and figures of the [OpenBA-V2 report](https://arxiv.org/abs/2405.05957)
beside what regrow measures on two small models:

- **small OpenBA**: 14.9M parameters as stored, 4 encoder and 12 decoder layers, in OpenBA's
  layout. It was trained on some 13M tokens of English and Chinese manuals and news, and is far
  from converged. It has seen no questions, so it guesses on all tasks.
- **SmolLM2**: SmolLM2-135M-Instruct, dequantised from Q4_1. It is a decoder, so objectives with
  an encoder are not measured on it. Its cuts and trainings are
  those that the [quickstart](benchmarks.md#quickstart) had before (26 and 22 layers). They are
  refitted; the report refits nothing.

The report has a hundred times and more the parameters, and ten thousand times and more the
tokens. So where a small model agrees, that is a hint that the method works and the code does what
it should. Where it does not agree, that says little about 15B parameters. All numbers are of one
seed. Table 2 of the report was not at hand, and is left out. So are its scores on GSM8K and MATH,
whose questions have no options.

```
python recipes/prepare_mini_openba.py --model DIR --text DIR
python benchmarks/paper.py --data DIR --smollm2 DIR --smollm2-run DIR    # all parts; --only PART
```

A part that is stopped goes on when the command is repeated. What was measured is kept in
`docs/paper.json`, with its date and settings.
"""

_INTRO: Mapping[str, str] = {
    "stages": """\
The sizes and the training cost of OpenBA 15B in the report's stages are computed exactly in
[OpenBA 15B to 3.4B](openba-v2.md). The losses of table 3 are nats per token, on the report's own
data:""",
    "rules": """\
Figure 6 of the report shows the loss of each denoiser after a cut, and figure 7 how the shares
of D-UL2 follow them, with S on top. Here, while the widths are recovered:""",
    "objectives": """\
Each objective trains the same model, after the cut of widths, for as long as D-UL2 needs for its
tokens. Held-out loss of each denoiser, in nats per token:""",
    "cuts": """\
Figure 5 of the report shows the perplexity right after cuts of ever more parameters, in depth and
in width: it explodes when some 40% go at once, and depth costs less than width. Here in bits per
byte of text that was held back:""",
    "layers": """\
The report drops layers from the middle, and not neighbours, since these cost least. Right after
the cut, in bits per byte:""",
    "vocabulary": """\
Figure 8 of the report shows perplexity per token by vocabulary size: 250,000 tokens become 120,000
or 100,000 without loss, and down to 20,000 English suffers and Chinese hardly. Perplexity per token
cannot be compared between vocabularies, so here it is bits per character. Tokens are kept by their
count in 16 MB of English and Chinese text, and nothing is trained. The small OpenBA predicts the
last quarter of each held-out document, SmolLM2 all of it.""",
    "entities": """\
F1 of the report in percent, after fine-tuning on other types; strict F1 in brackets:""",
    "questions": """\
Accuracy in percent, and its standard error:""",
}
"""What the report shows, and how it is measured here."""

_WHY: Mapping[str, str] = {
    "stages": """\
- Cutting layers costs little, and cutting widths costs nearly everything, as in the report. The
  stages of the small OpenBA were run before the hidden size was [rotated](rotation.md), which takes
  most of this cost away ([measured](benchmarks.md#rotation)).
- The report trains on 10B tokens and more after each cut, 0.8 tokens and more for each parameter;
  the small OpenBA on 0.01 to 0.1. At such a budget it matters how many tokens the small model is
  trained on. With all cuts at once it gets all of them; in stages most go to models that are cut
  again. With hidden 96, and without the cut of the vocabulary, both ended nearly equal (5.556 in
  stages, 5.541 nats at once). With two fifths of the tokens the stages were better (5.889 and
  5.961).
- The last stage cuts the vocabulary and is not recovered, and costs 0.09 bits. With all cuts at
  once the vocabulary is recovered too.
- The control, the original trained further, is worse than the original: its training had ended
  with a decayed learning rate. Going back to 1e-3 costs more than so few tokens give. The stages
  begin in the same way.
- Nats are per token, so those of the smaller vocabulary cannot be compared with the others. Bits
  per byte of a text's continuation can. In bits, layers at once (1.998) are better than in stages
  (2.032), unlike in nats.""",
    "rules": """\
- The default rule of regrow, `stable`, keeps each share above a floor and moves slowly. `paper`
  and `code` begin with four fifths for S, as the released code does, so there S dominates from
  the first sample on, whatever the losses are.
- After a cut of layers all denoisers of the small OpenBA lose about the same, so the mixture
  hardly moves. After the cut of widths it moves to the denoisers that take out long spans: S, X3
  and X4.""",
    "objectives": """\
- O-UL2 is better where much text is taken out (S, X2 to X4, `half`), and worse on the short spans
  that it hardly contains (R1, X1). `half` takes out the second half of a text, as four fifths of
  the rows of O-UL2 do.
- D-UL2 equals UL2: its shares move little, and its measurements take a part of the time.""",
    "cuts": """\
- Perplexities are those of 4 bytes, about a token, as a multiple of the original's.
- The hidden size of the small OpenBA is [rotated](rotation.md). With channels in place of
  directions, on 2026-11-29 and another part of the text, widths cost +0.11 bits with 20% gone and
  +0.22 with 32%, and depth cost less than width, as in the report.
- The small OpenBA uses its depth little: half of its decoder can go for a tenth of a bit. A
  model that was trained longer would need it more.
- The cuts are chosen by scores on the text ([Analysis](analyse.md)); the report drops layers by
  hand and widths at random. Nothing is refitted here. With a refit the same cuts cost [much
  less](analyse.md#what-it-shows).""",
    "layers": """\
- All ways drop a quarter of the layers, and nothing is refitted.""",
    "vocabulary": """\
- A vocabulary that is far larger than the text needs (SmolLM2) can be halved at no cost. It even
  gains a little, since tokens that never occur no longer take probability.
- A vocabulary that was made for its text (the small OpenBA) pays for every cut: text is split into
  more tokens, which were rarer in training.
- Which of the two kinds the report's 250,000 tokens were is not known here. The report also trained
  after that cut.
- SmolLM2 spells most Chinese in bytes, so it has few Chinese tokens to lose.""",
    "questions": """\
- *Kept above chance* is the share of the original's scores above chance, over the tasks on which it
  is above chance by two standard errors; it is left out if these are fewer than three. On 200
  questions of PIQA, ARC-Easy and SciQ,
  45% of the score above chance is left at 50 percent, and 72% at 70 percent
  ([What is kept](benchmarks.md#what-is-kept)).
- The report's tasks are for models of billions of parameters. On MMLU, BBH, C-Eval, CMMLU and
  LogiQA a model of 135M guesses, so nothing can be lost there; the small OpenBA guesses
  everywhere.
- With few questions the errors are large: a difference below twice the error says nothing.""",
    "entities": """\
- The report trains on 240,000 entities of 13,000 types. Here a model sees a small sample of them,
  for minutes on a CPU.
- The models choose tags alone ([Constrained](ner.md#constrained)), since so little training does
  not teach them to repeat a sentence.""",
}
"""Why a part agrees or does not; prose by hand, which the next measurement may make wrong."""


_INSTEAD: Mapping[str, str] = {
    "entities": """\
[Named entities](benchmarks.md#named-entities) has what was tried: after training on 168 sentences
the small OpenBA finds no entity, and after 30 times 16 sentences it tags these 16 nearly without
errors, which says nothing of new ones.""",
}
"""What stands in the place of a part that is not measured."""


def write_page(values: Values, page: Path, figures: Path) -> None:
    """Write the page, and the figures that are drawn from the values."""
    for model, record in values.get("cuts", {}).items():
        found = record["values"]
        lines = [(line["name"], line_points(found, line)) for line in found["lines"]]
        title = f"Bits per byte of {MODELS[model]} by depth and width"
        svg = lines_over_shares(title, lines, "of the parameters cut")
        write_figure(svg, figures / f"paper-figure-5-{model}.svg")
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, page_text(values).encode())


def page_text(values: Values) -> str:
    """The page in Markdown."""
    parts = [_HEAD, _findings(values)]
    for title, part, section in _SECTIONS:
        records = values.get(part, {})
        parts.append(f"## {title}\n")
        parts.append(f"{_INTRO[part]}\n")
        parts += section(records)
        if not records:
            parts.append(f"Not measured yet.\n{_INSTEAD.get(part, '')}".rstrip() + "\n")
            continue
        parts.append(_how(records))
        parts.append(f"{_WHY[part]}\n")
    return "\n".join(parts)


def _findings(values: Values) -> str:
    rows = []
    for finding in FINDINGS:
        cells = []
        for model in MODELS:
            verdict = finding.verdict(values, model)
            cells.append("" if verdict is None else f"{ANSWERS[verdict.agrees]}: {verdict.words}")
        rows.append([finding.words, *cells])
    return (
        "## What agrees\n\n"
        "Each answer is computed from the numbers below (`benchmarks/openba_v2/findings.py`). An\n"
        "empty cell was not measured.\n\n" + table(["the report finds", *MODELS.values()], rows)
    )


def _how(records: Mapping[str, Any]) -> str:
    """When and where the values of a part were measured."""
    found = []
    for model, record in records.items():
        settings = ", ".join(f"{name} {value}" for name, value in record["settings"].items())
        took = f", {record['seconds']:,} s" if record["seconds"] else ""
        found.append(
            f"{MODELS[model]}: {record['date']}, {record['machine']}{took}"
            + (f" ({settings})" if settings else "")
        )
    return "*" + "; ".join(found) + "*\n"


def table(head: Sequence[str], rows: Rows) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _stages(records: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for training in OPENBA_V2:
        cut, recovered = ("" if loss is None else f"{loss:.2f}" for loss in training.loss)
        layers = "{} + {}".format(*training.layers)
        tokens = f"{training.tokens / 1e9:,.0f}B"
        sizes = [training.parameters, layers, f"{training.hidden:,}"]
        rows.append([training.name, *sizes, tokens, training.objective, cut, recovered])
    head = ["report", "parameters", "layers", "hidden", "tokens", "objective", "cut", "recovered"]
    yield table(head, rows)
    yield "All layers at once: 2.69. The vocabulary is cut last, to 3.4B parameters.\n"
    for model, record in records.items():
        found = record["values"]
        yield f"The same here, means over {' and '.join(found['texts'])}:\n"
        head = [MODELS[model], "parameters", "tokens", *_LOSSES]
        yield table(head, [_stage_row(each) for each in found["models"]])


def _stage_row(each: Any) -> list[str]:
    losses = []
    for scores in (each["cut"], each["recovered"]):
        losses += ["", ""] if scores is None else [f"{scores['nats']:.3f}", f"{scores['bits']:.3f}"]
    tokens = f"{each['trained_tokens']:,}" if each["trained_tokens"] else ""
    return [each["name"], f"{each['parameters'] / 1e6:,.1f}M", tokens, *losses]


def _rules(records: Mapping[str, Any]) -> Iterator[str]:
    yield f"![Loss of each denoiser above the original's]({_FIGURES}/openba-width-losses.svg)"
    yield f"![Shares of the denoisers]({_FIGURES}/openba-width-shares.svg)\n"
    yield "The last shares by the rule of the mixture:\n"
    for record in records.values():
        rows = [
            [rule, *(f"{shares[name]:.3f}" for name in DENOISERS)]
            for rule, shares in record["values"].items()
        ]
        yield table(["rule", *DENOISERS], rows)


def _objectives(records: Mapping[str, Any]) -> Iterator[str]:
    for record in records.values():
        names = [*DENOISERS, "half"]
        rows = [
            [name, f"{each['tokens']:,}", *(f"{each['losses'][d]:.3f}" for d in names)]
            for name, each in record["values"].items()
        ]
        yield table(["objective", "tokens", *names], rows)


def _cuts(records: Mapping[str, Any]) -> Iterator[str]:
    for model in records:
        name = f"{MODELS[model]}: bits per byte by depth and width"
        yield f"![{name}]({_FIGURES}/paper-figure-5-{model}.svg)\n"
    for model, record in records.items():
        found = record["values"]
        rows = [["original", "", "", f"{found['original']:.3f}", ""]]
        for line in found["lines"]:
            for number, (cut, (share, bits)) in enumerate(
                zip(line["cuts"], line_points(found, line)[1:], strict=True)
            ):
                sizes = ", ".join(f"{name} {size:,}" for name, size in cut["sizes"].items())
                rows.append([line["name"] if number == 0 else "", sizes, f"{share:.0%}",
                             f"{bits:.3f}", f"{bits - found['original']:+.3f}"])  # fmt: skip
        yield table([MODELS[model], "what remains", "cut", "bits per byte", "more"], rows)


def _layers(records: Mapping[str, Any]) -> Iterator[str]:
    for model, record in records.items():
        found = record["values"]
        stack = f"{found['stack']} " if found["stack"] else ""
        rows = [["none", "", f"{found['original']:.3f}"]]
        rows += [
            [name, each["layers"], f"{each['bits']:.3f}"] for name, each in found["dropped"].items()
        ]
        title = f"{MODELS[model]}, of {found['layers']} {stack}layers"
        yield table([title, "numbers", "bits per byte"], rows)


def _vocabulary(records: Mapping[str, Any]) -> Iterator[str]:
    for model, record in records.items():
        found = record["values"]
        names = list(found)
        rows = []
        for place, each in enumerate(found[names[0]]):
            cells = [f"{each['size']:,}"]
            for name in names:
                point = found[name][place]
                cells += [f"{point['bits_per_character']:.3f}",
                          f"{point['tokens_per_character']:.3f}"]  # fmt: skip
            rows.append(cells)
        head = [f"{MODELS[model]}, tokens"]
        for name in names:
            head += [f"{name}: bits/character", "tokens/character"]
        yield table(head, rows)
        name = f"{MODELS[model]}: bits per character by vocabulary size"
        yield f"![{name}]({_FIGURES}/vocabulary-{model}.svg)\n"


def _questions(records: Mapping[str, Any]) -> Iterator[str]:
    every = [each for record in records.values() for each in record["values"]["models"]]
    guessed = {
        task: score["chance"]
        for each in every
        for task, score in each["scores"].items()
        if score["chance"] is not None
    }
    rows = [["guessing", "", *(f"{guessed[t]:.0f}" if t in guessed else "" for t in TASKS), ""]]
    for name, of_report in SCORES.items():
        share = above_chance(of_report, SCORES["15B"], guessed)
        scores = [f"{of_report[task]:.1f}" for task in TASKS]
        rows.append([f"report, {name}", "", *scores, _percent(share)])
    for model, record in records.items():
        original = record["values"]["models"][0]
        for each in record["values"]["models"]:
            size = f"{each['parameters'] / 1e6:,.1f}M"
            cells = [_score(each["scores"][task]) for task in TASKS]
            share = kept(each["scores"], original["scores"])
            rows.append([f"{MODELS[model]}, {each['name']}", size, *cells, _percent(share)])
    yield table(["", "parameters", *TASKS, "kept above chance"], rows)
    counts = {
        f"{task} {score['questions']}": None
        for each in every
        for task, score in each["scores"].items()
    }
    yield f"Questions: {', '.join(counts)}.\n"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _score(score: Any) -> str:
    return f"{score['value']:.1f} ± {error_of(score):.1f}"


def _entities(records: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [
            f"report, {name}",
            *(f"{f1[each]:.1f}" for each in ENTITY_SETS),
            f"{fmean(f1.values()):.1f}",
        ]
        for name, f1 in ENTITIES.items()
    ]
    for model, record in records.items():
        for each in record["values"]["models"]:
            sets = each["sets"]
            cells = [f"{sets[n]['report']:.1f} ({sets[n]['strict']:.1f})" for n in ENTITY_SETS]
            mean = fmean(found["report"] for found in sets.values())
            rows.append([f"{MODELS[model]}, {each['name']}", *cells, f"{mean:.1f}"])
    yield table(["", *ENTITY_SETS, "mean"], rows)


_SECTIONS = (
    ("Stages (tables 1 and 3)", "stages", _stages),
    ("Depth and width (figure 5)", "cuts", _cuts),
    ("Which layers", "layers", _layers),
    ("Losses and shares of the denoisers (figures 6 and 7)", "rules", _rules),
    ("Objectives at equal time", "objectives", _objectives),
    ("Vocabulary size (figure 8)", "vocabulary", _vocabulary),
    ("Common sense and knowledge", "questions", _questions),
    ("Named entities", "entities", _entities),
)
