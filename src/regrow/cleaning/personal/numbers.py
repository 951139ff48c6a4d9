"""Chinese resident ids, bank cards and passports."""

import re
from collections.abc import Iterator
from datetime import date

from regrow.cleaning.personal.addresses import Span
from regrow.cleaning.personal.context import label_before

_LONG_ID = re.compile(
    r"(?<![A-Za-z0-9_.])[1-8]\d{5}[ ]?(?:18|19|20)\d{2}[01]\d[0-3]\d[ ]?\d{3}[\dXx\uff38\uff58]"
    r"(?![A-Za-z0-9_])"
)
_OLD_ID = re.compile(r"(?<![A-Za-z0-9_.])[1-8]\d{7}[01]\d[0-3]\d{4}(?![A-Za-z0-9_])")
_ID_LABEL = re.compile(
    r"身份证|身份號碼|居民证|证件号|公民身份|id (?:card|number|no)|identity|resident id",
    re.IGNORECASE,
)
_PROVINCES = frozenset(
    [*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55),
     *range(61, 66), 71, 81, 82, 83]
)  # fmt: skip
"""The first two digits of an id (GB/T 2260)."""
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = "10X98765432"
_FIRST_YEAR, _LAST_YEAR = 1880, 2100

_CARD = re.compile(
    r"(?<![A-Za-z0-9_.\-¥$€£])(?:\d{4}([ \-])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?"
    r"|\d{4}([ \-])\d{6}\2\d{5}|\d{6}([ \-])\d{13}|\d{14,19})(?![A-Za-z0-9_\-]|\.\d)"
)
_CARD_LABEL = re.compile(
    r"card|visa|master|amex|卡号|银行卡|信用卡|储蓄卡|借记卡|账号|账户|帐号|account", re.IGNORECASE
)
_BRANDS: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (400_000, 499_999, (16, 19)),  # Visa
    (510_000, 559_999, (16,)),  # Mastercard
    (222_100, 272_099, (16,)),  # Mastercard
    (340_000, 349_999, (15,)),  # American Express
    (370_000, 379_999, (15,)),  # American Express
    (352_800, 358_999, (16, 17, 18, 19)),  # JCB
    (601_100, 601_199, (16, 19)),  # Discover
    (644_000, 659_999, (16, 19)),  # Discover
    (620_000, 629_999, (16, 17, 18, 19)),  # UnionPay
    (955_880, 955_889, (19,)),  # older cards of a Chinese bank
    (300_000, 305_999, (14,)),  # Diners Club
    (360_000, 369_999, (14,)),  # Diners Club
)
"""First and last beginning of six digits, and numbers of digits."""

_PASSPORT = re.compile(
    r"(?:(?i:passports?)|护照|護照)[ ]{0,2}(?i:numbers?|no\.?|num\.?|#|号码|编号|號碼|号)?"
    r"[ ]{0,2}(?:[:：＝=#(（]|是|为|(?i:is))?[ ]{0,2}"
    r"([A-Z]{1,2}\d{7,8}|[A-Z]{2}\d{6,7}|\d{8,9}|[A-Z]\d{2}[A-Z0-9]{6})(?![A-Za-z0-9])"
)


def resident_ids(text: str) -> Iterator[Span]:
    """Chinese resident ids.

    18 digits with a province, a date and a check digit (GB 11643, ISO 7064 MOD 11-2), or after a
    word for them also with a wrong check digit. 15 digits, as until 1999, only after such a word.
    """
    for hit in _LONG_ID.finditer(text):
        digits = hit[0].replace(" ", "").upper().replace("\uff38", "X")
        if not _is_place_and_date(digits[:2], digits[6:14]):
            continue
        if _has_check_digit(digits) or label_before(text, hit.start(), _ID_LABEL) == "wanted":
            yield hit.span()
    for hit in _OLD_ID.finditer(text):
        good = _is_place_and_date(hit[0][:2], "19" + hit[0][6:12])
        if good and label_before(text, hit.start(), _ID_LABEL) == "wanted":
            yield hit.span()


def _is_place_and_date(province: str, day: str) -> bool:
    if int(province) not in _PROVINCES or not _FIRST_YEAR <= int(day[:4]) <= _LAST_YEAR:
        return False
    try:
        date(int(day[:4]), int(day[4:6]), int(day[6:]))
    except ValueError:
        return False
    return True


def _has_check_digit(digits: str) -> bool:
    total = sum(int(d) * w for d, w in zip(digits[:17], _WEIGHTS, strict=True))
    return _CHECKS[total % 11] == digits[17]


def bank_cards(text: str) -> Iterator[Span]:
    """Numbers of bank cards: the beginning and length of a brand, and the check digit of Luhn.

    Not after words for other numbers, such as order numbers.
    """
    for hit in _CARD.finditer(text):
        digits = re.sub(r"\D", "", hit[0])
        if _is_card(digits) and label_before(text, hit.start(), _CARD_LABEL) != "other":
            yield hit.span()


def _is_card(digits: str) -> bool:
    start = int(digits[:6])
    known = any(a <= start <= b and len(digits) in lengths for a, b, lengths in _BRANDS)
    return known and len(set(digits)) > 1 and has_luhn_digit(digits)


def has_luhn_digit(digits: str) -> bool:
    """Whether the last digit is the check digit of Luhn's formula (ISO/IEC 7812)."""
    doubled = [int(d) * 2 for d in digits[-2::-2]]
    return (sum(map(int, digits[::-2])) + sum(d // 10 + d % 10 for d in doubled)) % 10 == 0


def passports(text: str) -> Iterator[Span]:
    """Numbers of passports after a word for them."""
    yield from (hit.span(1) for hit in _PASSPORT.finditer(text))
