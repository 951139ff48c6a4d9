"""Check templates before anything is made with them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from regrow.common.errors import UserError
from regrow.instructions.language import language_of
from regrow.instructions.sample import Value
from regrow.instructions.tasks import LISTS, TASKS
from regrow.instructions.template import Template, load_templates, unknown_fields

_HAN = re.compile("[\u3400-\u9fff]")
_MARKER = "MARK-{name}-MARK"
"""Stands for the value of a field, so that it is found again."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a template.

    Attributes:
        where: File, line and key.
        template: Its id.
        problem: What is wrong, and what would be right.
    """

    where: str
    template: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.template}: {self.problem}"


@dataclass(frozen=True)
class Linted:
    """The result of a check.

    Attributes:
        templates: How many templates a file has.
        findings: What is wrong with them.
    """

    templates: int
    findings: tuple[Finding, ...]


def lint_file(path: Path) -> Linted:
    """Check a file of templates.

    Raises UserError if it has not the form of templates.
    """
    templates = load_templates(path)
    return Linted(len(templates), tuple(lint(templates)))


def check_templates(templates: Sequence[Template]) -> None:
    """Raise UserError, with the first finding, if something is wrong with a template."""
    found = lint(templates)
    if found:
        more = f"; {len(found) - 1} more, see regrow instructions lint" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}")


def lint(templates: Sequence[Template]) -> list[Finding]:
    """What is wrong with some templates, in their order."""
    found = []
    seen: dict[tuple[str, ...], str] = {}
    for each in templates:
        problems = list(_problems(each))
        shown = (each.language, each.task, *_marked(each)) if not problems else ()
        if shown:
            if shown in seen:
                problems.append(f"says the same as {seen[shown]}; take one of them out")
            seen.setdefault(shown, each.id)
        found += [Finding(each.path, each.id, problem) for problem in problems]
    return found


def _problems(template: Template) -> Iterator[str]:
    used = template.prompt_fields | template.answer_fields
    if "options" in template.fields:
        yield "names options in `fields`; say how they are shown in `options` alone"
        return
    if template.options != "none":
        if "options" not in template.prompt_fields:
            yield f"options are {template.options}, but the prompt does not show them"
        if not any("options" in TASKS[task] for task in template.takes):
            yield f"{template.task} has no options"
            return
        used -= {"options"}
    elif "options" in used:
        yield "uses options; say how they are shown: letters, lines or inline"
        return
    unknown = unknown_fields(template)
    if unknown:
        known = dict.fromkeys(name for task in template.takes for name in TASKS[task])
        yield f"no field {unknown[0]}; there are {', '.join(known)}"
        return
    missing, unused = sorted(used - {*template.fields}), sorted({*template.fields} - used)
    if missing:
        yield f"uses {', '.join(missing)}, which `fields` does not name"
        return
    if unused:
        yield f"names {', '.join(unused)} in `fields`, and does not use it"
    both = sorted((template.prompt_fields & template.answer_fields) - {"options"})
    if both:
        yield f"the prompt uses {', '.join(both)}, which is a part of the answer"
    try:
        yield from _rendered_problems(template)
    except UserError as error:
        yield str(error).removeprefix(f"{template.path}: {template.id}: ")
        return
    yield from _language_problems(template)


def _marked(template: Template) -> tuple[str, str]:
    """Prompt and answer with a marker for the value of each field."""
    fields: dict[str, Value] = {}
    for name in (*template.fields, "answer", "options"):
        marker = _MARKER.format(name=name)
        fields[name] = (marker,) if name in LISTS else marker
    fields["options"] = (str(fields["answer"]), "MARK-other-MARK")
    return template.render(fields)


def _rendered_problems(template: Template) -> Iterator[str]:
    # Filters such as `upper` change the case of markers.
    prompt, answer = (text.casefold() for text in _marked(template))
    letter = template.options == "letters" and "answer" in template.answer_fields
    if not any(_MARKER.format(name=name).casefold() in prompt for name in template.fields):
        yield "the prompt shows no field, so it is always the same"
    marks = [
        name for name in template.answer_fields if _MARKER.format(name=name).casefold() in answer
    ]
    if not marks and not (letter and answer):
        yield "the answer shows no field, so it is always the same"


def _language_problems(template: Template) -> Iterator[str]:
    text = template.text
    if template.language == "en" and _HAN.search(text):
        yield "is called English and has Chinese characters"
    if template.language == "zh" and text.strip() and language_of([text]) == "en":
        yield "is called Chinese and has English words"
