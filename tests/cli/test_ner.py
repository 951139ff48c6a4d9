"""`regrow ner` as a user types it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regrow.cli import app
from tests.tiny import write_model

TRAIN = "river\tB-water\nPo\tI-water\n\nBo\tB-person\nsaw\tO\nit\tB-misc\n"


def regrow(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app.app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "model", max_position_embeddings=1_024, num_hidden_layers=1)
    (home / "one.txt").write_text(TRAIN, encoding="utf-8")
    (home / "two.txt").write_text(TRAIN, encoding="utf-8")
    return home


def test_train_then_eval(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    files = [home / "one.txt", f"other={home / 'two.txt'}"]
    options = ["--epochs", 1, "--heldout", home / "two.txt", "--set", "precision=fp32"]
    told = regrow("ner", "train", home / "model", out, "--train", *files, *options)
    assert told.startswith("4 examples, ")
    assert "nats per answer token held out" in told
    assert told.endswith(f"model   {out}\n")

    told = regrow("ner", "eval", out, "--data", *files, "--constrained")
    lines = [line.split() for line in told.splitlines()]
    assert lines[0][:3] == ["set", "sentences", "F1"]
    assert [line[:2] for line in lines[2:4]] == [["one", "2"], ["other", "2"]]
    assert lines[4][0] == "mean"
    assert told.endswith("tags alone are chosen; without misc\n")

    found = json.loads(regrow("ner", "eval", out, "--data", files[0], "--without", "", "--json"))
    assert found["sets"][0]["entities"] == 3
    assert found["without"] == []
    assert 0 <= found["f1"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "MODEL"], "--data: give at least one file"),
        (["train", "MODEL", "OUT"], "--train: give at least one file"),
        (["eval", "MODEL", "--data", "none.txt"], "none.txt: no such file"),
        (["eval", "MODEL", "--data", "HOME"], "a directory; give the file"),
        (["eval", "MODEL", "--data", "FILE", "FILE"], "another file is also called 'one'"),
        (["eval", "MODEL", "--data", "FILE", "--without", "water,person,misc"],
         "no entity of any"),
        (["eval", "MODEL", "--data", "FILE", "--without", "misc,watr"],
         "--without watr: no file has this type; there are"),
        (["train", "MODEL", "OUT", "--train", "FILE", "--heldout", "FILE", "--without", "watr"],
         "--without watr: no file has this type; there are"),
        (["eval", "MODEL", "--data", "FILE", "--row-length", "20"], "or a larger --row-length"),
        (["train", "MODEL", "OUT", "--train", "FILE", "--set", "objective=causal"],
         "--set objective: has no meaning"),
        (["train", "MODEL", "OUT", "--train", "FILE", "--set", "tokens=none"],
         "--set tokens: a whole"),
        (["train", "MODEL", "OUT", "--train", "FILE", "--heldout", "FILE", "FILE"],
         "--heldout: takes one file; repeat it: --heldout /"),
        (["train", "--heldout", "FILE", "MODEL", "OUT", "--train", "HOME/none.txt"],
         "none.txt: no such file"),
        (["train", "MODEL", "OUT", "--train", "FILE", "--row-length", "2000"],
         "--row-length 2000: the model has 1024 positions"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    home: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {
        "MODEL": home / "model", "FILE": home / "one.txt", "HOME": home, "OUT": tmp_path / "out",
    }  # fmt: skip
    told = regrow("ner", *(places.get(word, word) for word in arguments), code=2)
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
