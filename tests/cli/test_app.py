"""The command line: what it prints, and one line for what a user can get wrong."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import regrow
from regrow.architectures.t5 import T5
from regrow.checkpoint.verify import Check, VerifyResult
from regrow.cli import app
from regrow.common import quantities
from regrow.common.errors import UserError
from regrow.common.publishing import workplace
from regrow.pipeline.recipe_file import load_recipe
from tests.tiny import (
    SCORE_NAMES,
    add_chat_template,
    sentences,
    write_model,
    write_text,
    write_tiny,
)

REGROW = [sys.executable, "-c", "import sys; from regrow.cli.app import main; main()"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two models and texts, which no test changes."""
    directory = tmp_path_factory.mktemp("cli")
    write_model(directory / "m")
    write_tiny(T5, directory / "t5")
    write_text(directory / "text.jsonl", sentences(60))
    (directory / "empty.txt").touch()
    (directory / "latin.txt").write_bytes("é".encode("latin-1"))
    (directory / "short.txt").write_text("A river.")
    unknown = write_model(directory / "unknown")
    config = json.loads((unknown / "config.json").read_text())
    config |= {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}
    (unknown / "config.json").write_text(json.dumps(config))
    regrow.prune(directory / "m", directory / "cut", drop_layers="1")
    write_recipe(directory / "small.yaml", layers=2)
    write_recipe(directory / "wrong.yaml", layers=9)
    (directory / "run").mkdir()
    (directory / "run/model").symlink_to(directory / "m")
    config_only = directory / "config-only"
    config_only.mkdir()
    (config_only / "config.json").write_text((directory / "m/config.json").read_text())
    return directory


def write_recipe(path: Path, layers: int) -> None:
    path.write_text(
        "name: small\nmodel: m\ndata: {train: none.jsonl, heldout: {domain: none.jsonl}}\n"
        f"stages:\n  - {{name: depth, cut: {{layers: {layers}}}, recover: {{tokens: 51_200}}}}\n"
    )


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in that directory, in this process."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app.app, arguments)

    return call


def shell(*arguments: str, cwd: Path, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*REGROW, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True,
        check=False, **more,
    )  # fmt: skip


def listing(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# Light


HEAVY = ["torch", "transformers", "numpy", "yaml", "tokenizers", "safetensors", "huggingface_hub"]


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    # Typer itself takes pydantic in where a command has options.
    [(["--help"], [*HEAVY, "pydantic"]), (["prune", "--help"], HEAVY), ([], [*HEAVY, "pydantic"])],
)
def test_help_imports_nothing_heavy(
    arguments: Sequence[str], heavy: Sequence[str], tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from regrow.cli.app import main\n"
        "try: main()\n"
        f"finally: print([name for name in {heavy} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "[]"
    assert "Usage: " in done.stdout + done.stderr


def test_importing_regrow_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import regrow, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_every_command_explains_itself(run: Any) -> None:
    names = [
        command.name or getattr(command.callback, "__name__", "")
        for command in app.app.registered_commands
    ]
    assert names == [
        "inspect",
        "analyse",
        "plan",
        "prune",
        "score",
        "run",
        "verify",
        "report",
        "generate",
        "train",
        "eval",
        "compare",
    ]
    shown = run("--help").stdout
    for name in names:
        assert f"  {name} " in shown
        help_text = run(name, "--help")
        assert help_text.exit_code == 0
        assert all(len(line) <= 80 for line in help_text.stdout.splitlines())


# What a user can get wrong

WRONG = {
    "another class": (["inspect", "unknown"], "tokens, but MambaForCausalLM has no tensor of this"),
    "not a directory": (["inspect", "m/config.json"], "m/config.json: is a file; give the "),
    "nothing here": (["inspect", "."], ".: holds no config.json, so it is no model; give the "),
    "a run": (["inspect", "run"], "run: holds no config.json, so it is no model; did you mean "),
    "nothing cut": (["prune", "m", "o", "--layers", "4"],
                    "--layers 4: nothing is cut: the model has that size; give less"),
    "no such setting": (["train", "m", "o", "--text", "text.jsonl", "--set", "token=5"],
                        "--set token: unknown; did you mean tokens?"),
    "a share of nothing": (["plan", "m", "--params", "0.02"], "--params 2% (824): too few for"),
    "no such directory": (["inspect", "nowhere"], "nowhere: no such directory; give one, "),
    "hub id without network": (["inspect", "some/model"], "some/model: is not in the hub's cache"),
    "more layers": (["prune", "m", "o", "--layers", "5"], "--layers: 5 is not between 1 and 4"),
    "no layers": (["prune", "m", "o", "--layers", "0"], "--layers: more than 0 is wanted, not 0"),
    "no size": (["prune", "m", "o", "--hidden", "many"], "--hidden many: not a number such as"),
    "half a layer": (["prune", "m", "o", "--layers", "2.5"], "--layers 2.5: not a whole number"),
    "hidden by heads": (["prune", "m", "o", "--hidden", "30"], "hidden: the llama config class "),
    "no layers of a stack": (["prune", "t5", "o", "--layers", "encoder=0"],
                             "--layers encoder: more than 0 is wanted, not 0"),
    "padded to no tokens": (["prune", "m", "o", "--vocab-size", "0", "--pad-to", "64"],
                            "--vocab-size: "),
    "heads by groups": (["prune", "m", "o", "--heads", "3"],
                        "--heads: 3 heads on 2 key-value heads"),
    "nothing to cut": (["prune", "m", "o"], "nothing to cut; give --layers, --drop-layers, --"),
    "verify a run": (["verify", "run"], "run: holds no config.json, so it is no model; did you "),
    "two ways": (["prune", "t5", "o", "--layers", "2"],
                 "--layers 2: t5 has 2 stacks; give encoder=2 or decoder=2"),
    "no such stack": (["prune", "m", "o", "--ffn", "decoder=4"], "--ffn decoder=4: llama has one "),
    "twice": (["prune", "m", "o", "--ffn", "4", "--ffn", "5"], "--ffn 4 5: give one number, or "),
    "output exists": (["prune", "m", "cut", "--drop-layers", "1"], "cut: already holds something"),
    "output is a file": (["prune", "m", "text.jsonl", "--drop-layers", "1"],
                         "text.jsonl: exists and is not a directory"),
    "output inside": (["prune", "m", "m/o", "--drop-layers", "1"], "m/o: lies inside the model"),
    "output nowhere": (["prune", "m", "text.jsonl/b", "--drop-layers", "1"],
                       "text.jsonl is not a directory; choose another place"),
    "cut of another": (["prune", "cut", "o", "--cut", "cut/regrow_cut.json"],
                       "cut: it was made for model sha256:"),
    "cut missing": (["prune", "m", "o", "--cut", "none.json"], "none.json: no such file"),
    "cut is no cut": (["prune", "m", "o", "--cut", "m/config.json"], "m/config.json: format: not"),
    "cut and sizes": (["prune", "m", "o", "--cut", "x", "--ffn", "4"], "a cut file says all that "),
    "no text": (["prune", "m", "o", "--ffn", "24"], "--calibration"),
    "no text with special tokens": (
        ["prune", "m", "o", "--ffn", "24", "--by", "random", "--special-tokens"],
        "--special-tokens: no text is read; give a calibration text"),
    "no text to plan with special tokens": (
        ["plan", "m", "--params", "60%", "--special-tokens"],
        "--special-tokens: no text is read; give a text"),
    "text empty": (["prune", "m", "o", "--ffn", "24", "--calibration", "empty.txt"],
                   "--calibration: empty.txt: the file holds no text"),
    "text not UTF-8": (["prune", "m", "o", "--ffn", "24", "--calibration", "latin.txt"],
                       "--calibration: latin.txt: line 1 is not UTF-8"),
    "text short": (["prune", "m", "o", "--ffn", "24", "--calibration", "short.txt"],
                   "calibration: the text is "),
    "text missing": (["prune", "m", "o", "--ffn", "24", "--calibration", "none.txt"],
                     "--calibration: none.txt: no such file; name a .txt, .jsonl"),
    "text of a kind": (["prune", "m", "o", "--ffn", "24", "--calibration", "m/config.json"],
                       "--calibration: m/config.json: unknown kind of text"),
    "vocabulary without text": (["prune", "m", "o", "--vocab-size", "300"],
                                "--vocab-size: token counts need a text"),
    "vocabulary too small": (["prune", "m", "o", "--vocab-size", "9", "--calibration",
                              "text.jsonl"], "vocabulary size 9 is too small: the least is 259"),
    "vocabulary without tokenizer": (["prune", "t5", "o", "--vocab-size", "30", "--calibration",
                                      "text.jsonl"], "t5: no tokenizer.json"),
    "tokens of a refit": (["prune", "m", "o", "--ffn", "24", "--calibration", "text.jsonl",
                           "--calibration-tokens", "many"], "--calibration-tokens many: not a "),
    "unknown score": (["prune", "m", "o", "--ffn", "24", "--by", "magic"],
                      f"--by: {SCORE_NAMES} is wanted, not 'magic'"),
    "score and scores": (["prune", "m", "o", "--ffn", "24", "--by", "random", "--scores", "s.json"],
                         "by and scores both say which indices stay; give one"),
    "cut and scores": (["prune", "m", "o", "--cut", "x", "--scores", "s.json"], "a cut file says "),
    "no scores": (["prune", "m", "o", "--ffn", "24", "--scores", "none.json"],
                  "none.json: no such file"),
    "scores of no such kind": (["score", "m", "s.json", "--by", "magic"],
                               "--by 'magic': no such score; those that are: random, activation"),
    "scores of no such axis": (["score", "m", "s.json", "--by", "random", "--axes", "ffn,width"],
                               "--axes width: the model has vocab, hidden, ffn"),
    "scores exist": (["score", "m", "empty.txt", "--by", "random"], "empty.txt: exists; choose"),
    "scores nowhere": (["score", "m", "text.jsonl/s.json", "--by", "random"],
                       "text.jsonl is not a directory; choose another place"),
    "scores inside": (["score", "m", "m/s.json", "--by", "random"], "m/s.json: lies inside the "),
    "scores without text": (["score", "m", "s.json"], "--calibration: hidden: scoring by "),
    "shards": (["prune", "m", "o", "--drop-layers", "1", "--max-shard-size", "big"],
               "--max-shard-size big: not a size such as 5GB or 500MB"),
    "shards of nothing": (["prune", "m", "o", "--drop-layers", "1", "--max-shard-size", "0"],
                          "--max-shard-size 0: not a size"),
    "too many parameters": (["plan", "m", "--params", "1M"], "--params 1,000,000: the model has "),
    "too few parameters": (["plan", "m", "--params", "100"], "--params 100: too few for this "),
    "no number": (["plan", "m", "--params", "3,4B"], "--params 3,4B: not a number such as"),
    "keep more": (["plan", "m", "--params", "150%"], "--params 150%: not a share such as 99.9%"),
    "keep all": (["plan", "m", "--params", "100%"], "--params: a share below 100% is wanted, such"),
    "no share": (["plan", "m", "--bytes", "half%"], "--bytes half%: not a share such as"),
    "no bytes": (["plan", "m", "--bytes", "big"], "--bytes big: not a size such as 5GB or 500MB"),
    "too many bytes": (["plan", "m", "--bytes", "1GB"], "--bytes 1,000,000,000: the model has "),
    "too few bytes": (["plan", "m", "--bytes", "99"], "--bytes 99: too few for this model; the "),
    "no speed": (["plan", "m", "--tokens-per-second", "0", "--text", "text.jsonl"],
                 "--tokens-per-second: more than 0 is wanted, not 0"),
    "speed without text": (["plan", "m", "--tokens-per-second", "9"],
                           "--text: the speed of cuts is measured; give a text"),
    "two budgets": (["plan", "m", "--params", "50%", "--bytes", "1MB"],
                    "plan: give --params, --bytes or --tokens-per-second, one of the three"),
    "measured on nothing": (["plan", "m", "--params", "70%", "--text", "none.txt"],
                            "--text: none.txt: no such file; name a .txt, .jsonl"),
    "measured on little": (["plan", "m", "--params", "70%", "--text", "short.txt"],
                           "--text: the text is 8 characters, too few to hold a part of it back"),
    "measured without weights": (["plan", "config-only", "--params", "70%", "--text",
                                  "text.jsonl"],
                                 "--text: cuts are measured, but the model has no weights"),
    "page without costs": (["plan", "m", "--params", "70%", "--page", "p.html"],
                           "--text: the page shows measured costs; give a text"),
    "page nowhere": (["plan", "m", "--params", "70%", "--text", "text.jsonl", "--page",
                      "text.jsonl/p.html"], "text.jsonl is not a directory"),
    "page over a text": (["plan", "m", "--params", "70%", "--text", "text.jsonl", "--page",
                          "short.txt"], "short.txt: exists and is no page; choose another file"),
    "text not named": (["plan", "m", "text.jsonl", "--params", "70%"],
                       "plan: text.jsonl: give text after --text"),
    "recipe with a budget": (["plan", "small.yaml", "--params", "50%"],
                             "small.yaml: a recipe has its sizes; give nothing else, or a model"),
    "recipe with a seed": (["plan", "small.yaml", "--seed", "3"],
                           "small.yaml: a recipe has its sizes; give nothing else, or a model"),
    "dry run with a control": (["run", "small.yaml", "--dry-run", "--control"],
                               "run: --dry-run shows what the recipe alone does; leave --control "),
    "seed too large": (["generate", "m", "Hello", "--seed", str(2**64)],
                       f"seed {2**64}: a number from 0 to {2**64 - 1} is wanted"),
    "recipe nowhere": (["plan", "none.yaml"], "none.yaml: no such file"),
    "recipe that cannot be": (["plan", "wrong.yaml"],
                              "stages: depth: cut.layers: 9 is not between 1 and 4"),
    "no budget": (["plan", "m"], "plan: give --params, --bytes or --tokens-per-second, "),
    "plan exists": (["plan", "m", "--params", "70%", "--out", "empty.txt"], "empty.txt: exists"),
    "plan nowhere": (["plan", "m", "--params", "70%", "--out", "short.txt/plan.yaml"],
                     "short.txt is not a directory; choose another place"),
    "nothing named": (["run"], "regrow: run: missing argument 'RECIPE'; see regrow run --help"),
    "no such command": (["cut"], "regrow: no such command 'cut'; see "),
    "no such option": (["vocab", "plan", "m", "c", "--half", "9"],
                       "vocab plan: no such option: --half"),
    "option without value": (["prune", "m", "o", "--ffn"],
                             "prune: option '--ffn' requires an argument; see regrow prune --help"),
    "no number at all": (["plan", "m", "--candidates", "many"],
                         "--candidates many: not a number such as"),
    "no recipe": (["run", "none.yaml"], "none.yaml: no such file"),
    "bad recipe": (["run", "empty.txt"], "empty.txt:1: a recipe has the keys name, model"),
    "no run": (["report", "m"], "m: no run was begun here (ledger.jsonl has no entry)"),
    "run nowhere": (["report", "nowhere"], "nowhere: no run was begun here"),
    "verify nowhere": (["verify", "nowhere"], "nowhere: no such directory"),
    "generate from T5": (["generate", "t5", "Hello"], "t5: no tokenizer that transformers can "),
    "generate without prompt": (["generate", "m", ""], "the prompt holds no token"),
    "generate from nothing": (["generate", "m"], "the prompt holds no token"),
    "generate nothing": (["generate", "m", "Hello", "--max-new-tokens", "0"],
                         "--max-new-tokens 0: give at least 1"),
    "generate nowhere": (["generate", "nowhere", "Hello"], "nowhere: no such directory"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_one_line(
    run: Any, place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = listing(place)
    done = run(*arguments)
    told = done.stderr.splitlines()
    assert told[-1].startswith("regrow: ")
    assert message in told[-1]
    assert all(line in ("counting tokens",) or "fetching" in line for line in told[:-1]), told
    assert (done.exit_code, done.stdout) == (2, "")
    assert listing(place) == before


@pytest.mark.parametrize("name", ["hub id without network", "two ways", "output inside"])
def test_the_shell_sees_one_line_and_code_2(place: Path, name: str) -> None:
    arguments, message = WRONG[name]
    done = shell(*arguments, cwd=place)
    assert message in done.stderr
    assert done.stderr.count("\n") == (2 if "hub" in name else 1)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_module_is_called_regrow_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "regrow", "run"], capture_output=True, text=True, check=False,
        env=ENVIRONMENT,
    )  # fmt: skip
    said = "regrow: run: missing argument 'RECIPE'; see regrow run --help\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_disk_that_fails_is_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error", "weights")

    monkeypatch.setattr("regrow.api.inspect", fail)
    done = run("inspect", "m")
    assert (done.exit_code, done.stderr) == (2, "regrow: weights: Input/output error\n")


@pytest.mark.parametrize("option", ["--sync", "--no-sync"])
def test_who_wants_does_not_wait_for_the_disk(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    result = run("prune", "m", str(tmp_path / "o"), "--drop-layers", "1", option)
    assert result.exit_code == 0, result.output
    assert bool(synced) == (option == "--sync")
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_two_do_not_write_one_model(run: Any, tmp_path: Path) -> None:
    with workplace(tmp_path / "o"):
        result = run("prune", "m", str(tmp_path / "o"), "--drop-layers", "1")
    assert result.exit_code == 2
    assert f"o: another process ({os.getpid()}) is writing it" in " ".join(result.output.split())
    assert [*tmp_path.iterdir()] == []


def test_a_defect_keeps_its_traceback(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("regrow.api.inspect", fail)
    assert isinstance(run("inspect", "m").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"), MemoryError(),
     RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_too_little_memory_is_one_line(
    run: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("regrow.api.inspect", fail)
    done = run("inspect", "m")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    said = str(error).partition("\n")[0]
    assert done.stderr.startswith(f"regrow: not enough memory{said and f': {said}'}; a training")
    assert "micro_batch" in done.stderr


def test_ctrl_c_is_one_line(place: Path) -> None:
    code = (
        "import time, regrow.api\n"
        "def wait(*_, **__):\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(600)\n"
        "regrow.api.inspect = wait\n"
        "from regrow.cli.app import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "inspect", "m"], cwd=place, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    timer = threading.Timer(60, process.kill)
    timer.start()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    timer.cancel()
    assert (process.returncode, told) == (130, "regrow: stopped\n")


@pytest.mark.parametrize(
    ("text", "count"),
    [("22", 22), ("65,400,000", 65_400_000), ("65_400_000", 65_400_000), ("67M", 67_000_000),
     ("67.1M", 67_100_000), ("3.4B", 3_400_000_000), ("1.1b", 1_100_000_000), ("2k", 2_000),
     (" 5 ", 5), ("0.5k", 500), ("1e6", 1_000_000), ("2.5E+3", 2_500), ("2G", 2_000_000_000)],
)  # fmt: skip
def test_counts(text: str, count: int) -> None:
    assert quantities.count("--params", text) == count


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "1e-6", "1e6M", "3,4B", "1,00", "1__0", "_1", "2.5", "٣", "1.0001K", "1 2"],
)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(UserError, match="--params"):
        quantities.count("--params", text)


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("1.5k", 1_500), ("7", 7)]
)
def test_sizes_of_files(text: str, size: int) -> None:
    assert quantities.nbytes("--max-shard-size", text) == size


# What is printed


def fits(text: str) -> bool:
    return all(len(line) <= 80 for line in text.splitlines())


def test_inspect(run: Any) -> None:
    done = run("inspect", "m")
    assert done.exit_code == 0
    assert done.stdout.startswith("llama, 41,248 parameters, weights F32 0.2 MB\n")
    assert "output head tied to the embedding; fixed: head_dim 8" in done.stdout
    assert fits(done.stdout)
    found = json.loads(run("inspect", "m", "--json").stdout)
    assert found["parameters"] == 41_248 == sum(found["parts"].values())
    assert {axis["name"]: axis["size"] for axis in found["axes"]}["ffn"] == 48
    assert fits(run("inspect", "t5").stdout)


def test_plan(run: Any, place: Path, tmp_path: Path) -> None:
    done = run("plan", "m", "--params", "60%")
    assert done.exit_code == 0
    path = tmp_path / "plan.yaml"
    path.write_text(done.stdout)
    recipe = load_recipe(path)
    assert Path(recipe.model) == place / "m"
    assert fits(done.stderr)
    written = run("plan", "m", "--params", "60%", "--out", str(tmp_path / "new.yaml"))
    assert (written.exit_code, (tmp_path / "new.yaml").read_text()) == (0, done.stdout)
    found = json.loads(run("plan", "m", "--params", "30,000", "--json").stdout)
    assert found["parameters"] <= 30_000
    assert [stage["parameters"] for stage in found["stages"]][-1] == found["parameters"]


class AskedError(Exception):
    """Raised in place of the work of a command."""


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "m", "o", "--ffn", "24", "--calibration", "t.txt"],
        ["score", "m", "o", "--calibration", "t.txt"],
        ["plan", "m", "--params", "60%", "--text", "t.txt"],
    ],
    ids=["prune", "score", "plan"],
)
def test_names_of_special_tokens_may_be_tokens(
    run: Any, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    def asked(*_: Any, special_tokens: bool = False, **__: Any) -> None:
        raise AskedError(special_tokens)

    monkeypatch.setattr(regrow.api, words[0], asked)
    assert run(*words).exception.args == (False,)
    assert run(*words, "--special-tokens").exception.args == (True,)


def test_plan_by_measured_costs(
    run: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regrow.surgery.search.measure import Measurement

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Measurement, "_cut", lambda _, sizes, *__, **___: sum(sizes.values()))
    monkeypatch.setattr(
        Measurement, "_bits_per_byte", lambda _, cut: 1.0 if not isinstance(cut, int) else 2 - cut
    )
    arguments = ["plan", "m", "--bytes", "70%", "--text", "text.jsonl", "text.jsonl"]
    done = run(*arguments, "--page", str(tmp_path / "p.html"), "--out", str(tmp_path / "r.yaml"))
    assert done.exit_code == 0, done.stderr
    printed = [line for line in done.stderr.splitlines() if str(tmp_path) not in line]
    assert fits("\n".join(printed))
    for text in ("bits per byte", "kv_head, 2", "by fixed costs", "predicted", "uniform sizes"):
        assert text in done.stderr, text
    assert load_recipe(tmp_path / "r.yaml").stages
    assert "<svg" in (tmp_path / "p.html").read_text()
    again = run(*arguments, "--json")
    found = json.loads(again.stdout)
    assert found["search"]["measured_now"] == 0
    assert found["search"]["original"] == 1.0
    assert found["nbytes"] <= 0.7 * found["bytes_before"]
    assert found["search"]["candidates"][0]["parameters"] == found["parameters"]


def test_inspect_a_config_alone(run: Any) -> None:
    done = run("inspect", "config-only")
    assert done.exit_code == 0, done.stderr
    assert "\nfrom the config alone; there are no weights\n" in done.stdout
    full = run("inspect", "m")
    assert done.stdout.replace("from the config alone; there are no weights\n", "") == full.stdout
    assert json.loads(run("inspect", "config-only", "--json").stdout)["fingerprint"] is None


def test_help_and_version(run: Any) -> None:
    assert run("--version").stdout == f"regrow {importlib.metadata.version('regrow')}\n"
    for words in ([], ["prune"], ["vocab"], ["vocab", "plan"]):
        assert run(*words, "-h").stdout == run(*words, "--help").stdout != ""


def test_tokenize_is_tokenise(run: Any) -> None:
    ours, theirs = (run("corpus", name, "--help").stdout for name in ("tokenise", "tokenize"))
    assert ours == theirs.replace("tokenize", "tokenise")
    assert "tokenize" not in run("corpus", "--help").stdout


@pytest.mark.parametrize(
    ("words", "last", "found"),
    [("regrow pr", 1, ["prune"]), ("regrow vocab ", 2, ["count", "plan", "prune", "grow"]),
     ("regrow train --he", 2, ["--heldout", "--help"])],
)  # fmt: skip
def test_the_shell_completes(
    run: Any, monkeypatch: pytest.MonkeyPatch, words: str, last: int, found: list[str]
) -> None:
    monkeypatch.setenv("_REGROW_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(last))
    done = CliRunner().invoke(app.app, [], prog_name="regrow")
    assert done.stdout.split() == found


def test_a_dry_run_shows_the_plan(run: Any, place: Path) -> None:
    before = listing(place)
    done = run("run", "small.yaml", "--dry-run")
    assert (done.exit_code, done.stdout) == (0, run("plan", "small.yaml").stdout)
    assert listing(place) == before


def test_plan_of_a_recipe(run: Any) -> None:
    done = run("plan", "small.yaml")
    assert done.exit_code == 0, done.stderr
    assert "small: llama, m\n" in done.stdout
    assert "51,200" in done.stdout or "51.2K" in done.stdout
    assert fits(done.stdout)
    found = json.loads(run("plan", "small.yaml", "--json").stdout)
    assert found["original"]["stored"] == 41_248
    (stage,) = found["stages"]
    assert (stage["name"], stage["sizes"]["layer"]) == ("depth", 2)
    assert stage["training"]["tokens"] == 51_200
    assert stage["training"]["flops"] == found["flops"] > 6 * 51_200 * stage["stored"]


def test_the_plan_of_openba_v2_fits_the_terminal(run: Any) -> None:
    recipe = str(Path(__file__).parents[2] / "recipes/openba-v2.yaml")
    done = run("plan", recipe)
    assert done.exit_code == 0, done.stderr
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[1:])
    assert "…" not in done.stdout
    assert re.search(r"stage-5 +O-UL2 +700B +2,048 +1,040\+1,040 +87.60 +99.1 +0.884", done.stdout)
    found = json.loads(run("plan", recipe, "--json").stdout)
    assert found["stages"][4]["training"]["reported"]["flops"] == 99.1e20
    assert "…" not in run("inspect", str(Path(recipe).with_name("openba-15b"))).stdout


def test_prune_dry_run_writes_nothing(run: Any, place: Path) -> None:
    before = listing(place)
    done = run("prune", "m", "o", "--drop-layers", "1-2", "--dry-run")
    assert done.exit_code == 0
    assert "4 -> 2 layers (without 1-2)" in done.stdout
    assert "nothing written; 0.1 MB would be in o" in done.stdout
    assert fits(done.stdout)
    assert listing(place) == before


def test_prune_from_the_shell(run: Any, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    arguments = ["prune", "m", str(out), "--layers", "3", "--ffn", "24", "--hidden", "16",
                 "--vocab-size", "300", "--by", "random", "--calibration", "text.jsonl",
                 "--calibration-tokens", "64", "--max-shard-size", "30kB"]  # fmt: skip
    done = shell(*arguments, "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["parameters"] == regrow.inspect(out).parameters
    assert found["words"].endswith("vocabulary 320 -> 300")
    assert "refitted on 64 tokens" in (out / "README.md").read_text()
    assert len(list(out.glob("model-*.safetensors"))) == 2
    checked = run("verify", str(out))
    assert checked.exit_code == 0, checked.output
    assert {line[:4] for line in checked.stdout.splitlines()} == {"ok  "}


def test_a_model_that_fails_its_checks_fails_the_command(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = (Check("keys", True, ""), Check("ids", False, "eos_token_id is 999 of 320"))
    monkeypatch.setattr("regrow.api.verify", lambda path, **_: VerifyResult(path, checks))
    done = run("verify", "m")
    assert (done.exit_code, done.stdout) == (1, "ok   keys\nFAIL ids: eos_token_id is 999 of 320\n")
    done = run("verify", "m", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["checks"][1]["name"]) == (1, False, "ids")


def test_generate(run: Any, place: Path) -> None:
    done = run("generate", "m", "The river", "--max-new-tokens", "3")
    assert done.exit_code == 0, done.output
    assert done.stdout == regrow.generate(place / "m", "The river", max_new_tokens=3) + "\n"


def test_a_prompt_from_stdin_and_sampling(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    model = add_chat_template(Path(shutil.copytree("m", tmp_path / "chat")))

    def say(*options: str, **more: Any) -> str:
        words = ["generate", str(model), *options, "--max-new-tokens", "8"]
        done = CliRunner().invoke(app.app, words, **more)
        assert done.exit_code == 0, done.output
        return str(done.stdout)

    asked = say("The river")
    assert say("-", input="The river\n") == say(input="The river") == asked
    raw = say("The river", "--raw")
    assert raw != asked
    assert raw == regrow.generate(place / "m", "The river", max_new_tokens=8) + "\n"
    drawn = say("The river", "--temperature", "2", "--seed", "1")
    assert drawn == say("The river", "--temperature", "2", "--seed", "1")
    assert len({drawn, asked, say("The river", "--temperature", "2", "--seed", "2")}) == 3


def test_an_empty_answer_is_said_and_not_printed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regrow.api.generate", lambda *_, **__: "\n")
    done = run("generate", "m", "Hello")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "the model ended at once: it wrote no text\n"


def test_a_cut_file_repeats_a_cut(run: Any, place: Path, tmp_path: Path) -> None:
    done = run("prune", "m", str(tmp_path / "o"), "--cut", "cut/regrow_cut.json")
    assert done.exit_code == 0, done.stderr
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "o" / name).read_bytes() == (place / "cut" / name).read_bytes()


def test_a_model_writes_a_corpus(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "text.jsonl"
    options = ["--tokens", "40", "--batch-size", "2", "--temperature", "0.9"]
    done = run("corpus", "write", "m", str(out), *options, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tokens"] >= 40
    assert out.is_file()
    assert json.loads(out.with_suffix(".json").read_text())["temperature"] == 0.9
    again = run("corpus", "write", "m", str(out), *options)
    assert again.exit_code == 2
    assert "exists; choose another file" in again.stderr
    wrong = run("corpus", "write", "m", str(tmp_path / "b.jsonl"), "--tokens", "0")
    assert "--tokens 0: give a number above 0" in wrong.stderr
    options[:2] = ["--tokens", "40", "--languages", "en, xx,yy"]
    wrong = run("corpus", "write", "m", str(tmp_path / "b.jsonl"), *options)
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("regrow: --languages: xx, yy: no language that lid.176 tells")
    assert wrong.stderr.count("\n") == 1
    wrong = run(
        "corpus", "write", "m", str(tmp_path / "b.jsonl"), "--tokens", "40", "--languages", ","
    )
    assert wrong.stderr == "regrow: --languages ,: give codes such as en,zh\n"
    assert not list(tmp_path.glob("*b.jsonl*"))
