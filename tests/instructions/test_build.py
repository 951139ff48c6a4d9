"""A whole build: what is written, what is dropped, and that it is always the same."""

import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.publishing import durable
from regrow.instructions.build import Built, build
from regrow.instructions.card import data_card
from regrow.instructions.config import load_instructions
from regrow.instructions.limits import AnyRoom
from tests.tiny import write_model

TWICE = {"prompt": "ask AA!", "completion": "say aa"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True)
def _fast() -> Any:
    with durable(False):
        yield


def lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    words = [f"{a}{b}" for a in LETTERS for b in LETTERS]
    chats = [{"prompt": f"Ask {word}", "completion": f"Say {word}"} for word in words[:100]]
    # Two words for each question: its subject, and so its part, is the same.
    asked = [
        {"q": f"Question {word}?", "a": f"{word} {n}"} for word in words[:100] for n in range(2)
    ]
    lines(
        tmp_path / "chats/b.jsonl",
        *chats[:60],
        {"prompt": "x"},
        TWICE,
    )
    lines(tmp_path / "chats/a.jsonl", *chats[50:])
    lines(tmp_path / "asked.jsonl", *asked)
    return tmp_path


def config(home: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "heldout": 0.2,
        "few_shot": {"share": 0.5, "most": 2},
        "sources": [
            {"path": "chats", "licence": "MIT"},
            {"path": "asked.jsonl", "task": "question answering",
             "columns": {"question": "q", "answer": "a"}},
        ],
        **changes,
    }  # fmt: skip


def go(home: Path, out: str, **changes: Any) -> Built:
    (home / "c.yaml").write_text(yaml.safe_dump(config(home, **changes)))
    return build(load_instructions(home / "c.yaml"), None, home / out)


def test_what_is_written(home: Path) -> None:
    built = go(home, "out")
    out, report = home / "out", built.report
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "heldout.encoder-decoder.jsonl", "heldout.jsonl", "report.json",
        "train.encoder-decoder.jsonl", "train.jsonl",
    ]  # fmt: skip
    train, heldout = rows_of(out / "train.jsonl"), rows_of(out / "heldout.jsonl")
    assert (len(train), len(heldout)) == (report.train, report.heldout)
    assert report.train + report.heldout == 100 + 200
    assert 0.1 < report.heldout / 300 < 0.3
    first, second = report.sources
    assert first.dropped == {"says the same as another": 11}
    assert first.broken == {"completion: text is expected": 1}
    assert first.places == {"completion: text is expected": ["b.jsonl: 61"]}
    assert (second.samples, second.train + second.heldout) == (200, 200)
    assert built.passes == 2
    for row in train:
        assert list(row) == ["messages", "id", "task", "source", "language", "template"]
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert json.loads((out / "report.json").read_text())["train"] == report.train
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| chats | MIT | prompt and completion: keys prompt, completion | 111 |" in card
    assert "- chats: 1 completion: text is expected; 11 says the same as another" in card


def test_the_card_is_one_that_the_hub_reads(home: Path) -> None:
    from huggingface_hub import DatasetCard

    go(home, "out")
    data = DatasetCard.load(home / "out/README.md").data
    assert data.language == ["en"]
    assert [each["config_name"] for each in data.configs] == ["messages", "encoder-decoder"]


def test_no_subject_is_in_both_parts_also_not_as_an_example(home: Path) -> None:
    go(home, "out", heldout=0.4, few_shot={"share": 1.0, "most": 3})
    asked = {"train": set[str](), "heldout": set[str]()}
    shown: dict[str, str] = {"train": "", "heldout": ""}
    for part in asked:
        for row in rows_of(home / f"out/{part}.jsonl"):
            if row["source"] == "asked":
                asked[part].add(row["messages"][1]["content"].split()[0])
                shown[part] += row["messages"][0]["content"]
    assert asked["train"]
    assert asked["heldout"]
    assert asked["train"].isdisjoint(asked["heldout"])
    for word in asked["heldout"]:
        assert f"Question {word}?" not in shown["train"]


def test_the_form_of_an_encoder_decoder(home: Path) -> None:
    go(home, "out")
    chats = rows_of(home / "out/train.jsonl")
    pairs = rows_of(home / "out/train.encoder-decoder.jsonl")
    for chat, pair in zip(chats, pairs, strict=True):
        question, answer = (message["content"] for message in chat["messages"])
        assert pair["input"] == f"<S> {question} <extra_id_0>"
        assert pair["target"] == f"<extra_id_0> {answer}"
        assert pair["id"] == chat["id"]
    only = go(home, "one", forms="messages")
    assert only.report.files == ("train.jsonl", "heldout.jsonl")


def test_names_of_special_tokens_are_left_out_of_that_form(home: Path) -> None:
    lines(
        home / "chats/c.jsonl",
        {"prompt": "What is <extra_id_0> </s>?", "completion": "A token."},
        {"prompt": "What is <extra_id_x>?", "completion": "Nothing."},
    )
    report = go(home, "out", heldout=0).report
    texts = [(home / f"out/train{form}.jsonl").read_text() for form in ("", ".encoder-decoder")]
    assert ["<extra_id_0> </s>" in text for text in texts] == [True, False]
    assert ["<extra_id_x>" in text for text in texts] == [True, True]
    assert report.notes == (
        "chats: 1 rows have the name of a special token in their words; left out of the form "
        "encoder-decoder",
    )


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_same_bytes_and_another_seed(home: Path) -> None:
    go(home, "one")
    go(home, "two")
    assert bytes_of(home / "one") == bytes_of(home / "two")
    go(home, "three", seed=1)
    assert bytes_of(home / "one")["train.jsonl"] != bytes_of(home / "three")["train.jsonl"]


def test_what_is_taken_does_not_depend_on_the_order_of_rows(home: Path) -> None:
    def said(out: str) -> list[Any]:
        return [row["messages"] for row in rows_of(home / f"{out}/train.jsonl")]

    go(home, "one", rows=60)
    for path in (home / "asked.jsonl", home / "chats/a.jsonl"):
        lines(path, *reversed(rows_of(path)))
    go(home, "two", rows=60)
    assert said("one") == said("two")


def test_caps_rates_and_rows(home: Path) -> None:
    found = go(home, "a", task_caps={"instruction following": 10}).report
    assert found.tasks["instruction following"] == 10
    assert found.sources[0].left == 90
    sources = [
        {**source, "rate": rate}
        for source, rate in zip(config(home)["sources"], (1, 3), strict=True)
    ]
    found = go(home, "b", sources=sources, rows=100).report
    assert [each.train + each.heldout for each in found.sources] == [25, 75]
    found = go(home, "c", sources=sources, rows=280).report
    assert [each.train + each.heldout for each in found.sources] == [70, 200]
    assert found.notes == ("asked: 200 of the 210 that its rate asks for",)


class Narrow:
    """Room for prompts of one length alone."""

    unit = "characters"

    def __init__(self, most: int) -> None:
        self.most = most
        self.any = AnyRoom()

    def measure(self, instructions: Any) -> Any:
        return self.any.measure(instructions)

    def too_long(self, lengths: Any) -> str:
        return "prompt too long" if lengths.prompt > self.most else ""


def test_what_is_too_long_makes_room_for_others(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [{"q": f"Question {n} {'long ' * 99}", "a": f"{n}"} for n in range(300)]
    lines(home / "asked.jsonl", *long, *rows_of(home / "asked.jsonl"))
    monkeypatch.setattr("regrow.instructions.build.AnyRoom", lambda: Narrow(200))
    built = go(home, "out", few_shot={"share": 1.0, "most": 3}, rows=250)
    assert built.report.train + built.report.heldout == 250
    assert built.report.sources[1].dropped["prompt too long"] > 100
    assert built.passes > 2
    assert built.report.lengths["prompt"].longest <= 200
    assert {0, 1} < {*built.report.shots}  # fewer examples where more did not fit
    rows = rows_of(home / "out/train.jsonl")
    assert all("Question" in row["messages"][0]["content"] for row in rows if row["template"])


def test_what_evaluation_sets_ask_is_left_out(home: Path) -> None:
    question = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    lines(
        home / "test.jsonl",
        {"question": question, "choices": ["a short answer of no more than eight words?"]},
    )
    lines(
        home / "asked.jsonl",
        {"q": f"Is it so that {question}?", "a": "yes"},
        {"q": "What?", "a": "A short answer: of no more than EIGHT words!"},
        {"q": "one two three four five six seven eight nine ten eleven twelve", "a": "yes"},
    )
    built = go(home, "out", heldout=0, contamination={"against": "test.jsonl"})
    assert built.report.sources[1].dropped == {"repeats an evaluation set": 2}
    assert built.report.contaminated == {"test.jsonl": 2}
    assert built.report.notes == (
        "test.jsonl: 2 samples repeat a text of this evaluation set; left out",
    )
    assert built.report.sources[1].train == 1


def test_near_duplicates(home: Path) -> None:
    pytest.importorskip("rensa")
    words = [f"{a}{b}{c}" for a in LETTERS[:5] for b in LETTERS[:5] for c in LETTERS[:4]]
    one = {"q": " ".join(words), "a": "yes"}
    lines(home / "asked.jsonl", one, {**one, "q": one["q"] + " more"}, {"q": "Other?", "a": "no"})
    built = go(home, "out", near_duplicates=0.8, heldout=0)
    assert built.report.sources[1].dropped == {"says nearly the same as another": 1}
    assert built.report.sources[1].train == 2
    assert go(home, "all", heldout=0).report.sources[1].train == 3


def test_what_is_nearly_equal_is_no_example(home: Path) -> None:
    """Its other one may be the question itself, or held out."""
    pytest.importorskip("rensa")
    drawn = random.Random(0)
    texts = [" ".join(drawn.choices(LETTERS, k=60)) for _ in range(40)]
    rows = [{"q": text + more, "a": text[:9]} for text in texts for more in ("", " more")]
    lines(home / "asked.jsonl", *rows)
    built = go(home, "out", near_duplicates=0.8, heldout=0.3, few_shot={"share": 1.0, "most": 3})
    assert built.report.sources[1].dropped["says nearly the same as another"] >= 30
    train, heldout = (
        [row["messages"][0]["content"] for row in rows_of(home / f"out/{name}.jsonl")]
        for name in ("train", "heldout")
    )
    shown = [max(prompt.count(text) for text in texts) for prompt in [*train, *heldout]]
    assert max(shown) == 1
    asked = {max(texts, key=prompt.rfind) for prompt in heldout if any(t in prompt for t in texts)}
    assert len(asked) > 5
    assert not any(text in prompt for prompt in train for text in asked)


def test_near_duplicates_of_questions_on_one_passage(home: Path) -> None:
    pytest.importorskip("rensa")
    drawn = random.Random(0)
    passages = [" ".join(drawn.choices(LETTERS, k=200)) for _ in range(6)]
    asked = "What did the man with the {} hat say to the girl at the door on that day?"
    rows = [
        {"c": passage, "q": asked.format(f"{word} {word[::-1]}{word}"), "a": f"he said {word}"}
        for passage in passages
        for word in ("red", "green", "black")
    ]
    near = {**rows[-1], "c": rows[-1]["c"] + " q"}
    lines(home / "asked.jsonl", *rows, near)
    columns = {"context": "c", "question": "q", "answer": "a"}
    source = {"path": "asked.jsonl", "task": "reading comprehension", "columns": columns}
    built = go(home, "out", near_duplicates=0.8, heldout=0, sources=[source])
    assert built.report.sources[0].dropped == {"says nearly the same as another": 1}
    assert built.report.train == len(rows)


def test_own_templates_and_placeholders(home: Path) -> None:
    template = {"name": "mine", "fields": ["question", "answer"], "prompt": "MINE {{ question }}"}
    (home / "t.yaml").write_text(
        yaml.safe_dump({"language": "en", "tasks": {"question answering": [template]}})
    )
    lines(home / "chats/b.jsonl", {"prompt": "Who?", "completion": "I am {{name}}."})
    found = go(home, "out", templates=["t.yaml"]).report
    assert found.templates["en/question answering/mine"] > 20
    assert found.notes == (
        "chats: 1 rows have words in double braces, such as {{name}}; if they stand for something, "
        "write it into the file",
    )
    (home / "t.yaml").write_text((home / "t.yaml").read_text().replace("MINE", "M {{ answer }}"))
    with pytest.raises(
        UserError, match=r"t\.yaml:\d+: en/question answering/mine: the prompt uses"
    ):
        go(home, "other", templates=["t.yaml"])
    assert not (home / "other").exists()


def test_nothing_is_left_of_a_failed_build(home: Path) -> None:
    lines(home / "chats/c.jsonl", {"other": 1})
    with pytest.raises(UserError, match="no known format; its keys are other"):
        go(home, "out")
    assert not [path for path in home.iterdir() if "out" in path.name]


def test_nothing_to_train_on(home: Path) -> None:
    with pytest.raises(UserError, match="nothing is left to train on"):
        go(home, "out", heldout=1)


def test_a_file_that_changes_meanwhile(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(report: Any) -> bytes:
        with (home / "asked.jsonl").open("a") as file:
            file.write("\n")
        return data_card(report)

    monkeypatch.setattr("regrow.instructions.build.data_card", changed)
    with pytest.raises(UserError, match=r"asked\.jsonl: changed while it was read"):
        go(home, "out")


def test_an_output_that_is_there(home: Path) -> None:
    go(home, "out")
    with pytest.raises(UserError, match="out: already holds something"):
        go(home, "out")


def test_no_output_lies_in_the_model(home: Path) -> None:
    model = ModelDirectory(write_model(home / "m"))
    (home / "config.yaml").write_text(yaml.safe_dump(config(home)))
    with pytest.raises(UserError, match="inside the model"):
        build(load_instructions(home / "config.yaml"), model, home / "m/out")
    assert not (home / "m/out").exists()


def killed_while_it_writes(home: Path, at: int) -> None:
    """Build, and end by SIGKILL when a file of the output is opened the `at`-th time."""
    opened = itertools.count(1)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and f"{home}/.out" in repr(arguments[0]) and next(opened) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    go(home, "out")


def test_killed_builds_leave_nothing_that_the_next_one_keeps(home: Path) -> None:
    go(home, "whole")
    forks = multiprocessing.get_context("fork")
    for at in (1, 3, 5):
        process = forks.Process(target=killed_while_it_writes, args=(home, at))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (home / "out").exists()
    go(home, "out")
    assert bytes_of(home / "out") == bytes_of(home / "whole")
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []
