"""Each format is recognised by what is in a file, and says what it means."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.instructions.config import InstructionSource
from regrow.instructions.formats.registry import FORMATS, recognise
from regrow.instructions.reading import Reading, read_source
from regrow.instructions.sample import Message, Sample

ASK, SAY = Message("user", "Hi"), Message("assistant", "Hello")
FOLLOWING = "instruction following"


def samples(tmp_path: Path, *rows: Any, **source: Any) -> tuple[list[Sample], Reading]:
    path = tmp_path / "data.bin"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    reading = Reading()
    return list(read_source(InstructionSource(path=path, **source), reading, seed=0)), reading


CHATS: list[tuple[str, dict[str, Any], tuple[Message, ...], str]] = [
    ("alpaca", {"instruction": "Say", "input": "it", "output": "it"},
     (Message("user", "Say\n\nit"), Message("assistant", "it")), FOLLOWING),
    ("alpaca", {"instruction": "C", "input": "", "output": "D", "system": "S",
                "history": [["A", "B"]]},
     (Message("system", "S"), Message("user", "A"), Message("assistant", "B"),
      Message("user", "C"), Message("assistant", "D")), "dialogue"),
    ("sharegpt", {"conversations": [
        {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"},
        {"from": "human", "value": "Bye"}]},
     (ASK, SAY), FOLLOWING),
    ("messages", {"messages": [
        {"role": "system", "content": "S"}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"}]},
     (Message("system", "S"), ASK, SAY), FOLLOWING),
    ("prompt and completion", {"prompt": "Hi", "completion": "Hello"}, (ASK, SAY), FOLLOWING),
    ("prompt and response", {"prompt": "Hi", "response": "Hello"}, (ASK, SAY), FOLLOWING),
    ("inputs and targets", {"inputs": "Hi", "targets": "Hello"}, (ASK, SAY), FOLLOWING),
    ("input and target", {"input": "Hi", "target": "Hello"}, (ASK, SAY), FOLLOWING),
    ("firefly", {"conversation": [{"human": "Hi", "assistant": "Hello"}]}, (ASK, SAY), FOLLOWING),
    ("firefly kinds", {"kind": "NLI", "input": "Hi", "target": "Hello"}, (ASK, SAY), FOLLOWING),
    ("pclue", {"input": "Hi", "target": "Hello", "type": "nli", "answer_choices": ["Hello"]},
     (ASK, SAY), "text matching"),
    ("belle questions", {"question": "Hi", "std_answer": "Hello", "class": "closed\u00a0qa"},
     (ASK, SAY), "reading comprehension"),
    ("belle tasks", {"instruction": "Hi", "instances": [{"input": "", "output": "Hello"}]},
     (ASK, SAY), FOLLOWING),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "messages", "task"), CHATS, ids=lambda each: str(each)[:20]
)
def test_conversations(
    tmp_path: Path, name: str, row: dict[str, Any], messages: tuple[Message, ...], task: str
) -> None:
    (found,), reading = samples(tmp_path, row)
    assert (found.messages, found.task, found.language) == (messages, task, "en")
    assert found.id == "data/data.bin#1"
    assert reading.formats == {"data.bin": f"{name}: keys {', '.join(FORMATS[name].keys)}"}


CLUE: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("bustm", {"id": 1, "sentence1": "甲", "sentence2": "乙", "label": "1"}, "text matching",
     {"sentence1": "甲", "sentence2": "乙", "answer": "是", "options": ("是", "否")}),
    ("ocnli", {"sentence1": "甲", "sentence2": "乙", "label": "neutral"}, "text matching",
     {"premise": "甲", "hypothesis": "乙", "answer": "无关", "options": ("蕴含", "无关", "矛盾")}),
    ("chid", {"candidates": ["一", "二"], "content": "空#idiom#格", "answer": 1}, "cloze",
     {"text": "空____格", "answer": "二", "options": ("一", "二")}),
    ("cluewsc",
     {"target": {"span1_text": "毛豆", "span2_text": "他"}, "label": "false", "text": "文"},
     "semantic analysis",
     {"text": "文", "pronoun": "他", "mention": "毛豆", "answer": "否", "options": ("是", "否")}),
    ("csl", {"abst": "文", "keyword": ["甲", "乙"], "label": "0"}, "semantic analysis",
     {"text": "文", "keywords": ("甲", "乙"), "answer": "否", "options": ("是", "否")}),
    ("eprstmt", {"sentence": "好", "label": "Positive"}, "sentiment analysis",
     {"text": "好", "kind": "商品评论", "answer": "正面", "options": ("正面", "负面")}),
    ("iflytek", {"sentence": "英语", "label": 56, "label_des": "英语"}, "text classification",
     {"text": "英语", "kind": "应用介绍", "answer": "英语"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "task", "fields"), CLUE, ids=[row[0] for row in CLUE])
def test_clue(
    tmp_path: Path, name: str, row: dict[str, Any], task: str, fields: dict[str, Any]
) -> None:
    (found,), reading = samples(tmp_path, row)
    assert (found.task, dict(found.fields), found.language) == (task, fields, "zh")
    assert next(iter(reading.formats.values())).startswith(f"{name}: ")


@pytest.mark.parametrize(
    "row",
    [
        {"sentence1": "It rains.", "sentence2": "Water falls.", "label": 1},
        {"sentence1": "It rains.", "sentence2": "It is dry.", "label": "contradiction"},
        {"sentence": "Good.", "label": "Positive"},
    ],
)
def test_english_tasks_with_the_same_keys_are_not_those_of_clue(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="no known format; its keys are sentence"):
        samples(tmp_path, row)


def test_news_have_words_for_their_labels(tmp_path: Path) -> None:
    row = {"sentence": "房子", "label": 106, "label_desc": "news_house", "keywords": ""}
    (found,), _ = samples(tmp_path, row)
    assert found.fields["answer"] == "房产"
    assert len(found.fields["options"]) == 15


def test_broken_records_are_named_counted_and_skipped(tmp_path: Path) -> None:
    good = {"instruction": "Say", "output": "it"}
    rows = [good, {"instruction": " ", "output": "x"}, good, {"instruction": "x"}, ["no"], good]
    found, reading = samples(tmp_path, *rows)
    assert [sample.id for sample in found] == [f"data/data.bin#{n}" for n in (1, 3, 6)]
    assert reading.broken == Counter(
        {"instruction: empty": 1, "output: text is expected": 1, "no JSON object": 1}
    )
    assert reading.places["instruction: empty"] == ["data.bin: 2"]
    assert reading.records == 3


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ([("gpt", "Hello")], "turns of user and assistant do not alternate"),
        ([("human", "Hi"), ("gpt", " ")], "an empty turn"),
        ([("human", "Hi")], "no answer"),
        ([("human", "Hi"), ("tool", "x"), ("gpt", "y")], "conversations: a turn of 'tool'"),
    ],
)
def test_conversations_that_cannot_be_learned(
    tmp_path: Path, turns: list[tuple[str, str]], why: str
) -> None:
    good = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    bad = {"conversations": [{"from": who, "value": what} for who, what in turns]}
    found, reading = samples(tmp_path, good, bad)
    assert len(found) == 1
    assert reading.broken == {why: 1}


def test_ocnli_without_agreement(tmp_path: Path) -> None:
    rows = [{"sentence1": "甲", "sentence2": "乙", "label": label} for label in ("neutral", "-")]
    _, reading = samples(tmp_path, *rows)
    assert reading.broken == {"label: the annotators did not agree": 1}


def test_pclue_whose_answer_is_no_choice(tmp_path: Path) -> None:
    row = {"input": "Hi", "target": "a", "type": "mrc", "answer_choices": ["a", "b"]}
    found, reading = samples(tmp_path, row, {**row, "target": "c"})
    assert len(found) == 1
    assert reading.broken == {"target: none of answer_choices": 1}


KEYS = sorted({key for each in FORMATS.values() for key in each.keys})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, "from", "value", "role", "content"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(
    st.sampled_from([*FORMATS]),
    st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5), max_size=4),
    st.data(),
)
def test_no_record_ends_a_build(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[Any], data: st.DataObject
) -> None:
    """Records are read or broken; a file that gives nothing is one line."""
    path = tmp_path_factory.mktemp("fuzz") / "a"
    rows.append({key: data.draw(JSON) for key in FORMATS[name].keys})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source in ({}, {"format": name}):
        reading, said = Reading(), ""
        try:
            assert list(read_source(InstructionSource(path=path, **source), reading, seed=0))
            assert reading.records + sum(reading.broken.values()) == len(rows)
        except UserError as error:
            said = str(error)
        assert "\n" not in said


def test_what_is_unknown_or_could_be_two_things() -> None:
    with pytest.raises(UserError, match=r"f: no known format; its keys are a, b; give `columns`"):
        recognise([{"a": 1, "b": 2}], "f")
    both = {"prompt": "a", "completion": "b", "inputs": "c", "targets": "d"}
    with pytest.raises(
        UserError, match="f: could be prompt and completion or inputs and targets; give `format`"
    ):
        recognise([both], "f")


def test_the_format_can_be_given(tmp_path: Path) -> None:
    both = {"prompt": "a", "completion": "b", "inputs": "c", "targets": "d"}
    (found,), _ = samples(tmp_path, both, format="inputs and targets")
    assert found.messages[0].content == "c"


def test_every_record_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.bin: nothing that can be used; 2 records: output"):
        samples(tmp_path, *[{"instruction": "a", "output": ""}] * 2)
