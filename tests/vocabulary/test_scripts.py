import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regrow.vocabulary.scripts import SCRIPTS, scripts_of


def name(text: str) -> str:
    return SCRIPTS[int(scripts_of([text])[0])]


def test_the_script_of_a_text() -> None:
    for text, script in {
        "": "none",
        "12 + 30 = 42 🙂 →": "none",
        "plain English": "Latin",
        "Größe, ça va, ﬁn": "Latin",
        "e\u0301te\u0301": "Latin",
        "кошка и dog": "Cyrillic",
        "Ελλάδα": "Greek",
        "模型剪枝 (pruning)": "Latin",
        "中文文本、几个 LLM": "Han",
        "日本語のテキストです": "Kana",
        "東京都庁舎の": "Han",  # one letter in six is too few to tell
        "コーヒー": "Kana",
        "한국어 텍스트": "Hangul",
        "नमस्ते": "Devanagari",
        "שלום": "Hebrew",
        "العربية": "Arabic",
        "ไทย": "Thai",
        "\uff21\uff22": "Latin",
        "𐎠𐎡": "other",
        "\ud800x": "Latin",
    }.items():
        assert name(text) == script, text


@given(st.lists(st.text(max_size=8)))
def test_a_text_is_judged_alone(texts: list[str]) -> None:
    found = scripts_of(texts)
    assert found.shape == (len(texts),)
    np.testing.assert_array_equal(found, [scripts_of([text])[0] for text in texts])
