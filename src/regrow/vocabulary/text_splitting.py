r"""Split a text into words that can be encoded one by one, with the same tokens.

A text is split before a space that stands alone between two characters that are not white space.
Most parts are words that occur often, so each of them has to be encoded only once.

The tokens are the same if no step of the tokenizer looks across the split:

- *Added tokens* are found in the raw text first. One reaches over a split only if it has a space
  after another character, or takes the space after it (``rstrip``). A text with such a token is not
  split.
- *Normalizers* that are known here map characters, with their marks, one by one. The space stays
  or becomes ``▁``. With a normalizer, a text is split only between plain characters, which no
  normalizer turns into white space.
- *Pre-tokenizers* of some types split at white space. A regular expression does so too if ``\s+``
  is one of its alternatives and no alternative matches a space after something else. Then no match
  reaches over the split, and a match begins at the space. Matches before the split do not depend on
  the text after it: the expression may look ahead only for white space (the end of a text counts as
  such) or for something that is not a space. Earlier steps must not reach over the split. Later
  steps get the same parts in both cases.
- *Without such a step*, BPE does not merge over the split if no token has a space after another
  character. Text for Unigram is not split: of two paths of equal score it could take the other.

For other tokenizers there is no :class:`Splitter`, and text is encoded whole.
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
"""Characters between which a text is split if there is a normalizer, as ranges."""
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
        places: Matches each space to split at.
        anywhere: Whether these are all single spaces.
        prefix: Is put before each part but the first, in place of the space, to encode it.
        whole: A text with a match of this is not split.
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
            if (
                " ".join(words) == text
            ):  # no other white space: the same result, three times as fast
                return words or [text]
        return self.places.split(text)


def make_splitter(tokenizer_json: Json, tokenizer: "Tokenizer") -> Splitter | None:
    """The splitter for a tokenizer, or None if its text cannot be split safely."""
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
        return None  # such a token is searched in normalized text, so it can come from other text
    # For a tokenizer that writes a space as `▁`, a `▁` in the text is a space.
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
    """Whether the pre-tokenizer splits at every single space; None if that is not known.

    ``replaced``: whether earlier steps replaced spaces by ``▁``. The second result says the same of
    the time after these steps.
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
                pass  # no space is left
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
    """Whether BPE never merges over a single space, which is ``▁`` at this point."""
    if "merges" not in model or model.get("dropout") or model.get("ignore_merges"):
        return False
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return False
    vocab: dict[str, int] = model["vocab"]
    return _SPACE in vocab and not any(re.search("[^ ▁][ ▁]", token) for token in vocab)


def _stays_without_spaces(tokenizer: "Tokenizer") -> bool:
    """Whether the normalizer turns no plain character into white space."""
    plain = re.compile(f"[{_PLAIN}]")
    text = "".join(c for c in map(chr, range(0x10000)) if plain.match(c))
    normal: str = tokenizer.normalizer.normalize_str(text)
    return not re.search(r"[\s▁]", normal.removeprefix(_SPACE))


def _reaching(added: list[Json], *, every: bool) -> list[Json]:
    """The added tokens that reach over a split."""
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
    """What a part of a regular expression can match: a space, something else."""

    space: bool
    other: bool


class _Pattern:
    r"""A regular expression of a pre-tokenizer.

    ``is_known``: it has only characters, classes, groups and repetitions, and no alternative
    matches a space after something else. ``splits``: ``\s+`` is one of its alternatives.
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
        """Parse alternatives up to the end or a closing bracket; what they can match together."""
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
        if self._take(r"\(\?!\\S\)"):  # also true at the end of a text
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
            return _Element(space=False, other=False)  # white space other than a space
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
                raise _UnknownError  # unfinished, or a set operation of classes
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
    """A part of a regular expression that is not known here."""
