"""Each rule drops what it is made for, with its own reason; good prose in both scripts is kept."""

from typing import Any

import pytest
from pydantic import ValidationError

from regrow.cleaning.steps.quality import Quality
from tests.cleaning.steps.documents import reasons, text_after

ENGLISH = (
    "A river is a natural stream of fresh water that flows on land or inside of caves towards "
    "another body of water at a lower level, such as an ocean, a lake or another river.\n"
    "Small rivers have names such as creek, brook and rivulet, and there are no official "
    "definitions for these words, although in some countries they are told apart by size.\n"
    "Rivers are part of the water cycle. Water from rain runs off and gathers in them; some of it "
    "comes from springs, or from melting snow in the mountains.\n"
)
CHINESE = (
    "河流是由一定区域内地表水和地下水补给，经常或间歇地沿着狭长凹地流动的水流。\n"
    "中国的河流很多，其中长江是最长的，全长六千三百多公里，也是世界上第三长的大河。\n"
    "人们在河边生活了几千年，他们用河水灌溉农田，在河上行船，也从水里得到了鱼和虾。\n"
    "每年夏天，山上的雪化了以后，河里的水就会多起来，有时还会淹没两岸的村庄。\n"
)
CODE = "def double(x):\n    return 2 * x\n\n\nfor n in range(3):\n    print(double(n))\n"


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, CHINESE + ENGLISH, CODE, CODE + "Two words.\n"])
def test_good_documents_are_kept(text: str) -> None:
    assert text_after(Quality(), text) == text
    assert reasons(Quality(), text) == {}


def test_limits_for_english_would_drop_good_chinese() -> None:
    assert Quality().chinese.least_unit_length is None
    step = Quality.model_validate({"chinese": Quality().spaced.model_dump()})
    assert reasons(step, CHINESE) == {"short words": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Only some words are here.", "too short"),
        ("只有一句话。", "too short"),
        ("a b c d e of the " * 30, "short words"),
        ("incomprehensibilities internationalisation " * 30, "long words"),
        (ENGLISH.replace(" ", " #", 30), "many hashes"),
        (CHINESE.replace("，", "……………#" * 2), "many hashes"),
        (ENGLISH.replace(" ", "... ", 40), "many ellipses"),
        ("12345 67890 the of and 34567 " * 20, "few letters"),
        (ENGLISH.replace("\n", "\n- ").replace("A river", "- A river", 1)[:-3], "mostly bullets"),
        (CHINESE.replace("。\n", "……\n"), "lines end with ellipses"),
        (ENGLISH.replace(".\n", " and\n").replace(",", "\n"), "few lines end a sentence"),
        (CHINESE + "\n".join(f"{each}专题频道首页" for each in "天地玄黄宇宙洪荒日月"),
         "short lines"),
        (ENGLISH.replace("the", "le").replace("to", "a").replace("and", "et")
         .replace("of", "de").replace("that", "que").replace("have", "ont"), "few stop words"),
        (CHINESE.replace("。", "，").replace("\n", "").removesuffix("，") + "。", "few sentences"),
        (ENGLISH + ENGLISH.split("\n")[0] + "\n", "repeated lines"),
        (CHINESE * 2, "repeated lines"),
        (ENGLISH + "Lorem ipsum dolor sit amet.\n", "lorem ipsum"),
        (ENGLISH.replace("\n", " ") + "\nAgain: " + ENGLISH.replace("\n", " "),
         "phrases of 5 repeated"),
        (CHINESE + "".join(f"小{n}说他明天要去城里的商店买很多面包。\n" for n in "甲乙丙丁戊"),
         "phrases of 8 repeated"),
        (ENGLISH + " ".join(f"Blue whale {word}" for word in ENGLISH.split()[:60]) + ".",
         "one phrase of 2 repeated"),
    ],
)  # fmt: skip
def test_each_rule(text: str, reason: str | None) -> None:
    assert list(reasons(Quality(), text)) == ([] if reason is None else [reason])
    assert (text_after(Quality(), text) is None) is (reason is not None)


def test_repeated_paragraphs_and_length() -> None:
    text = "\n\n".join([ENGLISH, "One more line.\nTwo more lines of it.", "Z is here.", ENGLISH])
    off = {"duplicate_lines": None, "duplicate_line_characters": None}
    step = Quality.model_validate({"spaced": off})
    assert reasons(step, text) == {"repeated paragraphs": 1}
    assert reasons(Quality.model_validate({"spaced": {"most_units": 60}}), ENGLISH) == {
        "too long": 1
    }
    assert reasons(Quality.model_validate({"spaced": {"line_ends": 0.01}}), ENGLISH) == {
        "many line ends": 1
    }


@pytest.mark.parametrize(("length", "n"), [(11, None), (12, 10), (13, 9), (14, 8), (16, 6)])
def test_longer_phrases_have_lower_limits(length: int, n: int | None) -> None:
    phrase = " ".join(ENGLISH.split()[3 : 3 + length])
    text = f"{ENGLISH}Again we say that {phrase}.\n"
    assert list(reasons(Quality(), text)) == ([] if n is None else [f"phrases of {n} repeated"])


def test_a_limit_of_null_switches_a_rule_off() -> None:
    off: dict[str, Any] = {
        name: () if name.endswith("grams") else None
        for name in type(Quality().spaced).model_fields
        if name != "short_line"
    }
    step = Quality.model_validate({"spaced": off})
    for text in ("Short.", "1 2 3", "# # #", "a\n" * 30):
        assert text_after(step, text) == text


def test_lines_of_few_words_are_dropped() -> None:
    text = f"Home\n\n{ENGLISH}x = 1\nRead more\n"
    assert text_after(Quality(), text) == f"\n{ENGLISH}x = 1\n"
    assert reasons(Quality(), text) == {"line of few words": 2}
    assert text_after(Quality(), f"首页\n{CHINESE}") == CHINESE
    step = Quality.model_validate({"spaced": {"least_line_units": None}})
    assert text_after(step, text) == text


def test_a_long_paragraph_may_be_cut_off() -> None:
    text = ENGLISH.replace("\n", " ").rstrip(" .") + " and"
    assert text_after(Quality(), text) == text


def test_lines_on_policies_are_dropped() -> None:
    text = ENGLISH + "We use cookies to improve this site.\n" + "Enable JavaScript to see it.\n"
    assert text_after(Quality(), text) == ENGLISH
    assert reasons(Quality(), text) == {"policy line": 2}
    assert text_after(Quality(policy_lines=False), text) == text
    assert text_after(Quality(), CHINESE + "请阅读隐私政策\n") == CHINESE


@pytest.mark.parametrize("wrong", [{"spaced": {"least_words": 3}}, {"chinese": {"hashes": -1}}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Quality.model_validate(wrong)
