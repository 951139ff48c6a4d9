"""Arguments as Python has them: unknown names, one file or several, numbers as text."""

from pathlib import Path
from typing import Any

import pytest

import regrow
from regrow.api.arguments import names, nbytes, number, paths
from regrow.common.errors import UserError

UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    ("prune", {"model": "m", "out": "o", "layrs": 3}, "did you mean 'layers'"),
    ("plan", {"model": "m", "param": "50%"}, "did you mean 'params'"),
    ("score", {"model": "m", "out": "o", "axis": "ffn"}, "did you mean 'axes'"),
    ("write_corpus", {"model": "m", "out": "o", "tokens": 9, "sed": 1}, "did you mean 'seed'"),
    ("plan_vocabulary", {"model": "m", "counts": "c", "sizes": 9}, "did you mean 'size'"),
    ("grow_vocabulary", {"model": "m", "out": "o", "corpus": "c", "zzz": 9}, "it takes max_tokens"),
    (
        "training_recipe", {"model": "m", "text": "t", "heldout": "h", "learning_rates": 1e-4},
        "did you mean 'learning_rate'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("function", "given", "hint"), UNKNOWN, ids=[each[0] for each in UNKNOWN])
def test_unknown_arguments_are_type_errors(function: str, given: dict[str, Any], hint: str) -> None:
    with pytest.raises(TypeError, match=rf"^{function}\(\) got an unexpected keyword") as error:
        getattr(regrow, function)(**given)
    assert hint in str(error.value)


def test_one_file_or_several() -> None:
    assert paths("a.txt") == paths(Path("a.txt")) == paths(["a.txt"]) == [Path("a.txt")]
    assert paths(("a", Path("b"))) == [Path("a"), Path("b")]
    assert names("control") == names(["control"]) == ["control"]


def test_numbers_as_text() -> None:
    assert number("tokens", "2M") == number("tokens", 2_000_000)
    assert nbytes("max_shard_bytes", "500MB") == 500_000_000
    for wrong in ("many", True, 2.5, None):
        with pytest.raises(UserError, match="tokens"):
            number("tokens", wrong)  # type: ignore[arg-type]
