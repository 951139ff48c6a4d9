"""The page of a corpus shows what each step did, and hides nothing that looks like HTML."""

from pathlib import Path

from regrow.cleaning.built import BuiltCorpus, NamedTally
from regrow.cleaning.document import Finding
from regrow.cleaning.mixture import Mixture, MixtureRow
from regrow.cleaning.tally import StepTally, add_tally, tally_from, tally_json
from regrow.report.corpus_page import render_corpus, write_corpus_page
from regrow.report.corpus_tables import example_rows, mixture_rows, reason_rows, step_rows


def built() -> BuiltCorpus:
    read, step = StepTally(), StepTally()
    for number in range(8):
        read.passed("four", "four")
        step.passed("four", None if number < 2 else "fou" if number == 2 else "four")
    step.found("web/a#1", [Finding("too <b>short</b>", "<script>x", 3)])
    step.found("web/a#2", [Finding("other", "y")])
    step.found("web/a#3", [Finding("other", "z", 2)])
    row = MixtureRow("web", 6, 23, 1.0, 46, 46)
    mixture = Mixture("characters", (row,), (2,), (0,), ("a note & more",))
    steps = (NamedTally("read", read), NamedTally("step", step))
    return BuiltCorpus(Path("corpora/clean"), (), 12, 46, 20, steps, mixture, {})


def test_the_tables() -> None:
    assert step_rows(built())[1:] == [
        ("read", "8", "0", "0", "100.0%", "32", "100.0%"),
        ("step", "8", "1", "2", "75.0%", "23", "71.9%"),
    ]
    step = built().steps[1]
    assert reason_rows(step)[1:] == [
        ("other", "2", "3", "y"), ("too <b>short</b>", "1", "3", "<script>x"),
    ]  # fmt: skip
    assert reason_rows(step, most=1)[1:] == [("other", "2", "3", "y"), ("1 others", "1", "", "")]
    assert example_rows(step)[1] == ("too <b>short</b>", "<script>x", "web/a#1")
    assert mixture_rows(built())[1] == ("web", "6", "23", "100.0%", "46", "46", "2.00")


def test_the_page(tmp_path: Path) -> None:
    write_corpus_page(built(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page == render_corpus(built())
    assert "12 documents, 46 characters, 20 tokens, of 8 documents read" in page
    assert "a note &amp; more" in page
    assert "&lt;script&gt;x" in page
    assert "<script" not in page
    assert "step: 71.9%" in page  # the chart in words
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_tallies_add_up_and_survive_json() -> None:
    one, two = ({step.name: step.tally for step in built().steps} for _ in range(2))
    add_tally(one, two)
    assert one["step"].dropped == 4
    assert one["step"].reasons["other"].count == 6
    assert len(one["step"].reasons["other"].examples) == 4
    assert tally_from(tally_json(one)) == one
    add_tally(one, two)
    assert len(one["step"].reasons["other"].examples) == 5
