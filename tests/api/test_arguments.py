"""Arguments as Python has them: unknown names, one file or several, numbers as text."""

from pathlib import Path
from typing import Any

import pytest

import regrow
from regrow.api.arguments import names, nbytes, number, paths
from regrow.common.errors import UserError
from tests.tiny import write_model

UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    ("prune", {"model": "m", "out": "o", "layrs": 3}, "did you mean 'layers'"),
    ("prune", {"model": "m", "out": "o", "special_token": True}, "did you mean 'special_tokens'"),
    ("score", {"model": "m", "out": "o", "zzz": 9}, "calibration_tokens, special_tokens"),
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


@pytest.mark.parametrize(("function", "given", "hint"), UNKNOWN, ids=[hint for *_, hint in UNKNOWN])
def test_unknown_arguments_are_type_errors(function: str, given: dict[str, Any], hint: str) -> None:
    with pytest.raises(TypeError, match=rf"^{function}\(\) got an unexpected keyword") as error:
        getattr(regrow, function)(**given)
    assert hint in str(error.value)


@pytest.mark.parametrize("function", ["prune", "score"])
@pytest.mark.parametrize("given", ["false", 1, None])
def test_special_tokens_are_true_or_false(tmp_path: Path, function: str, given: Any) -> None:
    with pytest.raises(UserError) as error:
        getattr(regrow, function)("m", tmp_path / "out", special_tokens=given)
    assert str(error.value) == f"special_tokens: true or false is wanted, not {given!r}"
    assert error.value.key == "special_tokens"
    assert not (tmp_path / "out").exists()


def test_one_file_or_several() -> None:
    assert paths("a.txt") == paths(Path("a.txt")) == paths(["a.txt"]) == [Path("a.txt")]
    assert paths(("a", Path("b"))) == [Path("a"), Path("b")]
    assert names("control") == names(["control"]) == ["control"]


def test_numbers_as_text() -> None:
    assert number("tokens", "2M") == number("tokens", 2_000_000)
    assert nbytes("max_shard_bytes", "500MB") == 500_000_000
    wrong: list[Any] = ["many", True, 2.5, None, -1]
    for each in wrong:
        with pytest.raises(UserError, match="tokens"):
            number("tokens", each)
    with pytest.raises(UserError, match="max_shard_bytes: at least 1 is wanted, not 0"):
        nbytes("max_shard_bytes", 0)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("prune", {"out": "o", "layers": 2, "seed": -1}, "seed: at least 0 is wanted, not -1"),
    ("score", {"out": "o", "by": "random", "seed": "x"}, "seed x: not a number"),
    ("tokenise", {"out": "o", "text": "t", "workers": -1}, "workers: at least 1 is wanted, not -1"),
    ("count_vocabulary", {"out": "o", "corpus": "t", "workers": 0}, "workers: at least 1 is wan"),
    ("grow_vocabulary", {"out": "o", "corpus": "t", "min_count": 0}, "min_count 0: at least 1"),
    ("write_corpus", {"out": "o", "tokens": 9, "seed": -4}, "seed: at least 0 is wanted, not -4"),
    ("write_corpus", {"out": "o", "tokens": 9, "temperature": "hot"}, "temperature: a number is"),
    ("write_corpus", {"out": "o", "tokens": 9, "batch_size": 0}, "batch_size: at least 1 is want"),
    ("write_corpus", {"out": "o", "tokens": 9, "languages": ""}, "languages: : no language that"),
    ("generate", {"prompt": "x", "max_new_tokens": 0}, "max_new_tokens: at least 1 is wanted"),
    ("training_recipe", {"text": "t", "heldout": "h", "seed": -1}, "seed: at least 0 is wanted"),
]


@pytest.mark.parametrize(("function", "given", "message"), WRONG, ids=[each[0] for each in WRONG])
def test_wrong_numbers_are_named(
    tmp_path: Path, function: str, given: dict[str, Any], message: str
) -> None:
    model = write_model(tmp_path / "m")
    places = {"out": tmp_path / "o.jsonl"} if "out" in given else {}
    with pytest.raises(UserError) as error:
        getattr(regrow, function)(model, **{**given, **places})
    assert message in str(error.value)
    assert not (tmp_path / "o.jsonl").exists()
