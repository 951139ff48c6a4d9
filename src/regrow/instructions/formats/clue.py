"""The tasks of CLUE and FewCLUE (Xu et al. 2020, 2021), with words for their labels."""

from collections.abc import Callable, Mapping
from typing import Any

from regrow.instructions.formats.format import (
    BrokenError,
    Fields,
    Format,
    is_text,
    labelled,
    text,
)
from regrow.instructions.language import language_of
from regrow.instructions.sample import Content, Value

_NEWS = {
    "news_story": "故事", "news_culture": "文化", "news_entertainment": "娱乐",
    "news_sports": "体育", "news_finance": "财经", "news_house": "房产", "news_car": "汽车",
    "news_edu": "教育", "news_tech": "科技", "news_military": "军事", "news_travel": "旅游",
    "news_world": "国际", "news_stock": "股票", "news_agriculture": "农业", "news_game": "游戏",
}  # fmt: skip
_FEELING = {"Positive": "正面", "Negative": "负面"}
_SAME = {"1": "是", "0": "否"}
_TRUE = {"true": "是", "false": "否"}
_INFERENCE = {"entailment": "蕴含", "neutral": "无关", "contradiction": "矛盾"}
_GAP = "#idiom#"
BLANK = "____"
"""What stands for the missing words of a cloze."""


def _content(task: str, **fields: Value) -> list[Content]:
    return [Content(task, fields, language="zh")]


def _options(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels.values())


def _bustm(record: Fields) -> list[Content]:
    return _content(
        "text matching", sentence1=text(record, "sentence1"), sentence2=text(record, "sentence2"),
        answer=labelled(record, "label", _SAME), options=_options(_SAME),
    )  # fmt: skip


def _ocnli(record: Fields) -> list[Content]:
    if record["label"] == "-":
        raise BrokenError("label: the annotators did not agree")
    return _content(
        "text matching", premise=text(record, "sentence1"), hypothesis=text(record, "sentence2"),
        answer=labelled(record, "label", _INFERENCE), options=_options(_INFERENCE),
    )  # fmt: skip


def _chid(record: Fields) -> list[Content]:
    words, place = record["candidates"], record["answer"]
    if type(place) is not int or not 0 <= place < len(words):
        raise BrokenError("answer: the place of a candidate is expected")
    content = text(record, "content")
    if content.count(_GAP) != 1:
        raise BrokenError("content: one gap is expected")
    return _content(
        "cloze", text=content.replace(_GAP, BLANK), answer=str(words[place]),
        options=tuple(map(str, words)),
    )  # fmt: skip


def _cluewsc(record: Fields) -> list[Content]:
    target = record["target"]
    return _content(
        "semantic analysis", text=text(record, "text"), pronoun=text(target, "span2_text"),
        mention=text(target, "span1_text"), answer=labelled(record, "label", _TRUE),
        options=_options(_TRUE),
    )  # fmt: skip


def _csl(record: Fields) -> list[Content]:
    words = tuple(str(word).strip() for word in record["keyword"] if str(word).strip())
    if not words:
        raise BrokenError("keyword: empty")
    return _content(
        "semantic analysis", text=text(record, "abst"), keywords=words,
        answer=labelled(record, "label", _SAME), options=_options(_SAME),
    )  # fmt: skip


def _eprstmt(record: Fields) -> list[Content]:
    return _content(
        "sentiment analysis", text=text(record, "sentence"), kind="商品评论",
        answer=labelled(record, "label", _FEELING), options=_options(_FEELING),
    )  # fmt: skip


def _iflytek(record: Fields) -> list[Content]:
    return _content(
        "text classification", text=text(record, "sentence"), kind="应用介绍",
        answer=text(record, "label_des"),
    )  # fmt: skip


def _tnews(record: Fields) -> list[Content]:
    return _content(
        "text classification", text=text(record, "sentence"), kind="新闻标题",
        answer=labelled(record, "label_desc", _NEWS), options=_options(_NEWS),
    )  # fmt: skip


def _chinese(fits: Callable[[Fields], bool], *keys: str) -> Callable[[Fields], bool]:
    """The condition `fits`, of records with Chinese texts: English tasks have the same keys."""
    return lambda record: (
        is_text(record, *keys) and language_of(record[key] for key in keys) == "zh" and fits(record)
    )


def _label_is(*labels: Any) -> Callable[[Fields], bool]:
    return lambda record: record["label"] in labels


def _has(key: str, kind: type) -> Callable[[Fields], bool]:
    return lambda record: isinstance(record[key], kind)


CLUE = (
    Format(
        "bustm", ("sentence1", "sentence2", "label"),
        _chinese(_label_is("0", "1", 0, 1), "sentence1", "sentence2"), _bustm,
    ),
    Format(
        "ocnli", ("sentence1", "sentence2", "label"),
        _chinese(_label_is(*_INFERENCE, "-"), "sentence1", "sentence2"), _ocnli,
    ),
    Format(
        "chid", ("candidates", "content", "answer"),
        _chinese(_has("candidates", list), "content"), _chid,
    ),
    Format(
        "cluewsc", ("target", "text", "label"), _chinese(_has("target", dict), "text"), _cluewsc
    ),
    Format("csl", ("abst", "keyword", "label"), _chinese(_has("keyword", list), "abst"), _csl),
    Format(
        "eprstmt", ("sentence", "label"),
        _chinese(lambda record: record["label"] in (*_FEELING,), "sentence"), _eprstmt,
    ),
    Format(
        "iflytek", ("sentence", "label_des"),
        _chinese(_has("label_des", str), "sentence"), _iflytek,
    ),
    Format(
        "tnews", ("sentence", "label_desc"),
        _chinese(lambda record: str(record["label_desc"]).startswith("news_"), "sentence"), _tnews,
    ),
)  # fmt: skip
