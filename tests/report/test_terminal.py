import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from regrow.report.records import ModelRow, RunSummary, Sample
from regrow.report.terminal import print_table
from tests.report.test_page import WORSE


def printed(summary: RunSummary, report: Path | None = None, width: int = 80) -> str:
    out = io.StringIO()
    print_table(summary, Console(file=out, width=width, color_system=None), report)
    return out.getvalue()


def with_samples(summary: RunSummary, *samples: Sample) -> RunSummary:
    """The run with these samples, and with an original of 7 parameters if it has no model."""
    models = summary.models or (ModelRow(name="original", role="original", parameters=7),)
    return summary.model_copy(update={"models": models, "samples": samples})


def test_the_table_fits_80_columns(smollm2: RunSummary) -> None:
    text = printed(smollm2, Path("runs/smollm2-65m/report.html"))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    depth = next(index for index, line in enumerate(lines) if line.strip().startswith("depth"))
    first, second = (" ".join(line.split()) for line in lines[depth : depth + 2])
    assert first == "depth 106.2M 212 MB 54.0 3.41 2.03 3.70 3.04"
    assert second == "\N{MINUS SIGN}21% 1.193 0.711 1.165 0.957"
    assert "bits per byte can." in " ".join(text.split())
    assert lines[-1] == "Report: runs/smollm2-65m/report.html"


def test_more_texts_make_more_tables(smollm2: RunSummary) -> None:
    score = smollm2.models[0].after_recovery["prose"]
    row = smollm2.models[0].model_copy(
        update={"after_recovery": {f"a long name {i}": score for i in range(5)}}
    )
    text = printed(smollm2.model_copy(update={"models": (row,), "samples": ()}))
    assert text.count("recov.") == 5
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


def test_where_the_models_are(smollm2: RunSummary) -> None:
    rows = [
        row.model_copy(update={"path": f"stages/{row.name}/model"}) for row in smollm2.models[1:3]
    ]
    run = smollm2.model_copy(update={"models": (smollm2.models[0], *rows)})
    assert printed(run, Path("runs/x/report.html")).splitlines()[-4:] == [
        "Models", "  depth  runs/x/stages/depth/model", "  width  runs/x/stages/width/model",
        "Report: runs/x/report.html",
    ]  # fmt: skip


def test_a_recovery_that_made_it_worse_is_said(mixed: RunSummary, smollm2: RunSummary) -> None:
    text = " ".join(printed(mixed).split())
    for line in WORSE:
        assert line in text
    assert "worse" not in printed(smollm2)
