"""The configuration of a corpus: paths, defaults, and mistakes with file, line and key."""

from pathlib import Path

import pytest

from regrow.cleaning.config import Near, Paragraphs
from regrow.cleaning.config_file import load_config
from regrow.common.errors import UserError

PLAIN = "out: o\nsources: [{name: a, path: a.jsonl}]\n"


def load(tmp_path: Path, text: str) -> object:
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml")


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "m").mkdir()
    (tmp_path / "c.yaml").write_text(
        "out: o\ntokenise: m\nsources:\n  - {name: a, path: [a.jsonl, /b.txt], share: 40%}\n"
        "  - {name: b, dataset: saved, share: 0.6}\nsteps: [squeeze: {longest: 9}]\n"
        "contamination: {against: q.csv}\nduplicates: {paragraphs: true, near: {threshold: 80%}}\n"
    )
    found = load_config(tmp_path / "c.yaml")
    assert found.out == tmp_path / "o"
    assert found.sources[0].path == (tmp_path / "a.jsonl", Path("/b.txt"))
    assert found.sources[1].dataset == str(tmp_path / "saved")
    assert found.contamination is not None
    assert found.contamination.against == (tmp_path / "q.csv",)
    assert found.tokenise == str(tmp_path / "m")
    assert found.duplicates.near == Near(threshold=0.8)
    assert found.duplicates.paragraphs == Paragraphs()
    assert found.steps[0].longest == 9
    assert [source.share for source in found.sources] == [0.4, 0.6]


def test_names_of_the_hub_stay(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("out: o\nsources: [{name: b, dataset: owner/name}]\n")
    assert load_config(tmp_path / "c.yaml").sources[0].dataset == "owner/name"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAIN + "shard: 3\n", r"c.yaml:3: shard: unknown key; did you mean shards\?"),
        (PLAIN + "steps: [squeze]\n", "c.yaml:3: steps.0: there is no step 'squeze'; the steps"),
        (PLAIN + "steps:\n- squeeze:\n    longst: 3\n",
         r"c.yaml:4: steps.0: squeeze: longst: unknown key; did you mean longest\?"),
        (PLAIN + "steps: [squeeze: {longest: 1}]\n", "squeeze: longest: at least 2 is wanted"),
        (PLAIN + "steps: [3]\n", "a step is its name, or its name and its settings"),
        (PLAIN + "duplicates:\n  near: {threshold: 2}\n", "c.yaml:4: duplicates.near.threshold: "),
        (PLAIN + "duplicates: {sentences: 100}\n", "duplicates.sentences: .*99.*, not 100"),
        (PLAIN + "duplicates: {sentences: true}\n", "is read as true or false"),
        (PLAIN + "tokens: 3M\n", "tokens are counted with the tokenizer of a model; set tokenise"),
        (PLAIN + "characters: 3M\ndocuments: 2\n", "the size is given twice"),
        (PLAIN + "compress: xz\n", "c.yaml:3: compress: gz or zst is wanted, not 'xz'|'gz'"),
        ("out: o\nsources: [{name: a}]\n", "a source has either a path or a dataset"),
        ("out: o\nsources: [{name: a, path: x, split: test}]\n", "subset and split are of a"),
        ("out: o\nsources: [{name: a, path: x, subset: zh}]\n", "subset and split are of a"),
        ("out: o\nsources: [{name: a, dataset: x, format: text}]\n", "format is how files are"),
        (PLAIN + "steps: [language: {keep: [english]}]\n",
         "language: keep: english: no language that lid.176 tells; give codes such as zh, en"),
        ("out: o\nsources: []\n", "c.yaml:2: sources: "),
        ("out: o\nsources: [{name: a, path: x}, {name: a, path: y}]\n", "two sources are called"),
        ("out: o\nsources: [{name: a, path: x, share: 50%}, {name: b, path: y}]\n",
         "give a share to each source, or to none"),
        ("out: o\nsources: [{name: a, path: x, share: 50%}]\n", "add up to 0.5, not to 1"),
        ("sources: [{name: a, path: x}]\n", "c.yaml:1: out: missing"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, text)
