"""Templates and their check."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from regrow.common.errors import UserError
from regrow.instructions.lint import check_templates, lint, lint_file
from regrow.instructions.sample import Message, Value
from regrow.instructions.tasks import TASKS
from regrow.instructions.template import (
    Template,
    as_one_text,
    load_templates,
    own_templates,
    with_examples,
)


def write(tmp_path: Path, language: str = "en", task: str = "cloze", **template: Any) -> Path:
    path = tmp_path / "t.yaml"
    each = {"name": "one", "fields": ["text", "answer"], "prompt": "Fill: {{ text }}", **template}
    content = {"language": language, "tasks": {task: [each]}}
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def one(tmp_path: Path, **template: Any) -> Template:
    (found,) = load_templates(write(tmp_path, **template))
    return found


def test_own_templates_are_right_and_there_are_three_for_each_task() -> None:
    templates = own_templates()
    assert lint(templates) == []
    counts = Counter((each.task, each.language) for each in templates)
    assert counts.keys() == {(task, language) for task in TASKS for language in ("en", "zh")}
    assert min(counts.values()) >= 3
    assert len({each.id for each in templates}) == len(templates)
    shown = {(each.language, each.options != "none") for each in templates}
    assert shown == {("en", False), ("en", True), ("zh", False), ("zh", True)}


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ({"fields": ["text", "answer", "title"]}, "no field title; there are text, answer, op"),
        ({"fields": ["text"]}, "uses answer, which `fields` does not name"),
        ({"prompt": "{{ text }} {{ answer }}"}, "uses answer, which is a part of the answer"),
        ({"prompt": "{{ text }} {{ answer | lower }}"}, "uses answer, which is a part"),
        ({"prompt": "{{ text }} {{ answer | first }}"}, "uses answer, which is a part"),
        ({"prompt": "{{ text }}{% if answer == 'red' %} (warm){% endif %}"}, "uses answer, which"),
        ({"prompt": "{{ text }}{% if text == 'x' %}{{ answer }}{% endif %}"}, "uses answer, wh"),
        ({"prompt": "Fill it.", "fields": ["answer"]}, "the prompt shows no field"),
        ({"answer": "yes", "fields": ["text"]}, "the answer shows no field"),
        ({"options": "letters"}, "options are letters, but the prompt does not show them"),
        ({"prompt": "{{ text }} {{ options }}"}, "uses options; say how they are shown"),
        ({"fields": ["text", "answer", "options"]}, "names options in `fields`"),
        ({"prompt": "{{ text }} {{ options }}", "options": "inline", "task": "summarisation"},
         "summarisation has no options"),
        ({"prompt": "填空: {{ text }}"}, "is called English and has Chinese characters"),
        ({"language": "zh"}, "is called Chinese and has English words"),
        ({"answer": "{% if answer == 'a' %}{{ answer }}{% endif %}"}, "the answer shows no field"),
    ],
)  # fmt: skip
def test_what_the_check_finds(tmp_path: Path, template: dict[str, Any], problem: str) -> None:
    path = write(tmp_path, **template)
    (found,) = lint_file(path).findings
    assert problem in found.problem
    assert str(found).startswith(f"{path}:")
    with pytest.raises(UserError, match=r"t\.yaml:\d+: (en|zh)/"):
        check_templates(load_templates(path))


@pytest.mark.parametrize("name", ["lower", "upper", "capitalize"])
def test_a_field_in_other_letters_is_shown(tmp_path: Path, name: str) -> None:
    prompt, answer = (f"{{{{ {field} | {name} }}}}" for field in ("text", "answer"))
    assert lint_file(write(tmp_path, prompt=prompt, answer=answer)).findings == ()


def test_two_templates_that_say_the_same(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["tasks"]["cloze"].append({**content["tasks"]["cloze"][0], "name": "two"})
    path.write_text(yaml.safe_dump(content))
    assert [each.problem for each in lint_file(path).findings] == [
        "says the same as en/cloze/one; take one of them out"
    ]


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("{{ text", "unexpected end"),
        ("{{ range(10) }}", r"cannot have this \(call\)"),
        ("{{ text.__class__ }}", r"cannot have this \(getattr\)"),
        ("{{ text * 1000 }}", r"cannot have this \(mul\)"),
        ("{% set a = text %}", r"cannot have this \(assign\)"),
        ("{{ text | upper | replace('a', 'b') }}", "no filter 'replace'|No filter named 'replace'"),
        ("{% for a in 'abc' %}{{ a }}{% endfor %}", "a loop goes over a field"),
        ("{% for a in options %}{% for b in options %}x{% endfor %}{% endfor %}",
         "a loop cannot be inside a loop"),
        ("{% if text > 3 %}a{% endif %}", "a comparison is == or !="),
        ("{% if 'a' in text %}a{% endif %}", "a comparison is == or !="),
        ("{{ text | trim(5, 6, 7) }}", "the filter trim takes nothing in brackets"),
        ("{{ text | join(text) }}", r"the filter join takes a text, such as join\(', '\)"),
        ("{{ text | join(attribute='a') }}", "the filter join takes a text"),
        ("{{ 3 | length }}", "length: a filter follows a field"),
        ("{{ text | first | length | join }}", "nothing can follow the filter length"),
        ("{{ " + "(" * 2_000 + "text" + ")" * 2_000 + " }}", "inside each other"),
        ("{% if text %}" * 150 + "a" + "{% endif %}" * 150, "inside each other"),
        ("{% include 'x' %}", r"cannot have this \(include\)"),
    ],
)  # fmt: skip
def test_templates_are_no_programs(tmp_path: Path, prompt: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        one(tmp_path, prompt=prompt)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nme": "x"}, r"t\.yaml:\d+: tasks\.cloze\.0\.nme: unknown key; did you mean name"),
        ({"options": "list"}, r"options: .*letters.*is wanted, not 'list'"),
        ({"made_of": ["close"]}, "'close' is no task; did you mean cloze"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_templates(write(tmp_path, **change))


def test_a_template_that_does_not_work_with_a_value(tmp_path: Path) -> None:
    prompt = "{{ text }}{% for sign in text %}{{ sign | trim | first }}{% endfor %}"
    template = one(tmp_path, prompt=prompt)
    assert lint([template]) == []
    with pytest.raises(UserError, match=r"t\.yaml:\d+: en/cloze/one: cannot be rendered: No first"):
        template.render({"text": "a b", "answer": "c"})


FIELDS: dict[str, Value] = {"text": "a ____", "answer": "red", "options": ("blue", "red")}


@pytest.mark.parametrize(
    ("options", "prompt", "answer"),
    [
        ("letters", "a ____\nA. blue\nB. red", "B"),
        ("lines", "a ____\n- blue\n- red", "red"),
        ("inline", "a ____\nblue, red", "red"),
    ],
)
def test_options(tmp_path: Path, options: str, prompt: str, answer: str) -> None:
    template = one(tmp_path, prompt="{{ text }}\n{{ options }}\n", options=options)
    assert template.fits("cloze", FIELDS)
    assert template.render(FIELDS) == (prompt, answer)
    assert not template.fits("cloze", {**FIELDS, "answer": "green"})
    assert not template.fits("cloze", {**FIELDS, "options": ("red",)})
    assert not template.fits("cloze", {"text": "a", "answer": "red"})
    assert not template.fits("dialogue", FIELDS)


def test_lists_and_names_of_languages(tmp_path: Path) -> None:
    template = one(
        tmp_path, language="zh", task="translation",
        fields=["text", "translation", "translation_language"],
        prompt="译成{{ translation_language }}：{{ text }}", answer="{{ translation }}",
    )  # fmt: skip
    fields = {"text": "River", "translation": "河", "translation_language": "zh"}
    assert template.render(fields) == ("译成中文：River", "河")
    template = one(
        tmp_path, task="text generation", fields=["keywords", "answer"],
        prompt="{{ keywords }}{% for word in keywords %}<{{ word }}>{% endfor %}",
    )  # fmt: skip
    assert template.render({"keywords": ("a", "b"), "answer": "c"})[0] == "a, b<a><b>"


def test_a_value_is_never_read_as_a_template(tmp_path: Path) -> None:
    template = one(tmp_path)
    assert template.render({"text": "{{ name }} {% if %}", "answer": "x"})[0] == (
        "Fill: {{ name }} {% if %}"
    )


def test_examples() -> None:
    assert with_examples([], "Q", "en", leads_on=False) == "Q"
    assert with_examples([("A?", "a"), ("B:", "b")], "C?", "en", leads_on=False) == (
        "Example 1\nA?\nAnswer: a\n\nExample 2\nB:\nAnswer: b\n\nNow your turn:\nC?"
    )
    assert with_examples([("A\nClass:", "a")], "C\nClass:", "en", leads_on=True) == (
        "Example 1\nA\nClass: a\n\nNow your turn:\nC\nClass:"
    )
    assert with_examples([("甲？", "a")], "丙？", "zh", leads_on=False) == (
        "示例1\n甲？\n答案：a\n\n现在请回答：\n丙？"
    )
    assert with_examples([("上联：甲\n下联：", "乙")], "丙", "zh", leads_on=True) == (
        "示例1\n上联：甲\n下联：乙\n\n现在请回答：\n丙"
    )


def test_a_prompt_that_leads_on(tmp_path: Path) -> None:
    assert not one(tmp_path).leads_on  # its text may end in a colon
    assert one(tmp_path, prompt="{{ text }}\nWord:\n").leads_on


def test_a_conversation_as_one_text() -> None:
    user, system = Message("user", "Hi"), Message("system", "Be kind.")
    assert as_one_text([user], "en") == "Hi"
    assert as_one_text([system, user], "en") == "Be kind.\n\nHi"
    turns = [user, Message("assistant", "Hello"), Message("user", "Bye")]
    assert as_one_text(turns, "en") == "User: Hi\nAssistant: Hello\nUser: Bye\nAssistant:"
    assert as_one_text(turns, "zh") == "用户：Hi\n助手：Hello\n用户：Bye\n助手："
