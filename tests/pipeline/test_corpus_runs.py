"""Runs whose training text is token stores, or several sources in shares."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from regrow.architectures.t5 import T5
from regrow.common.errors import UserError
from regrow.common.progress import Progress, Update
from regrow.corpus import tokenisation, turns
from regrow.corpus.parallel import Workers
from regrow.models.loading import load_tokenizer
from regrow.scoring.calibration import CalibrationText
from tests.pipeline.runs import Recipe, StoppedError, entries, go, recover, weights
from tests.tiny import sentences, write_model, write_seq2seq, write_text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, texts, and one text as stores of either tokenizer."""
    home = tmp_path_factory.mktemp("corpus")
    write_model(home / "m")
    write_seq2seq(home / "t5", T5)
    for number, name in enumerate(("one", "two")):
        write_text(home / f"{name}.jsonl", sentences(30, seed=number))
    store(home, "m", "one")
    store(home, "t5", "one")
    write_text(home / "short.jsonl", ["No."])
    write_text(home / "heldout.jsonl", sentences(4, seed=2))
    return home


def store(home: Path, model: str, name: str) -> None:
    """`NAME.jsonl` as the store `MODEL-NAME`, without another process."""
    text, out = home / f"{name}.jsonl", home / f"{model}-{name}"
    job = tokenisation.plan_store(home / model, out, [text], eos=True)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as executor:
        patch.setattr(tokenisation, "_worker", (load_tokenizer(home / model), job), raising=False)
        tokenisation.write_store(job, out, [text], Workers(executor, ahead=1))


def recipe(home: Path, train: Any, stages: list[dict[str, Any]], model: str = "m") -> Recipe:
    return {
        "name": "tiny", "model": str(home / model), "seed": 3, "threads": 1,
        "data": {"train": train, "heldout": {"domain": str(home / "heldout.jsonl")}},
        "stages": stages,
    }  # fmt: skip


DEPTH = {"name": "a", "cut": {"layers": 3, "calibration_tokens": 512}, "recover": recover(320)}


@pytest.mark.parametrize(
    ("model", "objective"),
    [("m", "causal"), ("m", "prefix-lm"), ("t5", "ul2"), ("t5", "o-ul2")],
)
def test_a_store_is_as_good_as_its_text(
    home: Path, tmp_path: Path, model: str, objective: str
) -> None:
    """Scores, rows, counts of tokens and so the weights are the same to the last bit.

    UL2 gives the tokenizer prefixes that it did not have when the store was written.
    """
    row = 48 if objective == "o-ul2" else 32
    stage = {"recover": recover(200, objective=objective, row_length=row)}
    stages: list[dict[str, Any]] = [{"name": "a"} | stage]
    if model == "m":
        stages = [DEPTH | stage, {"name": "b", "cut": {"vocab_size": 300}}]
    go(recipe(home, str(home / "one.jsonl"), stages, model), tmp_path / "text")
    go(recipe(home, str(home / f"{model}-one"), stages, model), tmp_path / "store")
    assert weights(tmp_path / "text") == weights(tmp_path / "store") != {}
    text, stored = (
        entries(tmp_path / name)["texts"].outputs["texts"][0] for name in ("text", "store")
    )
    assert (text["documents"], text["tokens"]) == (stored["documents"], stored["tokens"])
    assert text["sha256"] != stored["sha256"]


def mixture(home: Path, one: float, two: float, model: str = "m") -> list[dict[str, Any]]:
    return [
        {"name": "first", "path": str(home / f"{model}-one"), "weight": one},
        {"path": [str(home / "two.jsonl")], "weight": two},
    ]


def test_a_cut_is_chosen_on_text_of_each_source(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the first source is one long document."""
    (tmp_path / "book.txt").write_text("x" * 5_000)
    monkeypatch.setattr(turns, "TURN", 300)
    read: list[str] = []

    def stopped(*_: Any, documents: Any, **__: Any) -> None:
        read.extend(CalibrationText(documents).read())
        raise StoppedError

    monkeypatch.setattr("regrow.pipeline.run.prune_checkpoint", stopped)
    sources = [{"path": str(tmp_path / "book.txt")}, {"path": str(home / "two.jsonl")}]
    with pytest.raises(StoppedError):
        go(recipe(home, sources, [{"name": "a", "cut": {"layers": 3}}]), tmp_path / "out")
    texts = sentences(30, seed=1)
    assert read[0] == "x" * 300
    assert read[1 : read.index("x" * 300, 1)] == texts[: read.index("x" * 300, 1) - 1] != []


@pytest.mark.parametrize(
    ("model", "objective"), [("m", "causal"), ("t5", "ul2"), ("t5", "o-ul2"), ("m", "o-ul2")]
)
def test_a_mixture_is_stopped_and_ends_in_the_same_bits(
    home: Path, tmp_path: Path, model: str, objective: str
) -> None:
    tokens, row = (640, 64) if objective == "o-ul2" else (320, 32)
    recovery = recover(tokens, objective=objective, save_every=0, row_length=row)
    stages = [{"name": "a", "recover": recovery}]
    mixed = recipe(home, mixture(home, 3, 1, model), stages, model)
    go(mixed, tmp_path / "whole")

    losses: list[float] = []

    def watch(update: Update) -> None:
        if update.loss is not None:
            losses.append(update.loss)
            if len(losses) == 3:
                raise StoppedError

    with pytest.raises(StoppedError):
        go(mixed, tmp_path / "stopped", progress=Progress(update=watch))
    go(mixed, tmp_path / "stopped", progress=Progress(update=watch))
    steps = len(entries(tmp_path / "whole")["a/recover"].outputs["curve"])
    assert len(losses) == steps > 3  # none of them twice
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")

    otherwise = recipe(home, mixture(home, 1, 3, model), stages, model)
    with pytest.raises(UserError, match=r"data.train: changed"):
        go(otherwise, tmp_path / "whole")
    go(otherwise, tmp_path / "otherwise")
    assert weights(tmp_path / "otherwise") != weights(tmp_path / "whole")


def _refused(home: Path) -> dict[str, tuple[Any, list[dict[str, Any]], str]]:
    cut = {"name": "b", "cut": {"vocab_size": 300}}
    one = str(home / "m-one")
    return {
        "another tokenizer": (str(home / "other"), [DEPTH], "data.train: .*other: made with anot"),
        "no store": (str(home / "none.bin"), [DEPTH], r"data.train: .*none.idx: cannot be read"),
        "no store in it": (str(home / "m"), [DEPTH], r"data.train: .*m: a model, not text"),
        "cut before": (
            one, [cut, {"name": "c", "recover": recover(64)}],
            "data.train: .*m-one: a token store, whose tokens the model no longer has when c tr",
        ),
        "cut with it": (one, [cut | {"recover": recover(64)}], "no longer has when b trains it"),
        "short": (
            [*mixture(home, 1, 1), {"path": str(home / "short.jsonl"), "weight": 1}],
            [DEPTH], r"data.train: short: \d tokens, less than one row of 32 \(stages: a",
        ),
        "short beside a store": (
            [one, str(home / "short.jsonl")], [DEPTH],
            r"data.train: .*short.jsonl: \d tokens, less than one row of 32 \(stages: a",
        ),
        "small share": (
            mixture(home, 1, 1e-6), [DEPTH],
            "data.train: two: 1e-06 of all is less than 1 sample",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(_refused(Path())))
def test_what_cannot_be_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, name: str
) -> None:
    if name == "another tokenizer" and not (home / "other").exists():
        shutil.copytree(home / "m-one", home / "other")
        facts = (home / "other/tokens.json").read_text()
        sha256 = facts.split('"tokenizer_sha256": "')[1][:64]
        (home / "other/tokens.json").write_text(facts.replace(sha256, "0" * 64))
    train, stages, message = _refused(home)[name]
    with pytest.raises(UserError, match=message) as caught:
        go(recipe(home, train, stages), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/ledger.jsonl").exists()


def test_held_out_text_that_fills_no_row_of_a_mixture_is_named_before_work(
    home: Path, tmp_path: Path
) -> None:
    sources = [
        {"name": name, "path": str(home / f"{name}.jsonl"), "weight": 1} for name in ("one", "two")
    ]
    domains = {"references": {"one": 3.0, "two": 3.0}}
    more = {"mixture_every": 64, "mixture_tokens": 64, "domains": domains}
    given = recipe(home, sources, [{"name": "a", "recover": recover(320, **more)}])
    given["data"]["heldout"] = {
        "one": str(home / "heldout.jsonl"), "two": str(home / "short.jsonl"),
    }  # fmt: skip
    message = r"stages: a: recover: data\.heldout: two: the text is 4 tokens, less than one row"
    with pytest.raises(UserError, match=message):
        go(given, tmp_path / "out")
    assert not (tmp_path / "out/ledger.jsonl").exists()
