"""Telephone numbers, checked against the numbering plans that the package phonenumbers knows."""

import re
from collections.abc import Iterator, Sequence

from regrow.cleaning.personal.addresses import Span
from regrow.cleaning.personal.context import label_before

_LABEL = re.compile(
    r"\btel\b|telephone|phone|mobile|\bcell\b|\bcall\b|\bfax\b|whatsapp|\bsms\b|contact|hotline|dial"
    r"|电话|手机|联系|致电|热线|传真|座机|拨打|来电|短信|客服|微信|電話|手機|聯繫|傳真",
    re.IGNORECASE,
)
_NOT_BEFORE = r"(?<![A-Za-z0-9_.\-¥$€£#])"
_UNITS = "元|万|亿|人|美元|次|米|吨|公里|个|%|kg|km|mm|GB|bytes"
_NOT_AFTER = rf"(?![A-Za-z0-9_]|[\-.][A-Za-z0-9]|[ ]?(?:{_UNITS}|[*×]))"

_INTERNATIONAL = re.compile(
    r"(?<![A-Za-z0-9_+.])\(?(?:\+|＋|00(?=[1-9]))[ ]?\(?\d(?:[ ().\-–/]{0,2}\d){6,16}(?!\d)"
)
_MOBILE = re.compile(
    rf"{_NOT_BEFORE}(?:(?:\(86\)|86)[ \-]?)?1[3-9]\d(?:\d{{8}}|([ \-])\d{{4}}\1\d{{4}}){_NOT_AFTER}"
)
_EXTENSION = r"(?:[ ]?(?:-|转|轉|ext\.?|x)[ ]?\d{1,5})?"
_LANDLINE = re.compile(
    rf"{_NOT_BEFORE}(?:[(（]0\d{{2,3}}[)）][ \-]?|0\d{{2,3}}[\- ]?|86[\- ]?0?\d{{2,3}}[\- ])"
    rf"[2-8]\d{{2,3}}[ \-]?\d{{4}}(?!\d){_EXTENSION}{_NOT_AFTER}"
)
_FREE = re.compile(rf"{_NOT_BEFORE}[48]00([ \-]?)\d{{3}}\1\d{{4}}{_NOT_AFTER}")
_LOCAL = re.compile(
    r"(?:电话|座机|传真|热线|電話|傳真|(?i:tel|phone|fax)\.?)(?:号码|号)?[ ]{0,2}[:：是为]?[ ]{0,2}"
    r"([2-8]\d{2,3}[ \-]?\d{4})(?!\d|[ \-]?[A-Za-z0-9]|年)"
)
_AMERICAN = re.compile(
    rf"{_NOT_BEFORE}(?:1[ .\-])?(?:\([2-9]\d{{2}}\)[ ]?|[2-9]\d{{2}}([.\- ]))"
    rf"[2-9]\d{{2}}[.\- ]\d{{4}}(?:[ ]?(?:x|ext\.?)[ ]?\d{{1,5}})?{_NOT_AFTER}"
)
_BARE = re.compile(rf"{_NOT_BEFORE}[2-9]\d{{9}}{_NOT_AFTER}")
_ANY = re.compile(r"(?<![A-Za-z0-9_.+])\(?\d(?:[ .\-/()]{0,2}\d){6,14}(?![A-Za-z0-9_]|\.\d)")
_DIGITS = re.compile(r"\d(?:\D{0,3}\d){6}")
"""A text without this has no number; looking for it is fast."""
_FEWEST_DIGITS = 8
"""Of an international number, with the code of the country."""
_AMERICA = frozenset(["US", "CA"])
_OWN = _AMERICA | {"CN"}


def phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Telephone numbers: international ones, and those written as in some regions.

    `regions`: codes of ISO 3166 such as `CN`. Spans may overlap.
    """
    if not _DIGITS.search(text):
        return
    yield from _international(text)
    if "CN" in regions:
        yield from _chinese(text)
    if not _AMERICA.isdisjoint(regions):
        yield from _american(text)
    others = [region for region in regions if region not in _OWN]
    if others:
        yield from _in_regions(text, others)


def _international(text: str) -> Iterator[Span]:
    import phonenumbers

    for hit in _INTERNATIONAL.finditer(text):
        start, found = hit.start(), hit[0]
        if found.startswith("(") and ")" not in found:
            start, found = start + 1, found[1:]
        while sum(map(str.isdigit, found)) >= _FEWEST_DIGITS:
            try:
                number = phonenumbers.parse("+" + found.lstrip("+＋0( "), None)
            except phonenumbers.NumberParseException:
                break
            if phonenumbers.is_valid_number(number) or (
                phonenumbers.is_possible_number(number)
                and "+" in found
                and (_is_grouped(found) or label_before(text, start, _LABEL) == "wanted")
            ):
                yield start, start + len(found)
                break
            shorter = found.rstrip("0123456789").rstrip(" ().-–/")
            if shorter == found:
                break
            found = shorter


def _is_grouped(number: str) -> bool:
    return len(re.findall(r"[ ().\-–]+", number)) >= 2


def _chinese(text: str) -> Iterator[Span]:
    for hit in _MOBILE.finditer(text):
        digits = re.sub(r"\D", "", hit[0])[-11:]
        if label_before(text, hit.start(), _LABEL) != "other" and _is_valid(digits, "CN"):
            yield hit.span()
    for hit in _LANDLINE.finditer(text):
        bare = hit[0].isdigit()
        label = label_before(text, hit.start(), _LABEL)
        number = re.split(r"转|轉|ext|x", hit[0])[0]
        if label != "wanted" and (bare or label == "other"):
            continue
        number = re.sub(r"^86[\- ]?", "+86 ", number)
        if _is_valid(number, "CN") or _is_valid(number.rpartition("-")[0], "CN"):
            yield hit.span()
    for hit in _FREE.finditer(text):
        label = label_before(text, hit.start(), _LABEL)
        if label == "wanted" or (hit[1] and label != "other"):
            yield hit.span()
    yield from (hit.span(1) for hit in _LOCAL.finditer(text))


def _american(text: str) -> Iterator[Span]:
    for hit in _AMERICAN.finditer(text):
        number = re.split(r"x|ext", hit[0])[0]
        if label_before(text, hit.start(), _LABEL) != "other" and _is_valid(number, "US"):
            yield hit.span()
    for hit in _BARE.finditer(text):
        if label_before(text, hit.start(), _LABEL) == "wanted" and _is_valid(hit[0], "US"):
            yield hit.span()


def _in_regions(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Numbers that are grouped as the region does, or stand after a word for them."""
    import phonenumbers

    for hit in _ANY.finditer(text):
        label = label_before(text, hit.start(), _LABEL)
        if label == "other" or (hit[0].isdigit() and not label):
            continue
        for region in regions:
            leniency = phonenumbers.Leniency.STRICT_GROUPING
            matches = phonenumbers.PhoneNumberMatcher(hit[0], region, leniency)
            found = next(iter(matches), None)
            if found is not None:
                yield hit.start() + found.start, hit.start() + found.end
                break


def _is_valid(number: str, region: str) -> bool:
    """Whether a number fits the numbering plan of a region."""
    import phonenumbers

    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(number, region)))
    except phonenumbers.NumberParseException:
        return False


def supported_regions() -> frozenset[str]:
    """The codes of all regions whose numbering plan is known."""
    import phonenumbers

    return frozenset(phonenumbers.SUPPORTED_REGIONS)
