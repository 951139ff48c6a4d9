import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from regrow.report.page import render_page
from regrow.report.records import (
    EvaluationRow,
    ModelRow,
    QualityKept,
    RunSummary,
    Sample,
    Score,
)
from regrow.report.terminal import print_table
from tests.report.test_page import WORSE


def printed(
    summary: RunSummary, report: Path | None = None, width: int = 80, program: str = "regrow"
) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    print_table(summary, console, report, program=program)
    return out.getvalue()


def with_samples(summary: RunSummary, *samples: Sample) -> RunSummary:
    """The run with these samples, and with an original of 7 parameters if it has no model."""
    models = summary.models or (ModelRow(name="original", role="original", parameters=7),)
    return summary.model_copy(update={"models": models, "samples": samples})


def test_the_table_fits_80_columns(smollm2: RunSummary) -> None:
    text = printed(smollm2, Path("runs/smollm2-65m/report.html"))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [" ".join(line.split()) for line in lines if line.startswith("depth ")]
    minus = "\N{MINUS SIGN}"
    assert rows == [
        "depth 106.2M 79% 212 MB 54.0 ± 0.9 1.31×",  # noqa: RUF001
        f"depth 1.193 0.711 {minus}4.2%", "depth 1.165 0.957 +1.7%",
    ]  # fmt: skip
    assert "stories, bits per byte" in lines
    assert "nats" not in text
    assert "Report: runs/smollm2-65m/report.html" in lines
    assert "Model:  runs/smollm2-65m/model" in lines
    assert " ".join(text.split()).endswith("and generates text 2.0 times as fast.")


def test_the_quality_that_is_kept_has_its_interval(smollm2: RunSummary) -> None:
    row = EvaluationRow(task="piqa", metric="acc", before=0.7, after=0.6)
    share = "quality kept: 83.4% of the original's scores above chance"
    for interval, more in (((0.78, 0.89), " (95% interval: 78.0 to 89.0%)"), (None, "")):
        kept = QualityKept(share=0.834, interval=interval)
        update = {"quality_kept": kept, "evaluation": (row,)}
        text = printed(smollm2.model_copy(update=update), Path("report.html"))
        words = " ".join(text.split())
        assert share + more in words
        assert ("interval" in words) == bool(more)


def test_losses_per_token_are_printed_on_demand(smollm2: RunSummary) -> None:
    out = io.StringIO()
    print_table(smollm2, Console(file=out, width=80), nats=True)
    lines = out.getvalue().splitlines()
    rows = [" ".join(line.split()) for line in lines if line.startswith("depth ")]
    assert rows[-2:] == ["depth 3.41 2.03", "depth 3.70 3.04"]
    assert "stories, nats per token" in lines
    assert "losses per token cannot be compared" in " ".join(out.getvalue().split())


def test_what_tokenization_loses_is_said_and_marked(smollm2: RunSummary) -> None:
    """On the page too; few unknown tokens are told, and mark nothing."""

    def scores(unknown: float, lost: float) -> dict[str, Score]:
        score = Score(loss=1.0, bits_per_byte=0.66, unknown=unknown, lost=lost)
        return {"prose": score, "code": Score(loss=1.0, bits_per_byte=0.77)}

    rows = [
        ModelRow(name=name, role=role, parameters=7, after_recovery=scores(*shares))
        for name, role, shares in (
            ("original", "original", (0.0, 0.0)), ("few", "stage", (0.001, 0.0001)),
            ("many", "stage", (0.431, 0.31)), ("more", "stage", (0.431, 0.31)),
        )
    ]  # fmt: skip
    summary = smollm2.model_copy(update={"models": tuple(rows), "stages": (), "samples": ()})
    text = printed(summary, width=200)
    few = "prose: 0.1% of the tokens are unknown and 0.01% of the bytes are in no token: few"
    many = (
        "prose: 43.1% of the tokens are unknown and 31.0% of the bytes are in no token, so bits "
        "per byte cannot be compared (*): many, more"
    )
    page = render_page(summary)
    for line in (few, many):
        assert line in text
        assert line in page
    assert (text.count("0.660*"), text.count("0.660"), text.count("0.770*")) == (2, 4, 0)
    assert page.count("0.660*") >= 2
    assert "bits per byte, prose (not comparable*)" in page
    assert "bits per byte, code (not comparable*)" not in page


def test_more_texts_make_more_tables(smollm2: RunSummary) -> None:
    score = smollm2.models[0].after_recovery["prose"]
    row = smollm2.models[0].model_copy(
        update={"after_recovery": {f"a long name {i}": score for i in range(5)}}
    )
    text = printed(smollm2.model_copy(update={"models": (row,), "samples": ()}))
    assert text.count("at the end") == 5
    assert text.count("134.5M") == 1
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_measured(bare: RunSummary, openba: RunSummary) -> None:
    assert printed(bare) == ""
    assert "130.1M" in printed(openba)
    assert "bits per byte" not in printed(openba)


@pytest.mark.parametrize("text", ["[red]not markup[/red]", "[/]", ":smile:"])
def test_markup_is_printed_as_it_is(bare: RunSummary, text: str) -> None:
    sample = Sample(prompt=text, answers={"original": text})
    assert printed(with_samples(bare, sample)).count(text) == 2


def test_control_characters_cannot_drive_the_terminal(bare: RunSummary) -> None:
    sample = Sample(prompt="\x1b]0;title\x07 \x9b2J", answers={"original": "a\x1bb\nlines\ttab"})
    text = printed(with_samples(bare, sample))
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert "�]0;title" in text
    assert text.splitlines()[-1].split() == ["original", "7", "a�b", "lines", "tab"]


def test_answers_stand_side_by_side_in_80_columns(smollm2: RunSummary) -> None:
    long = " ".join(f"word{number}" for number in range(200))
    wide = "\N{CJK UNIFIED IDEOGRAPH-6C34}" * 300
    rows = [row.model_copy(update={"name": row.name * 3}) for row in smollm2.models[1:3]]
    run = smollm2.model_copy(update={"models": (smollm2.models[0], *rows)})
    sample = Sample(
        prompt=long,
        answers={"SmolLM2-135M": "One.\n\n\nTwo.", rows[0].name: long, rows[1].name: wide},
    )
    text = printed(with_samples(run, sample, Sample(prompt="Hm?", answers={rows[0].name: " \n"})))
    assert max(map(cell_len, text.splitlines())) <= 80
    answers = text[text.index("word0") :].split("\n")
    assert sum("word" in line for line in answers) == 3 + 3
    assert [line.split()[:2] for line in answers if "M  " in line] == [
        ["SmolLM2-135M", "134.5M"], ["depthdepthdep…", "106.2M"], ["widthwidthwid…", "84.3M"],
        ["depthdepthdep…", "106.2M"],
    ]  # fmt: skip
    assert answers[3].rstrip().endswith("One. Two.")
    assert sum(line.rstrip().endswith("…") for line in answers) == 3
    assert "(nothing)" in text
    assert "cut to 3 lines" in text
    assert "cut to" not in printed(smollm2)


@pytest.mark.parametrize("width", [20, 21, 30])
def test_a_narrow_terminal_shows_answers_too(bare: RunSummary, width: int) -> None:
    sample = Sample(prompt="Why?", answers={"original": "Because it is so."})
    models = (ModelRow(name="original", role="original", parameters=134_500_000),)
    text = printed(with_samples(bare.model_copy(update={"models": models}), sample), width=width)
    assert "Why?" in text


def test_where_the_models_are(smollm2: RunSummary) -> None:
    rows = [
        row.model_copy(update={"path": f"stages/{row.name}/model"}) for row in smollm2.models[1:3]
    ]
    run = smollm2.model_copy(update={"models": (smollm2.models[0], *rows)})
    lines = printed(run, Path("runs/x/report.html")).splitlines()
    first = lines.index("Models")
    assert lines[first : first + 6] == [
        "Models", "  depth  runs/x/stages/depth/model", "  width  runs/x/stages/width/model",
        "Report: runs/x/report.html", "Model:  runs/smollm2-65m/model",
        'Try it: regrow generate runs/smollm2-65m/model "What is a river?"',
    ]  # fmt: skip
    called = printed(run, Path("runs/x/report.html"), program=".venv/bin/regrow")
    assert 'Try it: .venv/bin/regrow generate runs/smollm2-65m/model "What is' in called


def test_a_recovery_that_made_it_worse_is_said(mixed: RunSummary, smollm2: RunSummary) -> None:
    text = " ".join(printed(mixed).split())
    for line in WORSE:
        assert line in text
    assert "worse" not in printed(smollm2)


def test_where_the_speeds_were_measured_is_said(smollm2: RunSummary) -> None:
    """On the page too; runs of before this was recorded measured on the CPU, in float32."""
    assert "tokens/s are measured on CPU, in float32" in printed(smollm2).splitlines()
    models = [
        row.model_copy(
            update={"speed": row.speed and replace(row.speed, device="a GPU", dtype="bfloat16")}
        )
        for row in smollm2.models
    ]
    on_gpu = smollm2.model_copy(update={"models": models})
    assert "tokens/s are measured on a GPU, in bfloat16" in printed(on_gpu).splitlines()
    assert "generated tokens per second on a GPU, in bfloat16, the median" in render_page(on_gpu)
    without = [row.model_copy(update={"speed": None}) for row in smollm2.models]
    assert "tokens/s" not in printed(smollm2.model_copy(update={"models": without}))
