"""Every command in the README and in docs/ runs: as it is written, on tiny files of those names."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regrow.cli import app
from regrow.surgery.search.measure import Measurement
from tests.threads import use_threads
from tests.tiny import sentences, write_model, write_text

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    r"^torchrun .*": "several processes; tests/pipeline/test_run_together.py starts them",
    r"^regrow run recipes/mini-openba-train\.yaml$": "trains for hours; tests read the recipe",
    r"^regrow run recipes/half\.yaml$": "trains for most of an hour; tests read the recipe",
    r"^regrow plan .* --tokens-per-second .*": "times the machine; tests/surgery/search has it",
    r"^regrow (eval|compare) .*": "needs questions; tests/cli/test_evaluate.py has them",
    r"^regrow instructions .*": "needs tasks; tests/cli/test_instructions.py has them",
    r"^regrow ner .*": "needs annotated sentences; tests/cli/test_ner.py has them",
    r".* runs/quickstart( .*)?$": "the run of the demo",
    r"^regrow analyse SmolLM2.*": "the demo's model; tests/cli/test_analyse.py has a small one",
    r".*\[OPTIONS\]": "a line of usage",
    r"^regrow --install-completion$": "changes the files of the user's shell",
}
"""Patterns of commands that are not run, and why."""
TINY = [
    (r"--params 67M", "--params 30_000"),
    (r"--layers 22\b", "--layers 3"),
    (r"--ffn 960\b", "--ffn 40"),
    (r"--hidden 160\b", "--hidden 24"),
    (r"--minimum 4000\b", "--minimum 4"),
    (r"--calibration-tokens 8192\b", "--calibration-tokens 512"),
    (r"--tokens 2M\b", "--tokens 2000"),
    (r"--set tokens=[0-9]+[MB]", "--set tokens=128 --set row_length=32 --set batch_tokens=64"),
    (r"^(regrow train MODEL (?!.*--set).*)$", r"\1 --set tokens=128 --set row_length=32"),
    (r"\brecipes/", f"{ROOT}/recipes/"),
    (r"\bSMOL\b", "MODEL"),
]
"""What is written for a real model, and what fits the tiny one."""
OUTPUTS = ("OUT", "OUT.jsonl", "OUT.json", "COUNTS", "FILE", "plan.html", "plan.json", "runs")
"""What commands write, of which each begins without those before it, unless it reads them."""
RECIPE = """name: small
model: MODEL
data: {train: text.jsonl, heldout: {domain: heldout.jsonl}}
stages:
  - name: NAME
    recover: {tokens: 128, row_length: 32, batch_tokens: 64}
"""


def commands(page: Path) -> Iterator[str]:
    """The commands in the code blocks of a page, without comments."""
    text = page.read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if language not in ("", "bash", "sh", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#\s.*$", "", line.strip())
            if re.match(r"(regrow|torchrun|echo .*\| *regrow) ", command):
                yield command


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages name."""
    home = tmp_path_factory.mktemp("documented")
    write_model(home / "MODEL")
    (home / "DIR").symlink_to("MODEL")
    for number, name in enumerate(
        ["text.jsonl", "train.jsonl", "heldout.jsonl", "more.jsonl", "other.jsonl", "a.jsonl",
         "corpus/a.jsonl", "web/a.jsonl", "manuals/a.jsonl"]
    ):  # fmt: skip
        (home / name).parent.mkdir(exist_ok=True)
        write_text(home / name, sentences(60, seed=number))
    talk = [{"prompt": text, "completion": text.split()[1]} for text in sentences(60)]
    (home / "OUT").mkdir()  # what `regrow instructions build` writes
    for name, rows in (("chat", talk), ("OUT/train", talk[6:]), ("OUT/heldout", talk[:6])):
        text = "".join(json.dumps(each) + "\n" for each in rows)
        (home / f"{name}.jsonl").write_text(text)
    (home / "b.txt").write_text("\n".join(sentences(60, seed=50)))
    (home / "manuals/b.txt").write_text("use kubectl get, then kubectl. " * 40)
    zstandard = pytest.importorskip("zstandard")
    for name in ("web/a.jsonl.zst", "wiki-1.jsonl.zst"):
        data = (home / "a.jsonl").read_bytes()
        (home / name).write_bytes(zstandard.ZstdCompressor().compress(data))
    (home / "web/a.jsonl").unlink()
    shutil.copy(home / "wiki-1.jsonl.zst", home / "b.jsonl.zst")
    (home / "domain.txt").write_text("e\n")
    (home / "recipe.yaml").write_text(RECIPE)
    (home / "corpus.yaml").write_text("out: clean\nsources: [{name: manuals, path: manuals}]\n")
    return home


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads in place of processes, and made-up costs in place of measured ones."""

    use_threads(monkeypatch)
    monkeypatch.setattr(Measurement, "_cut", lambda _, sizes, *__, **___: sum(sizes.values()))
    monkeypatch.setattr(
        Measurement, "_bits_per_byte", lambda _, cut: 1.0 if not isinstance(cut, int) else 2 - cut
    )


def expanded(words: list[str]) -> Iterator[str]:
    """Patterns as the shell expands them."""
    for word in words:
        found = [str(path) for path in sorted(Path().glob(word))] if "*" in word else []
        yield from found or [word]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(
    home: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(shutil.copytree(home, tmp_path / "here", symlinks=True))
    for command in commands(page):
        if any(re.match(pattern, command) for pattern in NOT_RUN):
            continue
        tiny = command
        for pattern, replacement in TINY:
            tiny = re.sub(pattern, replacement, tiny)
        said, pipe, called = tiny.rpartition("| ")
        _, *words = expanded(shlex.split(called))
        for name in OUTPUTS:
            if name in words and f"--plan {name}" not in tiny:
                path = Path(name)
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        given = shlex.split(said)[-1] if pipe else None
        done = CliRunner().invoke(app.app, words, input=given)
        assert done.exit_code == 0, (command, done.output, done.exception)


def test_each_exception_is_still_needed() -> None:
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) > 30
    for pattern in NOT_RUN:
        assert any(re.match(pattern, command) for command in found), pattern
    for pattern, _ in TINY:
        assert any(re.search(pattern, command) for command in found), pattern
