"""Personal data is replaced or removed; what only looks like it stays."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from regrow.cleaning.personal.numbers import has_luhn_digit
from regrow.cleaning.steps.privacy import KINDS, PLACEHOLDERS, REASONS, Privacy
from regrow.common.errors import UserError
from tests.cleaning.steps.documents import document, reasons, text_after

TEXT = (
    "联系人张三，手机：13800138000，邮箱：zhang@example.com，QQ号：12345678，微信：zhang_san01。\n"
    "身份证号：110101190001010014，卡号6222020000000000000，护照E12345678。\n"
    "See https://example.com/a or 192.0.2.44. Call +1 202-555-0143.\n"
)
REPLACED = (
    "联系人张三，手机：[PHONE]，邮箱：[EMAIL]，QQ号：[QQ]，微信：[WECHAT]。\n"
    "身份证号：[RESIDENT ID]，卡号[BANK CARD]，护照[PASSPORT]。\n"
    "See [LINK] or [IP]. Call [PHONE].\n"
)


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    folder = str(Path(__file__).parents[3] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("privacy")
    sys.path.remove(folder)


def test_all_kinds() -> None:
    assert text_after(Privacy(), TEXT) == REPLACED
    assert reasons(Privacy(), TEXT) == {
        "phone number": 2, "e-mail address": 1, "QQ number": 1, "WeChat id": 1, "resident id": 1,
        "bank card": 1, "passport": 1, "link": 1, "IP address": 1,
    }  # fmt: skip
    assert set(PLACEHOLDERS) == set(REASONS) == set(KINDS)


def test_placeholders_are_stable() -> None:
    assert text_after(Privacy(), REPLACED) == REPLACED
    assert reasons(Privacy(), REPLACED) == {}


def test_only_chosen_kinds() -> None:
    text = text_after(Privacy(kinds=("email",)), TEXT)
    assert text == TEXT.replace("zhang@example.com", "[EMAIL]")
    assert text_after(Privacy(kinds=()), TEXT) == TEXT


def test_removal() -> None:
    step = Privacy(kinds=("link", "email"), remove=("link",))
    assert text_after(step, "See https://example.com/a, or a@example.com.") == "See , or [EMAIL]."
    assert text_after(step, " https://example.com/a ") is None
    assert list(reasons(step, " https://example.com/a ")) == ["link", "nothing left"]


def test_findings_show_no_personal_data() -> None:
    (finding,) = Privacy().apply(document("Write to jane.doe@example.com now")).findings
    assert finding.example == "ja**.***@*******.***"


def test_numbers_of_other_regions() -> None:
    text = "Ring 0161 496 0991, or 06 12 34 56 78."
    assert text_after(Privacy(), text) == text
    assert text_after(Privacy(regions=("GB",)), text) == "Ring [PHONE], or 06 12 34 56 78."
    assert text_after(Privacy(regions=("GB", "FR")), text) == "Ring [PHONE], or [PHONE]."
    assert text_after(Privacy(regions=()), "13800138000 +8613800138000") == "13800138000 [PHONE]"


@pytest.mark.parametrize(
    ("text", "is_phone"),
    [
        ("In order to reach us: 13800138000", True),
        ("Later, 13800138000", True),
        ("Order 5 by phone: 13800138000", True),
        ("Order: 13800138000", False),
        ("order no. 13800138000", False),
        ("订单号是13800138000", False),
        ("订单已发，请联系13800138000", True),
        ("订单号\n13800138000", True),
    ],
)
def test_words_before_a_number_say_what_it_is(text: str, is_phone: bool) -> None:
    replaced = text.replace("13800138000", "[PHONE]")
    assert text_after(Privacy(), text) == (replaced if is_phone else text)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UserError, match=r"privacy.regions XX: no such region"):
        Privacy(regions=("XX",))
    with pytest.raises(ValidationError, match="ip: not in kinds"):
        Privacy(kinds=("email",), remove=("ip",))
    with pytest.raises(ValidationError):
        Privacy.model_validate({"kinds": ["name"]})


@pytest.mark.parametrize(
    ("digits", "is_id"),
    [
        ("110101190001010014", True),
        ("110101190001010015", False),  # check digit
        ("170101190001010015", False),  # no such province
        ("110101190002300019", False),  # no such day
    ],
)
def test_resident_ids(digits: str, is_id: bool) -> None:
    step = Privacy(kinds=("resident_id",))
    assert text_after(step, f"号码{digits}。") == (f"号码{'[RESIDENT ID]' if is_id else digits}。")


def test_full_width_digits() -> None:
    wide = {ord(sign): ord(sign) + 0xFEE0 for sign in "0123456789X"}
    number = "11010519491231002X".translate(wide)
    step = Privacy(kinds=("resident_id", "qq", "phone"))
    assert text_after(step, f"\u53f7\u7801{number}\u3002") == "\u53f7\u7801[RESIDENT ID]\u3002"
    assert text_after(step, f"QQ\uff1a{'12345678'.translate(wide)}") == "QQ\uff1a[QQ]"
    assert text_after(step, f"\u624b\u673a{'13812345678'.translate(wide)}") == "\u624b\u673a[PHONE]"
    assert text_after(step, "\u53f7\u780111010519491231002\uff38") == "\u53f7\u7801[RESIDENT ID]"
    kept = f"page {'12'.translate(wide)}"
    assert text_after(step, kept) == kept
    step = Privacy(kinds=("link", "email"))
    one = "1".translate(wide)
    assert text_after(step, f"{one}https://example.com/a") == f"{one}[LINK]"
    assert text_after(step, f"{one}zhang@example.com") == f"{one}[EMAIL]"


@pytest.mark.parametrize("digits", ["79927398713", "4111111111111111", "378282246310005"])
def test_luhn(digits: str) -> None:
    assert has_luhn_digit(digits)
    others = [digits[:-1] + str(d) for d in range(10) if str(d) != digits[-1]]
    assert not any(map(has_luhn_digit, others))


class TestLabelledSet:
    """The set of `benchmarks/privacy.py`, with the bounds that were measured."""

    def test_the_set(self, bench: ModuleType) -> None:
        lines = bench.labelled()
        assert len(lines) > 400
        assert sum(not line.wanted for line in lines) > 180
        assert all(text in line.text for line in lines for _, text in line.wanted)
        kinds = {kind for line in lines for kind, _ in line.wanted}
        assert kinds == set(KINDS)

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_kind(self, bench: ModuleType, kind: str) -> None:
        score = bench.score(bench.labelled(), bench.found_by(Privacy()), [kind])
        assert score.precision >= bench.PRECISION[kind]
        assert score.recall >= bench.RECALL[kind]

    def test_placeholders_of_all_lines_are_stable(self, bench: ModuleType) -> None:
        for line in bench.labelled():
            once = text_after(Privacy(), line.text)
            assert once is not None
            assert text_after(Privacy(), once) == once

    def test_a_find_of_too_much_is_wrong_and_missed(self, bench: ModuleType) -> None:
        lines = [line for line in bench.labelled() if line.wanted]
        score = bench.score(lines, lambda text: [("email", f"{text}.")], ["email"])
        assert (score.right, score.precision, score.recall) == (0, 0.0, 0.0)
        assert score.wrong == len(lines)
