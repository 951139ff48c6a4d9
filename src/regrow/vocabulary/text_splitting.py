r"""Where a text may be split so that its parts are encoded as they are in the whole.

A text is split before a space that stands alone between two characters that are not white space.
Most of the parts are words, which come again and again, so that each is encoded once and counted.

Tokens are the same where no step of the tokenizer sees across the split:

- *Added tokens* are found in the raw text first. Only one with a space behind another character, or
  one that takes the space behind it (``rstrip``), reaches over a split: a text with such a token
  stays whole.
- *Normalisers* that are known here map characters, or those and their marks, one by one; the space
  stays, or becomes ``▁``. Where there is one, a text is split between plain characters only, which
  no normaliser turns into white space.
- *Pre-tokenisers*: those that split at white space do so here. A regular expression does if ``\s+``
  is one of its alternatives and no alternative matches a space behind something else. Then no match
  reaches over the split, and at the space one begins. What it finds before the split does not
  depend on what is after it: it may look ahead only for whether white space follows, as it does at
  the end of a text, or for what is no space. Steps before that one must not reach over the split,
  steps after it see the same parts in both cases.
- *Without such a step*, BPE does not merge over the split if no token has a space behind another
  character. Unigram may weigh two ways of equal score in another order, and is not split for.

What is not known here, or could differ, is not split at all; then there is no :class:`Splitter`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Json = dict[str, Any]

_SPACE = "▁"
_PLAIN = "!-~À-ɏЀ-ӿ가-힣"
"""Characters between which a text is split where there is a normaliser, as ranges."""
_LOCAL = frozenset(
    ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "Precompiled", "Strip",
     "BertNormalizer"]
)  # fmt: skip
_AT_WHITE_SPACE = frozenset(["BertPreTokenizer", "Whitespace", "WhitespaceSplit"])
_WITHIN_WORDS = frozenset(["Digits", "Punctuation"])
_MANY_SPACES = " {2,}"
_AT_THE_ENDS = r"\A | \z"


@dataclass(frozen=True)
class Splitter:
    """How texts are split.

    Attributes:
        places: where: at each match, a space.
        anywhere: whether those are all lone spaces.
        prefix: what each part but the first is encoded with in front of it, instead of that space.
        whole: a text that this is found in is not split.
    """

    places: re.Pattern[str]
    anywhere: bool
    prefix: str
    whole: re.Pattern[str] | None

    def split(self, text: str) -> list[str]:
        """The parts of a text, without the spaces between them."""
        if self.whole is not None and self.whole.search(text):
            return [text]
        if self.anywhere and _SPACE not in text:
            words = text.split()
            if " ".join(words) == text:  # no other white space: the same, three times as fast
                return words or [text]
        return self.places.split(text)


def make_splitter(tokenizer_json: Json, tokenizer: "Tokenizer") -> Splitter | None:
    """How texts may be split for this tokenizer, or None where it is not known that they may be."""
    normalizers = list(_steps(tokenizer_json.get("normalizer"), "normalizers"))
    prepended = False
    replaced = False
    for step in normalizers:
        kind = step["type"]
        if kind == "Prepend" and step["prepend"] == _SPACE and not replaced:
            prepended = True
        elif kind == "Replace" and step["pattern"] == {"String": " "}:
            if step["content"] != _SPACE:
                return None
            replaced = True
        elif kind == "Replace":
            if step["pattern"].get("Regex") not in (_MANY_SPACES, _AT_THE_ENDS):
                return None
        elif kind not in _LOCAL:
            return None
    if prepended and not replaced:
        return None
    splits, replaced = _splits_at_spaces(tokenizer_json, replaced)
    if splits is None or not (splits or _is_merged_within_words(tokenizer_json["model"])):
        return None
    if normalizers and not _stays_without_spaces(tokenizer):
        return None
    reaching = _reaching(tokenizer_json.get("added_tokens") or [], every=prepended)
    if any(token.get("normalized") for token in reaching) and any(
        step["type"] in _LOCAL for step in normalizers
    ):
        return None  # such a token is found in what the normaliser makes, and so in other text
    # A `▁` of the text is a space to a tokenizer that writes one so.
    plain = f"[{_PLAIN}]" if normalizers else rf"[^\s{_SPACE}]"
    return Splitter(
        re.compile(f"(?<={plain}) (?={plain})"),
        not normalizers,
        "" if prepended else " ",
        _any_of([token["content"] for token in reaching]),
    )


def _steps(step: Json | None, key: str) -> Iterator[Json]:
    if step is None:
        return
    if step["type"] == "Sequence":
        for part in step[key]:
            yield from _steps(part, key)
    else:
        yield step


def _splits_at_spaces(tokenizer_json: Json, replaced: bool) -> tuple[bool | None, bool]:
    """Whether the pre-tokeniser splits at every lone space, None if that is not known.

    ``replaced``: whether a space is ``▁`` by now; it is returned too.
    """
    stripped = any(
        step["type"] == "Strip" or step.get("pattern") == {"Regex": _AT_THE_ENDS}
        for step in _steps(tokenizer_json.get("normalizer"), "normalizers")
    )
    for step in _steps(tokenizer_json.get("pre_tokenizer"), "pretokenizers"):
        match step["type"]:
            case "Metaspace":
                scheme = step.get("prepend_scheme", "always")
                if step["replacement"] != _SPACE or replaced or (stripped and scheme != "always"):
                    return None, replaced
                replaced = True
                if step.get("split", True):
                    return True, replaced
            case kind if kind in _AT_WHITE_SPACE and not replaced:
                later = list(_steps(tokenizer_json["pre_tokenizer"], "pretokenizers"))
                first = any(s.get("prepend_scheme") == "first" for s in later)
                return (None if first else True), replaced
            case "ByteLevel" if not (replaced or stripped):
                if step.get("use_regex", True):
                    return True, replaced
            case "Split" if replaced and step["pattern"] == {"String": " "}:
                pass  # there is none left
            case "Split" if not (replaced or stripped) and "Regex" in step["pattern"]:
                pattern = _Pattern(step["pattern"]["Regex"])
                plain = step["behavior"] == "Isolated" and not step.get("invert")
                if not plain or not pattern.is_known:
                    return None, replaced
                if pattern.splits:
                    return True, replaced
            case kind if kind in _WITHIN_WORDS:
                pass
            case _:
                return None, replaced
    return (None if stripped else False), replaced


def _is_merged_within_words(model: Json) -> bool:
    """Whether BPE never merges over a lone space, which is ``▁`` by now."""
    if "merges" not in model or model.get("dropout") or model.get("ignore_merges"):
        return False
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return False
    vocab: dict[str, int] = model["vocab"]
    return _SPACE in vocab and not any(re.search("[^ ▁][ ▁]", token) for token in vocab)


def _stays_without_spaces(tokenizer: "Tokenizer") -> bool:
    """Whether no plain character becomes white space in the normaliser."""
    plain = re.compile(f"[{_PLAIN}]")
    text = "".join(c for c in map(chr, range(0x10000)) if plain.match(c))
    normal: str = tokenizer.normalizer.normalize_str(text)
    return not re.search(r"[\s▁]", normal.removeprefix(_SPACE))


def _reaching(added: list[Json], *, every: bool) -> list[Json]:
    """Added tokens that a text with them is not split for."""
    return [
        token
        for token in added
        if every or token.get("rstrip") or re.search(r"\S ", token["content"])
    ]


def _any_of(contents: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, contents))) if contents else None


# Regular expressions


@dataclass(frozen=True)
class _Element:
    """A part of a regular expression and what it can match."""

    space: bool
    other: bool


class _Pattern:
    r"""What has to be known of a regular expression of pre-tokenisers.

    ``is_known``: it is made of characters, classes, groups and repetitions, and no alternative
    matches a space behind something else. ``splits``: also, ``\s+`` is one of the alternatives.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self.splits = False
        try:
            self._alternatives(top=True)
            self.is_known = self._at == len(source)
        except _UnknownError:
            self.is_known = False

    def _alternatives(self, *, top: bool = False) -> _Element:
        """Up to the end or a closing bracket: what can be matched by any of the alternatives."""
        found = _Element(space=False, other=False)
        while True:
            begin = self._at
            one = self._sequence()
            if top and self._source[begin : self._at] == r"\s+":
                self.splits = True
            found = _Element(found.space or one.space, found.other or one.other)
            if self._next() != "|":
                return found
            self._at += 1

    def _sequence(self) -> _Element:
        space = other = False
        while (character := self._next()) not in ("", "|", ")"):
            element = self._element(character)
            quantifier = self._quantifier()
            repeated = quantifier[:1] not in ("", "?")
            if element.space and (other or (repeated and element.other)):
                raise _UnknownError
            space, other = space or element.space, other or element.other
        return _Element(space, other)

    def _next(self) -> str:
        return self._source[self._at : self._at + 1]

    def _take(self, pattern: str) -> str:
        hit = re.compile(pattern).match(self._source, self._at)
        if hit is None:
            return ""
        self._at = hit.end()
        return hit[0]

    def _quantifier(self) -> str:
        return self._take(r"[?*+][+?]?|\{[0-9]+(?:,[0-9]*)?\}[+?]?")

    def _element(self, character: str) -> _Element:
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        if character in ".^$*+?{":
            raise _UnknownError
        self._at += 1
        return _Element(character == " ", character != " ")

    def _group(self) -> _Element:
        if self._take(r"\(\?!\\S\)"):  # at the end of a text it holds too
            return _Element(space=False, other=False)
        ahead = self._take(r"\(\?[=!]")
        if not ahead and not self._take(r"\((?:\?i?:)?(?!\?)"):
            raise _UnknownError
        inside = self._alternatives()
        if not self._take(r"\)") or (ahead and inside.space):
            raise _UnknownError
        return _Element(space=False, other=False) if ahead else inside

    def _escape(self) -> _Element:
        if self._take(r"\\[rnt]"):
            return _Element(space=False, other=False)  # white space, which is not a lone space
        if self._take(r"\\s"):
            return _Element(space=True, other=False)
        if self._take(r"\\p\{(?:L|Lu|Ll|Lt|Lm|Lo|M|Mn|N|Nd|P|S|Han)\}|\\[Sd]|\\[^A-Za-z0-9 ]"):
            return _Element(space=False, other=True)
        raise _UnknownError

    def _class(self) -> _Element:
        self._take(r"\[")
        negated = bool(self._take(r"\^"))
        space = other = False
        while not self._take(r"\]"):
            if self._next() in ("", "[") or self._source.startswith("&&", self._at):
                raise _UnknownError  # unfinished, or made of other classes
            if self._next() == "\\":
                element = self._escape()
                if self._take(r"-(?!\])"):
                    raise _UnknownError
            else:
                low = high = self._next()
                self._at += 1
                if self._take(r"-(?!\])"):
                    high = self._next()
                    self._at += 1
                    if high == "\\":
                        raise _UnknownError
                element = _Element(low <= " " <= high, not low == high == " ")
            space, other = space or element.space, other or element.other
        return _Element(not space, other=True) if negated else _Element(space, other)


class _UnknownError(Exception):
    """Something that is not known here."""
