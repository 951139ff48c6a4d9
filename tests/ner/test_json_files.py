"""Both forms of JSON files are read, and what they cannot say in tags is counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.ner.json_files import read_json_entities
from regrow.ner.sentences import Sentence, Span


def _write(tmp_path: Path, objects: list[Any], *, lines: bool) -> Path:
    path = tmp_path / "set.json"
    text = "\n".join(map(json.dumps, objects)) if lines else json.dumps(objects, indent=1)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("lines", [True, False])
def test_tokens_and_places(tmp_path: Path, lines: bool) -> None:
    objects = [
        {
            "tokenized_text": ["Bob", "saw", "New", "York"],
            "ner": [[2, 3, "city"], [0, 0, "person"]],
        },
        {"tokenized_text": ["none"], "ner": []},
    ]
    found = read_json_entities(_write(tmp_path, objects, lines=lines), "set")
    spans = (Span(0, 1, "person"), Span(2, 4, "city"))
    assert found.sentences == (
        Sentence(("Bob", "saw", "New", "York"), spans),
        Sentence(("none",), ()),
    )
    assert (found.types, found.notes) == (("city", "person"), ())


@pytest.mark.parametrize(
    "value",
    [
        {"tokenized_text": [*"他在北京。"], "ner": [[2, 3, "city"]]},
        {"input": "他在北京。", "tagName": "city", "output": '["北京"]'},
    ],
)
def test_chinese_characters_stand_without_spaces(tmp_path: Path, value: dict[str, Any]) -> None:
    (sentence,) = read_json_entities(_write(tmp_path, [value], lines=True), "set").sentences
    assert sentence.text == "他在北京。"
    assert sentence.spans == (Span(2, 4, "city"),)


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("\u5728 New York \u53c2\u52a0\u4f1a\u8bae", "\u5728 New York \u53c2 \u52a0 \u4f1a \u8bae"),
        ("2020\u5e74", "2020\u5e74"),
        ("In \u5317\u4eac, he laughed.", "In \u5317 \u4eac , he laughed ."),
        ("\uc11c\uc6b8 \uc2dc", "\uc11c \uc6b8 \uc2dc"),
    ],
)
def test_words_of_other_scripts_keep_their_spaces(tmp_path: Path, text: str, joined: str) -> None:
    value = {"input": text, "tagName": "city", "output": "[]"}
    chinese = {"input": "\u4ed6\u5728\u5317\u4eac\u3002", "tagName": "city", "output": "[]"}
    found = read_json_entities(_write(tmp_path, [value, chinese], lines=True), "set").sentences
    assert [each.text for each in found] == [joined, "\u4ed6\u5728\u5317\u4eac\u3002"]


def test_entities_that_overlap_are_counted(tmp_path: Path) -> None:
    objects = [
        {"tokenized_text": ["New", "York", "Times"], "ner": [[0, 1, "city"], [0, 2, "paper"]]}
    ]
    found = read_json_entities(_write(tmp_path, objects, lines=True), "set")
    assert found.sentences[0].spans == (Span(0, 3, "paper"),)
    assert found.notes == ("set: 1 entities lie within or across others; the longer are kept",)


def test_texts_and_mentions(tmp_path: Path) -> None:
    text = "Bob met Bob.\nIn 北京, he laughed."
    objects = [
        {"input": text, "tagName": "person", "output": '["Bob", "Ann"]'},
        {"input": text, "tagName": "city", "output": '["北京"]'},
        {"input": text, "tagName": "animal", "output": "[]"},
        {"input": "No one.", "tagName": "person", "output": "[]"},
    ]
    found = read_json_entities(_write(tmp_path, objects, lines=True), "set")
    first, second = found.sentences
    assert " ".join(first.tokens) == "Bob met Bob . In 北 京 , he laughed ."
    assert first.spans == (Span(0, 1, "person"), Span(2, 3, "person"), Span(5, 7, "city"))
    assert (first.asked, second.asked) == (("animal", "city", "person"), ("person",))
    assert found.types == ("animal", "city", "person")
    assert found.notes == ("set: 1 mentions are not in their text; left out",)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tokenized_text": ["a"], "ner": [[0, 1, "x"]]}, 'ner: [0, 1, "x"]: the sentence has the'),
        ({"tokenized_text": ["a"], "ner": [[0, "x"]]}, 'ner: [0, "x"]: [first, last, type]'),
        ({"tokenized_text": "a", "ner": []}, "tokenized_text: a list of tokens is expected"),
        ({"tokenized_text": ["a"]}, "ner: a list of [first, last, type] is expected"),
        (["a"], "a JSON object is expected"),
    ],
)
def test_a_broken_object_is_named(tmp_path: Path, wrong: Any, message: str) -> None:
    right = {"tokenized_text": ["a"], "ner": []}
    for lines, where in ((True, "line 2"), (False, "entry 2")):
        path = _write(tmp_path, [right, wrong], lines=lines)
        with pytest.raises(UserError) as error:
            read_json_entities(path, "set")
        assert str(error.value).startswith(f"{path}: {where}: {message}")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input": "a", "tagName": "x", "output": "a, b"}, "output: a JSON list of mentions"),
        ({"text": "a"}, "no sentence with its entities; give `tokenized_text`"),
    ],
)
def test_a_broken_row_of_mentions_is_named(tmp_path: Path, wrong: Any, message: str) -> None:
    path = _write(tmp_path, [wrong], lines=True)
    with pytest.raises(UserError) as error:
        read_json_entities(path, "set")
    assert str(error.value).startswith(f"{path}: line 1: {message}")


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"tokenized_text": ["a"], "ner": []}\n{"tok', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2: not JSON"):
        read_json_entities(path, "set")
