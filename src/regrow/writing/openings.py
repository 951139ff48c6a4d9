"""First words of the questions that a chat model writes itself.

Left alone, a chat model asks for much the same few things. A model that was cut and refitted on
such text keeps less of what lies outside it. So most questions begin with words that are given
here, which ask for texts of many kinds, and the model goes on from there. Other questions can be
answered in a sentence.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

_FREE_EVERY = 4
"""One of so many questions is the model's own from its first word."""

OPENINGS: Mapping[str, Sequence[str]] = {
    "en": (
        "Write an essay about",
        "Write an article about",
        "Write a short story about",
        "Write a long story in which",
        "Write a letter to",
        "Explain in simple words how",
        "Explain in detail why",
        "Describe the history of",
        "Describe the life of",
        "Describe a walk through",
        "Write a newspaper report about",
        "Write a chapter of a textbook about",
        "Write a review of",
        "Write a speech about",
        "Write a diary entry about",
        "Write instructions for",
        "Write a manual for",
        "Write a step-by-step guide to",
        "Write an encyclopedia entry about",
        "Write a blog post about",
        "Tell me about",
        "What is the difference between",
        "Summarise what is known about",
        "Write a description of",
        "Compare",
        "Write a dialogue between",
        "What happened",
        "How do people",
        "Why do",
        "How does",
        "Give an overview of",
        "Write a report on",
    ),
    "zh": (
        "请写一篇关于",
        "请写一个短篇故事来讲述",
        "请写一封信给",
        "请用简单的话解释",
        "请详细说明为什么",
        "请介绍一下",
        "请描述",
        "请写一则新闻来报道",
        "请写一段演讲来谈谈",
        "请写一份说明书来介绍",
        "请一步一步说明如何",
        "请比较",
        "请写一段对话来讨论",
        "请概述",
        "请写一份报告来分析",
        "请为教科书写一章来讲解",
    ),
}
"""By the code of a language in ISO 639."""

BRIEF_OPENINGS: Mapping[str, Sequence[str]] = {
    "en": (
        "What is",
        "What is the",
        "What is a",
        "What is an",
        "What is the name of",
        "What is the capital of",
        "What is the largest",
        "What is the smallest",
        "What is the most",
        "What is the first",
        "What is the main",
        "What is the meaning of",
        "What is the opposite of",
        "What is used to",
        "What are",
        "What was",
        "What color is",
        "What kind of",
        "What do",
        "What does",
        "What happens when",
        "What can you",
        "Who is",
        "Who was",
        "Who wrote",
        "Who painted",
        "Who invented",
        "Who discovered",
        "Where is",
        "Where do",
        "When did",
        "When was",
        "How many",
        "How much",
        "How long",
        "How old",
        "Which",
        "Which animal",
        "Which city",
        "Which country",
        "Which language",
        "Which planet",
        "In which",
        "Why is",
        "Is",
        "Are",
        "Can",
        "Do",
        "Name",
        "Define",
        "Give an example of",
    ),
    "zh": (
        "什么是",
        "什么叫",
        "谁是",
        "谁写了",
        "谁发明了",
        "谁发现了",
        "哪个国家",
        "哪个城市",
        "哪种动物",
        "哪种语言",
        "哪颗行星",
        "哪一年",
        "世界上最大的",
        "世界上最高的",
        "世界上最长的",
        "一年有多少",
        "为什么",
        "怎样",
        "人们用什么",
        "中国的",
        "请说出",
        "请举一个例子",
    ),
}
"""Of questions that can be answered in a sentence, by the code of a language."""


def openings(languages: Sequence[str] = ()) -> list[str]:
    """The first words of questions, to be used in turn; empty words leave a question to the model.

    `languages`: codes of ISO 639, which take turns; without any, English. In the turn of a language
    that has no openings here, the model writes the whole question.
    """
    given = [OPENINGS.get(each, ("",)) for each in sorted({*languages} or {"en"})]
    longest = max(map(len, given))
    words = [each[number % len(each)] for number in range(longest) for each in given]
    group = _FREE_EVERY - 1
    groups = [[*words[first : first + group], ""] for first in range(0, len(words), group)]
    return [*chain.from_iterable(groups)] if any(words) else [""]


def brief_openings(languages: Sequence[str] = ()) -> list[str]:
    """The first words of brief questions, to be used in turn; none if no language has any.

    `languages`: codes of ISO 639, which take turns; without any, English.
    """
    given = [
        BRIEF_OPENINGS[each] for each in sorted({*languages} or {"en"}) if each in BRIEF_OPENINGS
    ]
    longest = max(map(len, given), default=0)
    return [each[number % len(each)] for number in range(longest) for each in given]
