"""Render chat templates in a process of its own, with bounds on time, memory and text.

A template is a program from the directory of a model. The sandbox of transformers keeps it from
files and commands, but it can still loop for hours or fill the memory. The process is started at
the first rendering and does all that follow. Starting takes about a second of CPU, a rendering less
than a millisecond.

Some templates write the date of today (those of Llama 3.2 and SmolLM3). They get a fixed one, so
that the same conversation is the same tokens on each day, and a run goes on after midnight.
"""

import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import IO, Any, Self

from regrow.common.errors import UserError, one_line

LARGEST_TEMPLATE = 1 << 20
"""Characters of a template."""
_MOST_SECONDS = 4
"""CPU time of one rendering."""
_MOST_WAIT = 120.0
"""Seconds from the request to the answer, for a machine that does other work too."""
_MOST_MEMORY = 512 << 20
"""Bytes beyond those that the process has when it begins."""
_MOST_TEXT = 16 << 20
"""Characters of a rendered chat."""

Messages = Sequence[Mapping[str, str]]


def render_chat(tokenizer: Any, messages: Messages, *, add_generation_prompt: bool) -> str:
    """A conversation as text, as `tokenizer.apply_chat_template` gives it, but for today's date.

    Args:
        tokenizer: of transformers, with a chat template.
        messages: each with its `role` and `content`.
        add_generation_prompt: whether the text goes on to where an answer begins.

    Raises UserError if the template fails, or takes too much time or memory.
    """
    where = f"{tokenizer.name_or_path or 'tokenizer'}: the chat template"
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError as error:  # several templates, and none of them is the default
        raise UserError(f"{where} cannot be chosen: {_reason(error)}") from None
    if len(template) > LARGEST_TEMPLATE:
        raise UserError(f"{where} is larger than 1 MB, the most that is rendered")
    request = {
        "conversations": [list(messages)],
        "chat_template": template,
        "add_generation_prompt": add_generation_prompt,
        "special_tokens": tokenizer.special_tokens_map,
    }
    answer = _renderer.ask(json.dumps(request, default=str).encode())
    if "text" not in answer:
        raise UserError(f"{where} cannot be rendered: {answer['error']}")
    return str(answer["text"])


class _Renderer:
    """The process that renders, and the pipes to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: bytes) -> dict[str, str]:
        """The answer to a request, a line of JSON: its `text`, or an `error` in words."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(request + b"\n")
                process.stdin.flush()
                line = _read_line(process.stdout, time.monotonic() + _MOST_WAIT)
            except (BrokenPipeError, TimeoutError):
                line = b""
            except BaseException:  # an answer that comes later must not go to another request
                self._end(process)
                raise
            if line.endswith(b"\n"):
                found: dict[str, str] = json.loads(line)
                return found
            self._end(process)
        return {
            "error": f"it takes more than {_MOST_SECONDS} seconds, or more than "
            f"{_MOST_MEMORY >> 20} MB"
        }

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.wait()
        self._process = None

    def _started(self) -> "subprocess.Popen[bytes]":
        is_mine = self._owner == os.getpid()  # a fork must not use the pipes of its parent
        if self._process is None or not is_mine or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "regrow.tokenizers.chat_rendering"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                process_group=0,
            )  # fmt: skip
            self._owner = os.getpid()
        return self._process


_renderer = _Renderer()


def _read_line(pipe: IO[bytes], deadline: float) -> bytes:
    """A line, or what comes before the end. Raises TimeoutError after the deadline."""
    found = bytearray()
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        part = os.read(pipe.fileno(), 1 << 16)
        if not part:
            break
        found += part
    return bytes(found)


def _reason(error: BaseException) -> str:
    name = type(error).__name__
    text = one_line(str(error))[:200]
    return f"{name}: {text}" if text else name


# The process that renders


class _FixedDate(datetime):
    """A class of dates in which it is always the same day."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2025, 1, 1, tzinfo=tz)


def _bound(kind: int, most: int) -> None:
    """Bound what this process may use; not above a limit that it was started with."""
    hard = resource.getrlimit(kind)[1]
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (soft, hard))


def main() -> None:
    """Answer the requests on standard input, a line each, until it ends."""
    from transformers.utils import chat_template_utils

    # The global functions of a template, such as `strftime_now`, cannot be given as arguments.
    chat_template_utils.datetime = _FixedDate
    statm = Path("/proc/self/statm")
    if statm.is_file():  # Linux; others do not bound the memory of a process
        size = int(statm.read_text().split()[0]) * resource.getpagesize()
        _bound(resource.RLIMIT_AS, size + _MOST_MEMORY)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(usage.ru_utime + usage.ru_stime) + _MOST_SECONDS + 1
        _bound(resource.RLIMIT_CPU, seconds)
        try:
            request = json.loads(line)
            special = request.pop("special_tokens")
            texts, _ = chat_template_utils.render_jinja_template(**request, **special)
            if len(texts[0]) > _MOST_TEXT:
                raise ValueError(f"it gives more than {_MOST_TEXT >> 20} MB of text")
            texts[0].encode()
            answer = {"text": texts[0]}
        except MemoryError:
            answer = {"error": f"it takes more than {_MOST_MEMORY >> 20} MB"}
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            answer = {"error": _reason(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
