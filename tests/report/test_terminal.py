import io
from pathlib import Path

import pytest
from rich.console import Console

from regrow.report.records import RunSummary, Sample
from regrow.report.terminal import print_table


def printed(summary: RunSummary, report: Path | None = None, width: int = 80) -> str:
    out = io.StringIO()
    print_table(summary, Console(file=out, width=width, color_system=None), report)
    return out.getvalue()


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
    text = printed(smollm2.model_copy(update={"models": (row,)}))
    assert text.count("recov.") == 5
    assert text.count("134.5M") == 1
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_measured(bare: RunSummary, openba: RunSummary) -> None:
    assert printed(bare) == ""
    assert "130.1M" in printed(openba)
    assert "bits per byte" not in printed(openba)


@pytest.mark.parametrize("text", ["[red]not markup[/red]", "[/]", ":smile:"])
def test_markup_is_printed_as_it_is(bare: RunSummary, text: str) -> None:
    sample = Sample(prompt=text, original=text, result=text)
    assert printed(bare.model_copy(update={"samples": (sample,)})).count(text) == 3


def test_control_characters_cannot_drive_the_terminal(bare: RunSummary) -> None:
    sample = Sample(prompt="\x1b]0;title\x07 \x9b2J", result="two\nlines\ttab")
    text = printed(bare.model_copy(update={"samples": (sample,)}))
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert "�]0;title" in text
    assert [line.split() for line in text.splitlines()[-2:]] == [["two"], ["lines", "tab"]]
