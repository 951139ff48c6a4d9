"""Conversations and single instructions: what needs no template."""

from collections.abc import Sequence
from typing import Any

from regrow.instructions.formats.format import (
    BrokenError,
    Fields,
    Format,
    conversation,
    is_text,
    may_be_text,
    text,
)
from regrow.instructions.sample import Content

_FOLLOWING, _DIALOGUE = "instruction following", "dialogue"
_ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "bing": "assistant", "bard": "assistant",
    "system": "system",
}  # fmt: skip
"""The role of a turn by the names that published files have for it."""
_TASK_OF_CLASS = {
    "open qa": "question answering", "closed qa": "reading comprehension",
    "math": "mathematics", "classification": "text classification",
    "summarization": "summarisation", "generation": "text generation",
}  # fmt: skip
"""The task by the classes of BELLE's evaluation set; others are followed instructions."""
_TASK_OF_TYPE = {
    "classify": "text classification", "nli": "text matching", "mrc": "reading comprehension",
    "generate": "text generation", "anaphora_resolution": "semantic analysis",
}  # fmt: skip
"""The task by the types of pCLUE."""


def _task(turns: Sequence[Any]) -> str:
    return _FOLLOWING if len(turns) <= 3 else _DIALOGUE


def _turns(record: Fields, key: str, who: str, what: str) -> list[tuple[str, str]]:
    found = []
    for turn in record[key]:
        if not isinstance(turn, dict) or not isinstance(turn.get(what), str):
            raise BrokenError(f"{key}: a turn without {who} and {what}")
        role = _ROLES.get(str(turn.get(who)))
        if role is None:
            raise BrokenError(f"{key}: a turn of {str(turn.get(who))[:20]!r}")
        found.append((role, turn[what]))
    return found


def _is_list(key: str, *inner: str) -> Any:
    def fits(record: Fields) -> bool:
        value = record[key]
        return isinstance(value, list) and all(
            isinstance(turn, dict) and all(name in turn for name in inner) for turn in value
        )

    return fits


def _sharegpt(record: Fields) -> list[Content]:
    turns = _turns(record, "conversations", "from", "value")
    system = may_be_text(record, "system")
    if system and turns and turns[0][0] != "system":
        turns.insert(0, ("system", system))
    return [conversation(_task(turns), turns)]


def _messages(record: Fields) -> list[Content]:
    turns = _turns(record, "messages", "role", "content")
    return [conversation(_task(turns), turns)]


def _firefly(record: Fields) -> list[Content]:
    turns: list[tuple[str, str]] = []
    for turn in record["conversation"]:
        turns += [("user", text(turn, "human")), ("assistant", text(turn, "assistant"))]
    return [conversation(_task(turns), turns)]


def _firefly_kinds(record: Fields) -> list[Content]:
    return _pair(record, "input", "target")


def _joined(instruction: str, given: str) -> str:
    return f"{instruction}\n\n{given}" if given else instruction


def _alpaca(record: Fields) -> list[Content]:
    turns = [("system", may_be_text(record, "system"))] if may_be_text(record, "system") else []
    for earlier in record.get("history") or []:
        if not isinstance(earlier, list | tuple) or len(earlier) != 2:
            raise BrokenError("history: pairs of a question and an answer are expected")
        turns += [("user", str(earlier[0])), ("assistant", str(earlier[1]))]
    asked = _joined(text(record, "instruction"), may_be_text(record, "input"))
    turns += [("user", asked), ("assistant", text(record, "output"))]
    return [conversation(_task(turns), turns)]


def _pair(record: Fields, prompt: str, answer: str, task: str = _FOLLOWING) -> list[Content]:
    turns = [("user", text(record, prompt)), ("assistant", text(record, answer))]
    return [conversation(task, turns)]


def _pclue(record: Fields) -> list[Content]:
    task = _TASK_OF_TYPE.get(str(record["type"]), _FOLLOWING)
    choices = record.get("answer_choices")
    if choices and record["target"] not in choices:
        raise BrokenError("target: none of answer_choices")
    return _pair(record, "input", "target", task)


def _belle_tasks(record: Fields) -> list[Content]:
    instruction = text(record, "instruction")
    found = []
    for instance in record["instances"]:
        asked = _joined(instruction, may_be_text(instance, "input"))
        turns = [("user", asked), ("assistant", text(instance, "output"))]
        found.append(conversation(_FOLLOWING, turns))
    return found


def _belle_questions(record: Fields) -> list[Content]:
    kind = " ".join(str(record["class"]).split())  # it has no-break spaces
    return _pair(record, "question", "std_answer", _TASK_OF_CLASS.get(kind, _FOLLOWING))


def _texts(*keys: str) -> Any:
    return lambda record: is_text(record, *keys)


CHATS = (
    Format("alpaca", ("instruction", "output"), _texts("instruction", "output"), _alpaca),
    Format(
        "sharegpt", ("conversations",), _is_list("conversations", "from", "value"), _sharegpt
    ),
    Format("messages", ("messages",), _is_list("messages", "role", "content"), _messages),
    Format(
        "prompt and completion", ("prompt", "completion"), _texts("prompt", "completion"),
        lambda record: _pair(record, "prompt", "completion"),
    ),
    Format(
        "prompt and response", ("prompt", "response"), _texts("prompt", "response"),
        lambda record: _pair(record, "prompt", "response"),
    ),
    Format(
        "inputs and targets", ("inputs", "targets"), _texts("inputs", "targets"),
        lambda record: _pair(record, "inputs", "targets"),
    ),
    Format(
        "input and target", ("input", "target"), _texts("input", "target"),
        lambda record: _pair(record, "input", "target"),
    ),
    Format(
        "firefly", ("conversation",), _is_list("conversation", "human", "assistant"), _firefly
    ),
    Format(
        "firefly kinds", ("kind", "input", "target"), _texts("kind", "input", "target"),
        _firefly_kinds,
    ),
    Format("pclue", ("input", "target", "type"), _texts("input", "target", "type"), _pclue),
    Format(
        "belle tasks", ("instruction", "instances"), _is_list("instances", "output"), _belle_tasks
    ),
    Format(
        "belle questions", ("question", "std_answer", "class"),
        _texts("question", "std_answer", "class"), _belle_questions,
    ),
)  # fmt: skip
