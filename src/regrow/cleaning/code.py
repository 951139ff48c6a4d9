r"""Which lines of a text are code.

Steps that are made for prose leave code as it is. A line is code if it is

- inside of a fenced block of Markdown (````` ``` ````` or ``~~~``), with the fences, or
- written like code: it has the form of a statement of common languages, or many of its
  characters are brackets, operators and underscores. A line between two such lines is code too.
"""

import re
from collections.abc import Iterator

_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})")
_STATEMENT = re.compile(
    r"""\s*(?:
      (?:from\s+[\w.]+\s+)?import\s+[\w.{*]+(?:\s+(?:as|from)\b.*|\s*[,;(].*)?\Z
    | (?:async\s+)?def\s+\w+\s*\( | class\s+\w+\s*[({:] | (?:func|fn|function)\s+\w+\s*[(<]
    | \#\s*(?:include|define|ifdef|ifndef|endif|pragma)\b | \#!/
    | (?:public|private|protected|static|const|let|var|auto|unsigned|extern)\s+
      [\w<>\[\]*&,:\s]+(?:=|;\Z|\{\Z|\(.*[;{]\Z)
    | (?:\}\s*)?(?:if|else\s+if|elif|while|for|switch|catch)\s*\(.*\)\s*\{?\Z
    | (?:if|elif|while)\s[^=<>(\[!]*[=<>(\[!].*:\Z | for\s+\w+(?:,\s*\w+)*\s+in\s.*:\Z
    | with\s.*(?:\)|\sas\s+\w+):\Z | (?:\}\s*)?(?:else|try|finally|do|then)\s*[:{]\Z
    | (?:break|continue|pass|return);?\Z | return\s+[\w.]+;?\Z | return\b.*[;)\]]\Z
    | \$\s[a-z] | >>>\s | </?[A-Za-z][\w-]*(?:\s[^<>]*)?/?>
    | [\w.\[\]'"]+\s*(?:=|\+=|-=|:=|<-|=>)\s*\S | [\w.]+\([^()]*\)\s*;?\Z
    | [})\]][})\],;\s]*\Z | .*\{\Z | (?=.*;\Z).*(?:\w\(|=|->)
    )""",
    re.VERBOSE,
)
_SYMBOLS = re.compile(r"[{}\[\];=<>_&$\\+@^]|(?<=\w)\(|\)(?=[;:.,\])])")
_DENSE = 0.15
"""A line with a larger share of symbols among its visible characters is code."""
_FEWEST = 3
"""Fewer symbols in a line prove nothing."""
_PROSE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[.!?]\Z")
"""What code seldom has outside of comments: a script without spaces, the end of a sentence."""
_LONGEST = 2_000
"""Longer lines are judged by their beginning."""


def lines_with_code(text: str) -> Iterator[tuple[str, bool]]:
    """The lines of a text, split at line feeds and with them, each with whether it is code."""
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    yield from zip(lines, _marks(lines), strict=True)


def parts_with_code(text: str) -> Iterator[tuple[str, bool]]:
    """The text in parts of consecutive lines that are all code, or all not."""
    held: list[str] = []
    before = False
    for line, is_code in lines_with_code(text):
        if held and is_code is not before:
            yield "".join(held), before
            held = []
        held.append(line)
        before = is_code
    if held:
        yield "".join(held), before


def _marks(lines: list[str]) -> list[bool]:
    marks: list[bool] = []
    fence = ""
    for line in lines:
        hit = _FENCE.match(line)
        if fence:
            marks.append(True)
            if hit and hit[1].startswith(fence) and not line[hit.end() :].strip():
                fence = ""
        elif hit and "`" not in line[hit.end() :]:
            fence = hit[1]
            marks.append(True)
        else:
            marks.append(is_code_line(line))
    _join(lines, marks)
    return marks


def _join(lines: list[str], marks: list[bool]) -> None:
    """Mark a line, or blank lines, between two lines of code, unless it is prose."""
    for at in range(1, len(lines) - 1):
        if (
            not marks[at]
            and marks[at - 1]
            and marks[at + 1]
            and not _PROSE.search(lines[at].rstrip())
        ):
            marks[at] = True


def is_code_line(line: str) -> bool:
    """Whether a line by itself is written like code."""
    line = line[:_LONGEST].strip()
    symbols = len(_SYMBOLS.findall(line))
    visible = len("".join(line.split()))
    dense = symbols >= _FEWEST and symbols > _DENSE * visible and any(c.isalnum() for c in line)
    if _PROSE.search(line):
        return dense and symbols > 2 * _DENSE * visible
    return dense or _STATEMENT.match(line) is not None
