"""E-mail addresses, links and IP addresses."""

import ipaddress
import re
from collections.abc import Iterator

from regrow.cleaning.personal.context import label_before
from regrow.cleaning.scripts import HAN, KANA

Span = tuple[int, int]
"""Where something begins and ends in a text."""

_LOCAL = r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9_][A-Za-z0-9._%+\-]{0,63}"
_EMAIL = re.compile(
    _LOCAL + r"[@＠]((?:[A-Za-z0-9\-]{1,63}\.){1,8}([A-Za-z]{2,24}))(?![A-Za-z0-9_])(?!:[\w/~])"
)
_HIDDEN_EMAIL = re.compile(
    _LOCAL + r"[ ]?[\[(（{][ ]?(?:at|AT|@|#)[ ]?[\])）}][ ]?"
    r"(?:[A-Za-z0-9\-]{1,63}[ ]?(?:\.|[\[(（{][ ]?(?:dot|DOT|点)[ ]?[\])）}])[ ]?){1,4}"
    r"[A-Za-z]{2,24}(?![A-Za-z0-9_])"
)
_FILE_ENDS = "png jpg jpeg gif svg webp bmp ico css js ts py md txt json html xml pdf"
_FILES = frozenset(_FILE_ENDS.split())
"""Ends of file names, as in logo@2x.png."""

_NOT_LINK = rf"\s<>\"'`|{{}}\\^（），。；：！？、“”‘’《》「」『』【】…{HAN}{KANA}\ue000-\uf8ff"
_DOMAINS = "com|org|net|edu|gov|cn|io|info|me|ly|uk|de|jp|fr|ru|tv|cc|top|xyz|hk|tw|us|eu|app|dev"
_LINK = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?:https?|ftps?|sftp|rtsp|wss?)://[^{_NOT_LINK}]+"
    rf"|(?:magnet:\?|ed2k://|thunder://)[^\s<>\"']+"
    rf"|www\.[A-Za-z0-9\-]{{1,63}}\.[^{_NOT_LINK}]+"
    rf"|(?<![.@/\-_])(?:[A-Za-z0-9\-]{{1,63}}\.){{1,4}}(?:{_DOMAINS})/[^{_NOT_LINK}]*)",
    re.IGNORECASE,
)
_LINK_ENDS = ".,;:!?*_~)]"
_BRACKETS = {")": "(", "]": "["}

_V4 = re.compile(
    r"(?<![A-Za-z0-9_.\-/~^<>@])(?<![=~<>!]=)(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}"
    r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?![A-Za-z0-9_\-]|\.[\w*])"
    r"|(?<=@)(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z0-9_\-]|\.\w)"
)
_PORT = re.compile(r":\d{2,5}(?![\d.:])")
_VERSION = re.compile(
    r"(?:\bv(?:er(?:sion)?)?|release|build|版本号?|section|chapter|clause|§|第|update|upgrade"
    r"|firmware|driver|python|java|chrome|firefox|oid|requires)[\s:：.=是为]{0,3}\Z",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"\bip\b|ipv4|address|host|server|\bping\b|gateway|\bdns\b|地址|服务器|主机|网关|IP|listen|client"
    r"|from\b|user|login|登录|访问|连接",
    re.IGNORECASE,
)
_V6 = re.compile(
    r"(?<![A-Za-z0-9_:.])(?=[0-9A-Fa-f:]{0,30}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{6,39}(?![A-Za-z0-9_:])"
)
_FEWEST_GROUPS = 3


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses, also those written as name[at]example[dot]com."""
    if "@" in text or "＠" in text:
        for hit in _EMAIL.finditer(text):
            if hit[2].lower() not in _FILES and ".." not in hit[0]:
                yield hit.span()
    yield from (hit.span() for hit in _HIDDEN_EMAIL.finditer(text))


def links(text: str) -> Iterator[Span]:
    """Links with a scheme, with `www.`, or with a well-known top-level domain and a path."""
    for hit in _LINK.finditer(text):
        end = _end_of_link(hit[0])
        if end:
            yield hit.start(), hit.start() + end


def _end_of_link(link: str) -> int:
    """Where a link ends, without the signs of the sentence around it."""
    end = len(link)
    balance = {close: link.count(close) - link.count(open_) for close, open_ in _BRACKETS.items()}
    while end and link[end - 1] in _LINK_ENDS:
        sign = link[end - 1]
        if sign in balance:
            if balance[sign] <= 0:
                break
            balance[sign] -= 1
        end -= 1
    return end


def ip_addresses(text: str) -> Iterator[Span]:
    """IP addresses, without version numbers, masks, and addresses of every machine itself."""
    if text.count(".") >= 3:
        for hit in _V4.finditer(text):
            if _is_v4(text, hit):
                yield hit.span()
    if ":" in text:
        for hit in _V6.finditer(text):
            if _is_v6(hit[0]):
                yield hit.span()


def _is_v4(text: str, hit: re.Match[str]) -> bool:
    try:
        address = ipaddress.IPv4Address(hit[0])
    except ValueError:
        return False
    if address.is_loopback or address.is_multicast or int(address) >> 24 in (0, 255):
        return False
    if _VERSION.search(text, max(hit.start() - 16, 0), hit.start()):
        return False
    small = all(int(part) < 20 for part in hit[0].split("."))  # as in the numbers of versions
    is_sure = hit[0].startswith("10.") or _PORT.match(text, hit.end())
    return not small or bool(is_sure) or label_before(text, hit.start(), _ADDRESS) == "wanted"


def _is_v6(text: str) -> bool:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    groups = [group for group in text.split(":") if group]
    enough = len(groups) >= _FEWEST_GROUPS or any(len(group) > 2 for group in groups)
    has_digit = any(map(str.isdigit, text))
    nobody = address.is_loopback or address.is_unspecified or address.is_multicast
    return enough and has_digit and not nobody
