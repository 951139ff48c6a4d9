"""SIGINT at any moment ends a command with 130 and one line, or ends its process at once."""

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import regrow
from tests.tiny import write_model

INTERRUPT_AT = """
import os, signal, sys
module = sys.argv.pop(1)
def interrupt(event, arguments):
    if event == "import" and arguments[0] == module:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
from regrow.__main__ import main
main()
"""
AT_EXIT = """
import atexit, os, signal
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
from regrow.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("interrupts") / "m")


def ended(code: str, *arguments: object) -> tuple[int, str]:
    """Exit code and standard error of a process."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
        check=False, timeout=100,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("module", ["regrow.cli.app", "typer", "rich.console", "regrow.cli.vocab"])
def test_before_a_command_begins_the_process_ends_at_once(model: Path, module: str) -> None:
    assert ended(INTERRUPT_AT, module, "inspect", model) == (-signal.SIGINT, "")


@pytest.mark.parametrize("module", ["regrow.api", "regrow.checkpoint.reader", "numpy.linalg"])
def test_while_a_command_imports_it_is_stopped(model: Path, module: str) -> None:
    assert ended(INTERRUPT_AT, module, "inspect", model) == (130, "regrow: stopped\n")


def test_after_a_command_has_ended_nothing_is_printed() -> None:
    code, said = ended(AT_EXIT, "inspect", "none")
    assert code == -signal.SIGINT
    assert said.startswith("regrow: none: no such directory")
    assert said.count("\n") == 1


IN_A_LIBRARY = """
import os, signal, sys, threading, time
from tokenizers import Tokenizer, models, trainers
from regrow import api

def interrupt_soon():
    def interrupt():
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()

def in_a_long_call(tokenizer):
    interrupt_soon()
    for _ in range(1_000):
        tokenizer.encode_batch(["river bridge " * 20_000] * 4)

def in_an_iterator_that_a_library_reads(tokenizer):
    def texts():
        yield "river"
        os.kill(os.getpid(), signal.SIGINT)
        yield "bridge"
    tokenizer.train_from_iterator(texts(), trainers.BpeTrainer(show_progress=False))

def in_a_thread_that_a_library_joins(_):
    interrupt_soon()
    waiting = threading.Thread(target=time.sleep, args=(60,), daemon=True)
    waiting.start()
    waiting.join()

work = globals()[sys.argv.pop(1)]
tokenizer = Tokenizer(models.BPE({"?": 0}, [], unk_token="?"))
api.inspect = lambda *_, **__: work(tokenizer)
from regrow.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "work",
    ["in_a_long_call", "in_an_iterator_that_a_library_reads", "in_a_thread_that_a_library_joins"],
)
def test_an_interrupt_in_a_library_stops_the_command(work: str) -> None:
    # In a process of its own: an interrupt that is late would stop the tests.
    assert ended(IN_A_LIBRARY, work, "inspect", "m") == (130, "regrow: stopped\n")


def test_ctrl_c_reaches_no_process_that_a_command_started() -> None:
    """A terminal sends SIGINT to the whole group; a child that dies of it looks like a failure."""
    root = Path(regrow.__file__).parent
    starts = [
        (path.name, {keyword.arg for keyword in call.keywords})
        for path in root.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("subprocess.run", "subprocess.Popen")
    ]
    assert len(starts) >= 3
    assert [name for name, keywords in starts if "process_group" not in keywords] == []
