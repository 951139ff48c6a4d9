"""QQ numbers and WeChat ids, after words for them."""

import re
from collections.abc import Iterator

from regrow.cleaning.personal.addresses import Span

_QQ = re.compile(
    r"(?<![A-Za-z])(?:(?i:QQ)|加[qQ]|扣扣|企鹅号)[ ]{0,2}(?:号码|群号|交流群|群|号|ID)?[ ]{0,2}"
    r"(?:[/、和及或][ ]?(?:微信|手机|电话|(?i:wechat|vx))号?)?[ ]{0,2}"
    r"(?:[:：＝=(（]|是|为|(?i:is))?[ ]{0,2}([1-9]\d{4,10})"
    r"(?![\d@A-Za-z%年月日万亿个元人款次点]|\.\d)"
)
_WECHAT = re.compile(
    r"(?<![A-Za-z_])(?:微信号码|微信号|微信|薇信|威信|[vV]信|(?i:wechat|weixin)|(?i:vx|wx)|加[vV]|加微)"
    r"[ ]{0,2}(?:(?i:ID|account)|账号|号)?[ ]{0,2}(?:[/、和及或][ ]?(?:QQ|手机|电话)号?)?[ ]{0,2}"
    r"([:：＝=(（]|是|为|(?i:is))?[ ]{0,2}(?!https?:)([A-Za-z][A-Za-z0-9_\-]{5,19})"
    r"(?![A-Za-z0-9_\-@]|\.[A-Za-z])"
)
_STRONG = frozenset(":：＝=")
_WORDLIKE = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*\Z")


def qq_numbers(text: str) -> Iterator[Span]:
    """Numbers of 5 to 11 digits after a word for QQ."""
    yield from (hit.span(1) for hit in _QQ.finditer(text))


def wechat_ids(text: str) -> Iterator[Span]:
    """WeChat ids after a word for WeChat.

    An id needs a digit or an underscore, or it could be any word, except after a Chinese word for
    WeChat with a colon.
    """
    for hit in _WECHAT.finditer(text):
        sure = hit[1] is not None and hit[1] in _STRONG and not hit[0][0].isascii()
        if sure or not _WORDLIKE.match(hit[2]):
            yield hit.span(2)
