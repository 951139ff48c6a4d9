"""What the words before a number say it is."""

import re
from typing import Literal

_REACH = 24
"""Characters before a number that are looked at."""
_OTHER = re.compile(
    r"\border|invoice|tracking|serial|isbn|issn|\bdoi|\bsku|uuid|hash|commit|version|build|ticket"
    r"|case|\bref|reference|\bpart|model|barcode|batch|\bid|timestamp|\blot|population|\blat|\blon"
    r"|订单|单号|编号|流水|快递|运单|序列号|批号|版本|型号|条码|合同|发票|学号|工号|统一社会信用代码"
    r"|注册号|许可证|时间戳|票号|货号|档案号|文号|坐标|人口",
    re.IGNORECASE,
)
"""Words for numbers that are no personal data."""
_BETWEEN = re.compile(
    r"[\s:：=#.\"'(（]*(?:(?:nos?|num|numbers?|ids?|code|is|was)\b[\s:：=#.\"'(（]*|[号码为是：])*\Z",
    re.IGNORECASE,
)
"""What may stand between such a word and its number."""


def label_before(text: str, start: int, label: re.Pattern[str]) -> Literal["wanted", "other", ""]:
    """What the last label shortly before a place is, in the same line.

    `label`: matches the labels that are wanted. `other` are labels of numbers that are no personal
    data, such as order numbers; they must stand directly before the number.
    """
    before = text[max(start - _REACH, 0) : start]
    before = before[before.rfind("\n") + 1 :]
    wanted = max((hit.end() for hit in label.finditer(before)), default=0)
    ends = (hit.end() for hit in _OTHER.finditer(before))
    other = max((end for end in ends if _BETWEEN.match(before, end)), default=0)
    if not wanted and not other:
        return ""
    return "wanted" if wanted >= other else "other"
