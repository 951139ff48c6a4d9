import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.publishing import unfinished_place
from regrow.corpus.text import read_documents
from regrow.writing import rounds, text_writer
from regrow.writing.openings import BRIEF_OPENINGS, OPENINGS
from regrow.writing.prompts import Start, brief_starts, question_starts
from regrow.writing.rounds import Written
from regrow.writing.text_form import text_form
from regrow.writing.text_writer import (
    WritingSettings,
    WrittenText,
    form_and_starts,
    write_text,
)
from tests.tiny import add_chat_template, add_tokenizer, write_model
from tests.tiny import write_text as write_texts
from tests.training.small import small_model

SMALL = WritingSettings(300, seed=1, batch_size=12)


class KilledError(Exception):
    """Raised out of a call, as if it were killed there."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("writing")
    write_model(home / "base", max_position_embeddings=64)
    add_chat_template(write_model(home / "chat", max_position_embeddings=64))
    # So many that the turns of a random model end.
    ends = {"eos_token_id": [2, *range(100, 115)]}
    (home / "chat/generation_config.json").write_text(json.dumps(ends))
    return home


def write(
    home: Path, out: Path, settings: WritingSettings = SMALL, model: str = "chat", **more: Any
) -> WrittenText:
    return write_text(ModelDirectory(home / model), out, settings, **more)


def killed_after(steps: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        nonlocal steps
        steps -= 1
        if steps < 0:
            raise KilledError

    return progress


@pytest.mark.parametrize("model", ["base", "chat"])
def test_a_model_writes_a_text_file(home: Path, tmp_path: Path, model: str) -> None:
    told: list[tuple[int, int]] = []
    out = tmp_path / "text.jsonl"
    result = write(home, out, model=model, progress=lambda done, of: told.append((done, of)))
    documents = list(read_documents(out))
    assert len(documents) == result.documents == len(set(documents))
    tokenizer = ModelDirectory(home / model).tokenizer
    tokens = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in documents]
    assert result.tokens == sum(tokens) >= 300 > sum(tokens[:-1])
    assert max(tokens) <= 3 * 64  # positions; a broken character becomes one of three bytes
    assert told == sorted(told)
    assert told[-1] == (300, 300)
    record = json.loads((tmp_path / "text.json").read_text())
    assert record["sha256"] == result.sha256
    assert (record["tokens"], record["written_tokens"]) == (300, result.tokens)
    assert {path.name for path in tmp_path.iterdir()} == {"text.jsonl", "text.json"}
    if model == "chat":
        is_chat = [text.startswith("<bos>user:") for text in documents]
        assert is_chat == ["<bos>assistant:" in text for text in documents]
        assert any(is_chat)
        assert not all(is_chat)
        asked = [text.removeprefix("<bos>user:") for text in documents]
        assert any(text.startswith(tuple(OPENINGS["en"])) for text in asked)
        assert {*record["openings"]} == {*OPENINGS["en"], *BRIEF_OPENINGS["en"]}
    else:
        assert record["openings"] == []


@pytest.mark.parametrize("model", ["base", "chat"])
def test_it_may_be_killed_anywhere(home: Path, tmp_path: Path, model: str) -> None:
    whole = write(home, tmp_path / "whole.jsonl", model=model)
    out = tmp_path / "killed.jsonl"
    kills = 0
    result = None
    for steps in (0, 20, 70, 100_000):
        if result is not None:
            break
        try:
            result = write(home, out, model=model, progress=killed_after(steps))
        except KilledError:
            kills += 1
            assert not out.exists()
            rounds = unfinished_place(out) / "rounds.jsonl"
            if rounds.exists():  # as a process leaves it that is killed while it appends
                with rounds.open("ab") as file:
                    file.write(b'{"rows": 3, "te')
    assert kills >= 2
    assert result is not None
    assert result.taken_up > 0
    assert result.sha256 == whole.sha256
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    records = [json.loads((tmp_path / name).read_text()) for name in ("whole.json", "killed.json")]
    assert records[0] == records[1]
    other = write(
        home, tmp_path / "other.jsonl", WritingSettings(300, seed=2, batch_size=12), model
    )
    assert other.sha256 != whole.sha256


@pytest.mark.parametrize("tokens", [2_000, 3_000, 4_000, 5_000, 10_000, 20_000])
def test_a_third_of_a_chat_models_text_is_brief(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    """Whether it is one round of other texts or many. A round is brief or not, as a whole."""
    used: dict[bool, list[Start]] = {True: [], False: []}

    def write_round(_: Any, __: Any, starts: list[Start], *rest: Any) -> list[Written]:
        (is_brief,) = {each.is_brief for each in starts}
        first = len(used[is_brief])
        used[is_brief] += starts
        words = "fact " * 12 if is_brief else "the river is wide " * 20
        texts = [f"{words}{number}" for number in range(first, first + len(starts))]
        return [Written(None, "long"), *map(Written, texts[1:])]

    monkeypatch.setattr(text_writer, "write_round", write_round)
    out = tmp_path / "text.jsonl"
    found = write(home, out, replace(SMALL, tokens=tokens))
    form = text_form(ModelDirectory(home / "chat"), writes_questions=True)
    brief = sum(form.count(each) for each in read_documents(out) if each.startswith("fact"))
    assert 0.28 < brief / found.tokens < 0.42
    assert json.loads((tmp_path / "text.json").read_text())["brief_tokens"] == brief
    # Each kind uses its starts in turn, whatever the other does between its rounds.
    for is_brief, starts in ((True, brief_starts()), (False, question_starts())):
        turns = len(used[is_brief]) // len(starts) + 1
        assert used[is_brief] == (starts * turns)[: len(used[is_brief])]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_model_without_brief_answers_writes_other_texts(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Also if one of twelve can be kept."""
    asked: list[int] = []

    def write_round(model: Any, form: Any, starts: list[Start], *rest: Any) -> list[Written]:
        if starts[0].is_brief:
            asked.append(len(starts))
            lost = [Written(None, "long")] * (len(starts) - kept)
            return [*lost, *[Written(f"fact {len(asked)}")] * kept]
        return rounds.write_round(model, form, starts, *rest)

    monkeypatch.setattr(text_writer, "write_round", write_round)
    assert write(home, tmp_path / "text.jsonl", replace(SMALL, tokens=600)).tokens >= 600
    assert sum(asked) - asked[-1] < 100 <= sum(asked)


OTHERS = {
    "tokens": WritingSettings(301, seed=1, batch_size=12),
    "seed": WritingSettings(300, seed=2, batch_size=12),
    "temperature": WritingSettings(300, seed=1, batch_size=12, temperature=0.9),
    "batch_size": WritingSettings(300, seed=1),
    "languages": WritingSettings(300, seed=1, batch_size=12, languages=["en"]),
}


def test_other_settings_do_not_go_on(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "text.jsonl"
    with pytest.raises(KilledError):
        write(home, out, progress=killed_after(80))
    assert (unfinished_place(out) / "rounds.jsonl").exists()
    for name, settings in OTHERS.items():
        with pytest.raises(UserError, match=f"left by a run that was stopped, with other {name};"):
            write(home, out, settings)
    with pytest.raises(UserError, match="with other model;"):
        write(home, out, model="base")


def test_prompts_are_used_in_turn(home: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("The river\n\n The stone \n")
    settings = WritingSettings(150, tmp_path / "asked.txt", batch_size=12)
    write(home, tmp_path / "base.jsonl", settings, "base")
    starts = [text[:9] for text in read_documents(tmp_path / "base.jsonl")]
    assert set(starts) == {"The river", "The stone"}
    write_texts(tmp_path / "asked.jsonl", ["The river\nis wide", "The stone"])
    settings = WritingSettings(150, tmp_path / "asked.jsonl", batch_size=12)
    write(home, tmp_path / "chat.jsonl", settings)
    texts = list(read_documents(tmp_path / "chat.jsonl"))
    assert all(text.startswith("<bos>user:The ") and "<bos>assistant:" in text for text in texts)
    assert any(text.startswith("<bos>user:The river\nis wide<eos>") for text in texts)


def test_questions_begin_in_the_languages_that_are_wanted(home: Path) -> None:
    for languages, wanted in (((), "en"), (("zh",), "zh")):
        _, starts = form_and_starts(ModelDirectory(home / "chat"), None, languages)
        assert {each.opening for each in starts if not each.is_brief} == {*OPENINGS[wanted], ""}
        assert {each.opening for each in starts if each.is_brief} == {*BRIEF_OPENINGS[wanted]}
    _, starts = form_and_starts(ModelDirectory(home / "base"), None)
    assert starts == [Start()]


RIVERS = {
    "en": "A river is water that runs through the land to the sea, and",
    "fr": "Un fleuve est un cours d'eau qui se jette dans la mer, et",
}


def test_texts_in_other_languages_are_dropped_and_counted(home: Path, tmp_path: Path) -> None:
    """The model writes nonsense, but these prompts are longer than what it may add."""
    write_texts(tmp_path / "asked.jsonl", [*RIVERS.values()])

    def settings(*languages: str) -> WritingSettings:
        return WritingSettings(150, tmp_path / "asked.jsonl", batch_size=12, languages=languages)

    found = write(home, tmp_path / "fr.jsonl", settings("fr"), "base")
    texts = [*read_documents(tmp_path / "fr.jsonl")]
    assert {text[:9] for text in texts} == {"Un fleuve"}
    assert found.dropped["other language"] > 0
    record = json.loads((tmp_path / "fr.json").read_text())
    assert record["languages"] == ["fr"]
    assert record["dropped"] == found.dropped

    both = tmp_path / "both.jsonl"
    with pytest.raises(KilledError):
        write(home, both, settings("fr", "en"), "base", progress=killed_after(20))
    assert (unfinished_place(both) / "rounds.jsonl").exists()
    # The order of the languages decides nothing.
    assert write(home, both, settings("en", "fr", "en"), "base").taken_up > 0
    assert {text[:9] for text in read_documents(both)} == {"Un fleuve", "A river i"}
    with pytest.raises(UserError, match=r" other language\); .* in zh, or allow more `languages`$"):
        write(home, tmp_path / "zh.jsonl", settings("zh"), "base")


def test_a_rare_language_is_waited_for(home: Path, tmp_path: Path) -> None:
    """One text of twelve is wanted, and the first rounds have one row each."""
    write_texts(tmp_path / "asked.jsonl", [*[RIVERS["en"]] * 11, RIVERS["fr"]])
    settings = WritingSettings(40, tmp_path / "asked.jsonl", languages=["fr"])
    found = write(home, tmp_path / "fr.jsonl", settings, "base")
    assert found.documents == 1
    assert found.dropped["other language"] >= 11


def test_what_cannot_be_is_refused_before_work(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(ModelDirectory, "load", load)
    out = tmp_path / "text.jsonl"
    (tmp_path / "long.txt").write_text("short\n" + "The river " * 80)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "there.jsonl").write_text("")
    (tmp_path / "record.json").write_text("")
    refused: list[tuple[Path, WritingSettings, str]] = [
        (tmp_path / "text.txt", SMALL, "text is written as .jsonl"),
        (tmp_path / "there.jsonl", SMALL, "exists; choose another file"),
        (tmp_path / "record.jsonl", SMALL, "record.json: exists"),
        (tmp_path / "there.jsonl/text.jsonl", SMALL, "is not a directory"),
        (out, WritingSettings(0), "tokens 0: give a number above 0"),
        (out, WritingSettings(9, temperature=0.0), "temperature 0.0: give"),
        (out, WritingSettings(9, languages=["en", "xx"]), "languages: xx: no language that"),
        (out, WritingSettings(9, tmp_path / "long.txt"), r"prompt 2 has [\d,]+ tokens; give at m"),
        (out, WritingSettings(9, tmp_path / "empty.txt"), "empty.txt: the file holds no text"),
        (out, WritingSettings(9, tmp_path / "none.txt"), "none.txt: no such file"),
    ]
    for path, settings, message in refused:
        with pytest.raises(UserError, match=message) as caught:
            write(home, path, settings)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob(".*"))


def a_model(out: Path, family: str, **sizes: Any) -> Path:
    """A model of a family without a blueprint, whose head has a row for each token."""
    small_model(family, vocab_size=320, **sizes).save_pretrained(out)
    return add_tokenizer(out)


def test_a_model_without_keys_and_values_writes(tmp_path: Path) -> None:
    a_model(tmp_path / "mamba", "mamba", state_size=4)
    assert write(tmp_path, tmp_path / "text.jsonl", model="mamba").tokens >= 300


def test_a_model_with_another_kind_of_cache_is_refused(tmp_path: Path) -> None:
    a_model(tmp_path / "rwkv", "rwkv")
    with pytest.raises(UserError, match="RwkvForCausalLM: cannot write several texts at once"):
        write(tmp_path, tmp_path / "text.jsonl", model="rwkv")
    assert [path.name for path in tmp_path.iterdir()] == ["rwkv"]


def test_a_model_that_writes_nothing_new_is_given_up(home: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("The river\n")
    settings = WritingSettings(10**6, tmp_path / "asked.txt", temperature=1e-4, batch_size=20)
    with pytest.raises(UserError, match=r"100 texts none can be kept \(dropped so far: 100"):
        write(home, tmp_path / "text.jsonl", settings)
