"""Languages are told from prose; code has none."""

import pytest

from regrow.cleaning.document import Document
from regrow.cleaning.steps.language import Language
from tests.cleaning.steps.documents import document, reasons, text_after

TEXTS = {
    "en": "The quick brown fox jumps over the lazy dog, and then it runs away from the farm.",
    "zh": "敏捷的棕色狐狸跳过了懒狗，然后从农场里跑开了，谁也没有看见它。",
    "fr": "Le renard brun et rapide saute par-dessus le chien paresseux, puis il quitte la ferme.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund und läuft dann vom Hof weg.",
    "ja": "素早い茶色の狐がのろまな犬を飛び越えて、それから農場から逃げていきました。",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку, а потом убегает с фермы.",
}
TRADITIONAL = "這是一個繁體中文的句子，我們在這裡測試語言檢測，頭髮很長。"
CODE = "def double(x):\n    return 2 * x\n\n\nfor n in range(3):\n    print(double(n))\n"


def _facts(step: Language, text: str) -> dict[str, str | float]:
    made = step.apply(document(text)).document
    assert made is not None
    return {key: value for key, value in made.facts.items() if key != "language_score"}


@pytest.mark.parametrize("language", TEXTS)
def test_each_language_is_told(language: str) -> None:
    assert _facts(Language(keep=()), TEXTS[language])["language"] == language


def test_only_wanted_languages_are_kept() -> None:
    kept = [code for code, text in TEXTS.items() if text_after(Language(), text) is not None]
    assert kept == ["en", "zh"]
    assert reasons(Language(), TEXTS["fr"]) == {"language fr": 1}
    assert text_after(Language(keep=("fr",)), TEXTS["fr"]) == TEXTS["fr"]


def test_scripts() -> None:
    assert _facts(Language(), TEXTS["zh"]) == {"language": "zh", "script": "simplified"}
    assert _facts(Language(), TRADITIONAL) == {"language": "zh", "script": "traditional"}
    assert _facts(Language(), TEXTS["zh"] + TRADITIONAL)["script"] == "mixed"
    assert _facts(Language(), "天上有三十一人。")["script"] == "unknown"


def test_conversion() -> None:
    simplified = text_after(Language(convert="simplified"), TRADITIONAL)
    assert simplified == "这是一个繁体中文的句子，我们在这里测试语言检测，头发很长。"
    assert text_after(Language(convert="traditional"), "头发和发展") == "頭髮和發展"
    step = Language(convert="simplified")
    assert reasons(step, TRADITIONAL) == {"converted to simplified Chinese": 1}
    assert text_after(step, simplified) == simplified
    assert text_after(step, TEXTS["en"]) == TEXTS["en"]
    assert text_after(step, f"\ud800{TRADITIONAL}\0頭髮") == f"\ud800{simplified}\0头发"


def test_mixed_documents_are_named() -> None:
    text = f"{TEXTS['en'] * 3}\n\n{TEXTS['zh']}\n\n{TEXTS['de']}\n"
    facts = _facts(Language(), text)
    assert facts["languages"] == "en zh de"
    assert text_after(Language(), text) == text


def test_foreign_paragraphs_are_dropped_by_choice() -> None:
    text = f"{TEXTS['zh']}\n\n{TEXTS['de']}\n\n{TEXTS['zh']}{TEXTS['zh']}\n\nMenu\n"
    step = Language(keep=("zh",), paragraphs="drop")
    assert text_after(step, text) == f"{TEXTS['zh']}\n\n{TEXTS['zh']}{TEXTS['zh']}\n\nMenu\n"
    assert reasons(step, text) == {"paragraph in de": 1}
    assert "languages" not in _facts(step, text)


def test_code_is_no_language() -> None:
    assert _facts(Language(keep=("zh",)), CODE) == {"language": "code"}
    assert reasons(Language(code="drop"), CODE) == {"code": 1}
    text = f"{TEXTS['zh'] * 3}\n\n{CODE}"
    assert _facts(Language(keep=("zh",), paragraphs="drop"), text)["language"] == "zh"
    assert text_after(Language(keep=("zh",), paragraphs="drop"), text) == text


def test_what_is_not_sure_is_dropped() -> None:
    assert reasons(Language(), "xk zz ooo www pp") == {"language not sure": 1}
    assert reasons(Language(), "1234 5678 ---") == {"no words": 1}
    assert _facts(Language(keep=()), "1234 5678 ---") == {"language": "none"}
    assert (
        _facts(Language(), "上海指数１２３９·９０３·８４２８\n收盘 1 2 3 4 5 6 7 8")["language"]
        == "zh"
    )


def test_other_facts_stay() -> None:
    before = Document(TEXTS["en"], "id", "source", {"score": 2.0})
    made = Language().apply(before).document
    assert made is not None
    assert made.facts["score"] == 2.0
    assert made.facts["language"] == "en"
    assert 0.5 < float(made.facts["language_score"]) <= 1
