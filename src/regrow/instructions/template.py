"""Templates: how a sample of a task becomes a question and an answer.

A template is written in a small part of Jinja: names of fields, conditions, loops over a list
field, and a few filters. It has no calls and no arithmetic. So a template that somebody else wrote
ends soon and needs little memory, and nothing outside of it can be reached.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, field_validator

from regrow.common.errors import UserError, one_line
from regrow.common.fields import Strict
from regrow.common.yaml_file import parse_yaml, read_yaml_text
from regrow.instructions.config import Language
from regrow.instructions.sample import Message, Value
from regrow.instructions.tasks import TASKS, check_task

OptionsForm = Literal["none", "letters", "lines", "inline"]
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.If, nodes.For,
    nodes.Filter, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr,
)  # fmt: skip
_FILTERS = ("join", "trim", "lower", "upper", "capitalize", "first", "last", "length")
LANGUAGE_NAMES: Mapping[str, Mapping[str, str]] = {
    "en": {"en": "English", "zh": "Chinese"},
    "zh": {"en": "\u82f1\u6587", "zh": "\u4e2d\u6587"},
}
"""What each language is called in each language."""
_BETWEEN = {"en": ", ", "zh": "\u3001"}
"""Between the texts of a list in a sentence."""


class TemplateSpec(Strict):
    """A template, as a file has it.

    Attributes:
        name: Names it among those of its task.
        fields: The fields that prompt and answer use.
        prompt: The question, with fields in double braces.
        answer: The answer, in the same way.
        options: How `options` are shown: `letters` shows them on lines with letters, and the answer
            is a letter; `lines` on lines with dashes; `inline` in one sentence; `none` not at all.
        made_of: Other tasks whose samples it takes too.
    """

    name: str = Field(min_length=1)
    fields_: list[str] = Field(alias="fields", min_length=1)
    prompt: str = Field(min_length=1, max_length=5_000)
    answer: str = Field(default="{{ answer }}", min_length=1, max_length=5_000)
    options: OptionsForm = "none"
    made_of: list[str] = Field(default_factory=list)


class TemplateFile(Strict):
    """A file of templates.

    Attributes:
        language: Of all its templates.
        tasks: The templates by task.
    """

    language: Language
    tasks: dict[str, list[TemplateSpec]]

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, value: dict[str, list[TemplateSpec]]) -> dict[str, list[TemplateSpec]]:
        try:
            for name in [*value, *(t for each in value.values() for s in each for t in s.made_of)]:
                check_task(name)
        except UserError as error:
            raise ValueError(str(error)) from None
        for name, specs in value.items():
            names = [each.name for each in specs]
            twice = next((each for each in names if names.count(each) > 1), None)
            if twice is not None:
                raise ValueError(f"{name}: two templates are called {twice!r}")
        return value


@dataclass(frozen=True, eq=False)
class Template:
    """A template that can be rendered.

    Attributes:
        id: Language, task and name, for rows and reports.
        task: The task of the instructions it makes.
        language: Of its words.
        takes: Tasks whose samples it takes.
        fields: The fields that it uses.
        options: How options are shown.
        prompt: Compiled.
        answer: Compiled.
        prompt_fields: Fields that the prompt uses.
        answer_fields: Fields that the answer uses.
        leads_on: Whether its prompt ends in a word such as `Answer:`.
        text: Its words without fields, of prompt and answer.
        path: Its file and line.
    """

    id: str
    task: str
    language: str
    takes: tuple[str, ...]
    fields: tuple[str, ...]
    options: OptionsForm
    prompt: Any
    answer: Any
    prompt_fields: frozenset[str]
    answer_fields: frozenset[str]
    leads_on: bool
    text: str
    path: str

    def fits(self, task: str, fields: Mapping[str, Value]) -> bool:
        """Whether a sample of this task with these fields can be rendered."""
        if task not in self.takes or not all(fields.get(name) for name in self.fields):
            return False
        if self.options == "none":
            return True
        options = fields.get("options", ())
        most = len(_LETTERS) if self.options == "letters" else 1_000
        return 2 <= len(options) <= most and fields.get("answer") in options

    def render(self, fields: Mapping[str, Value]) -> tuple[str, str]:
        """The question and the answer for fields that fit.

        Raises UserError if the template does not work with them, such as the first letter of
        nothing.
        """
        values = {name: self._shown(name, fields[name]) for name in self.fields}
        if self.options != "none":
            options = fields["options"]
            assert isinstance(options, tuple)
            values["options"] = self._options(options)
            if self.options == "letters" and "answer" in self.answer_fields:
                values["answer"] = _LETTERS[options.index(str(fields["answer"]))]
        return self._rendered(self.prompt, values), self._rendered(self.answer, values)

    def _rendered(self, part: Any, values: Mapping[str, Value]) -> str:
        try:
            return str(part.render(values)).strip()
        except (TemplateError, TypeError) as error:
            problem = one_line(str(error))
            raise UserError(f"{self.path}: {self.id}: cannot be rendered: {problem}") from None

    def _shown(self, name: str, value: Value) -> Value:
        if name.endswith("_language"):
            return LANGUAGE_NAMES[self.language].get(str(value), str(value))
        return value if isinstance(value, str) else _Listed(value, _BETWEEN[self.language])

    def _options(self, options: Sequence[str]) -> str:
        if self.options == "letters":
            return "\n".join(
                f"{letter}. {text}" for letter, text in zip(_LETTERS, options, strict=False)
            )
        if self.options == "lines":
            return "\n".join(f"- {text}" for text in options)
        return _BETWEEN[self.language].join(options)


class _Listed(tuple[str, ...]):
    """Texts that a template can loop over, and that are a sentence where they are printed."""

    between: str

    def __new__(cls, texts: Sequence[str], between: str) -> "_Listed":
        found = super().__new__(cls, texts)
        found.between = between
        return found

    def __str__(self) -> str:
        return self.between.join(self)


# Files


def load_templates(path: Path) -> list[Template]:
    """The templates of a file. Raises UserError, with file, line and key, at the first mistake."""
    spec, source = parse_yaml(
        read_yaml_text(path, "file of templates"), path, TemplateFile, "file of templates"
    )
    found = []
    for task, specs in spec.tasks.items():
        for number, each in enumerate(specs):
            where = f"{path}:{source.line(('tasks', task, number))}"
            found.append(_compiled(each, task, spec.language, where))
    return found


@cache
def own_templates() -> tuple[Template, ...]:
    """The templates that come with regrow, in the order of their files."""
    folder = Path(str(files("regrow.instructions") / "templates"))
    paths = sorted(folder.rglob("*.yaml"))
    return tuple(template for path in paths for template in load_templates(path))


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True)
    environment.filters = {name: environment.filters[name] for name in _FILTERS}
    environment.globals.clear()
    return environment


def _compiled(spec: TemplateSpec, task: str, language: str, where: str) -> Template:
    parts = {}
    used: dict[str, frozenset[str]] = {}
    words: list[str] = []
    for part in ("prompt", "answer"):
        source = getattr(spec, part)
        try:
            tree = _environment().parse(source)
            _check_nodes(tree)
            parts[part] = _environment().from_string(source)
        except TemplateSyntaxError as error:
            problem = one_line(error.message or "not a template")
            raise UserError(f"{where}: {part}: {problem}") from None
        except (RecursionError, SyntaxError):
            raise UserError(f"{where}: {part}: too much is inside each other") from None
        used[part] = frozenset(meta.find_undeclared_variables(tree))
        words += [node.data for node in tree.find_all(nodes.TemplateData)]
    return Template(
        f"{language}/{task}/{spec.name}", task, language, (task, *spec.made_of),
        tuple(spec.fields_), spec.options, parts["prompt"], parts["answer"], used["prompt"],
        used["answer"], spec.prompt.rstrip().endswith(_COLONS), "\n".join(words), where,
    )  # fmt: skip


def _check_nodes(tree: nodes.Template) -> None:
    """Raise TemplateSyntaxError at what a template may not have."""
    for node in _all_nodes(tree):
        line = getattr(node, "lineno", 1)
        if not isinstance(node, _NODES):
            kind = type(node).__name__.lower()
            raise TemplateSyntaxError(f"a template cannot have this ({kind})", line)
        if isinstance(node, nodes.Filter):
            _check_filter(node)
        if isinstance(node, nodes.Operand) and node.op not in ("eq", "ne"):
            raise TemplateSyntaxError("a comparison is == or !=", line)
        if isinstance(node, nodes.For):
            if not isinstance(node.iter, nodes.Name) or node.recursive:
                raise TemplateSyntaxError("a loop goes over a field", line)
            if any(inner is not node for inner in node.find_all(nodes.For)):
                raise TemplateSyntaxError("a loop cannot be inside a loop", line)


def _check_filter(node: nodes.Filter) -> None:
    """Raise TemplateSyntaxError if it is no known filter of a text or a list."""
    if node.name not in _FILTERS:
        raise TemplateSyntaxError(
            f"no filter {node.name!r}; there are {', '.join(_FILTERS)}", node.lineno
        )
    before = node.node
    if not isinstance(before, nodes.Name | nodes.Filter):
        raise TemplateSyntaxError(f"{node.name}: a filter follows a field", node.lineno)
    if isinstance(before, nodes.Filter) and before.name == "length":
        raise TemplateSyntaxError("nothing can follow the filter length", node.lineno)
    most = 1 if node.name == "join" else 0
    is_text = all(isinstance(a, nodes.Const) and isinstance(a.value, str) for a in node.args)
    if len(node.args) > most or not is_text or node.kwargs or node.dyn_args or node.dyn_kwargs:
        wanted = "takes a text, such as join(', ')" if most else "takes nothing in brackets"
        raise TemplateSyntaxError(f"the filter {node.name} {wanted}", node.lineno)


def _all_nodes(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _all_nodes(child)


# Examples before a question, and conversations in one text


@dataclass(frozen=True)
class Words:
    """Words around examples and turns, in one language."""

    example: str
    question: str
    answer: str
    user: str
    assistant: str
    colon: str


WORDS: Mapping[str, Words] = {
    "en": Words("Example", "Now your turn:", "Answer", "User", "Assistant", ": "),
    "zh": Words(
        "\u793a\u4f8b", "\u73b0\u5728\u8bf7\u56de\u7b54\uff1a", "\u7b54\u6848", "\u7528\u6237",
        "\u52a9\u624b", "\uff1a",
    ),
}  # fmt: skip
_COLONS = (":", "\uff1a")


def with_examples(
    examples: Sequence[tuple[str, str]], prompt: str, language: str, *, leads_on: bool
) -> str:
    """A prompt after questions with their answers; the prompt alone if there are none.

    `leads_on`: whether the questions end in a word such as `Answer:`, so that none is put between.
    """
    if not examples:
        return prompt
    words = WORDS[language]
    space = " " if language == "en" else ""
    parts = []
    for number, (question, answer) in enumerate(examples, start=1):
        between = f"\n{words.answer}{words.colon}"
        if leads_on:
            between = "\n" if "\n" in answer else space
        parts.append(f"{words.example}{space}{number}\n{question}{between}{answer}")
    return "\n\n".join([*parts, f"{words.question}\n{prompt}"])


def as_one_text(messages: Sequence[Message], language: str) -> str:
    """The turns before an answer as one text; a single turn is the text as it is."""
    words = WORDS.get(language, WORDS["en"])
    system = [each.content for each in messages if each.role == "system"]
    turns = [each for each in messages if each.role != "system"]
    if len(turns) == 1:
        return "\n\n".join([*system, turns[0].content])
    names = {"user": words.user, "assistant": words.assistant}
    lines = [f"{names[each.role]}{words.colon}{each.content}" for each in turns]
    return "\n\n".join([*system, "\n".join([*lines, f"{words.assistant}{words.colon}".rstrip()])])


def unknown_fields(template: Template) -> list[str]:
    """Fields that a template names and its tasks do not have, sorted."""
    known = {name for task in template.takes for name in TASKS[task]}
    return sorted(set(template.fields) - known)
