"""Replace or remove personal data."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from regrow.cleaning.document import Document, Outcome
from regrow.cleaning.personal.accounts import qq_numbers, wechat_ids
from regrow.cleaning.personal.addresses import Span, emails, ip_addresses, links
from regrow.cleaning.personal.numbers import bank_cards, passports, resident_ids
from regrow.cleaning.personal.phones import phones, supported_regions
from regrow.cleaning.steps.base import CleaningStep, Findings, changed
from regrow.common.errors import UserError

Kind = Literal[
    "link", "email", "ip", "resident_id", "bank_card", "passport", "phone", "qq", "wechat"
]
KINDS: tuple[Kind, ...] = (
    "link", "email", "ip", "resident_id", "bank_card", "passport", "phone", "qq", "wechat",
)  # fmt: skip
"""All kinds, in the order in which they are looked for: what one has found, the next do not see."""
PLACEHOLDERS: Mapping[Kind, str] = {
    "link": "[LINK]", "email": "[EMAIL]", "ip": "[IP]", "resident_id": "[RESIDENT ID]",
    "bank_card": "[BANK CARD]", "passport": "[PASSPORT]", "phone": "[PHONE]", "qq": "[QQ]",
    "wechat": "[WECHAT]",
}  # fmt: skip
REASONS: Mapping[Kind, str] = {
    "link": "link", "email": "e-mail address", "ip": "IP address", "resident_id": "resident id",
    "bank_card": "bank card", "passport": "passport", "phone": "phone number", "qq": "QQ number",
    "wechat": "WeChat id",
}  # fmt: skip
_REGIONS = ("CN", "US")
_COVER = "\ue000"
"""Stands for each character of what is found already; a character of private use, no letter."""
_WIDE = re.compile("[\uff10-\uff19]")
_FULL_WIDTH = {0xFF10 + digit: str(digit) for digit in range(10)}
_NUMBERS = frozenset({"resident_id", "bank_card", "passport", "phone", "qq"})
"""Kinds that may have digits of full width."""
_SHOWN = 2
"""Characters of what was found that an example shows."""


class Privacy(CleaningStep):
    """Replace personal data by placeholders such as `[EMAIL]`, or remove it.

    Found are numbers and addresses with a form, not names of people. Telephone numbers are checked
    against numbering plans, resident ids and bank cards by their check digits; passports, QQ
    numbers and WeChat ids are found after words for them only. Words before a number, such as
    `order` or 订单, can also say that it is something else. Findings show the first two characters
    only.

    Attributes:
        kinds: What is looked for: `link`, `email`, `ip`, `resident_id`, `bank_card`, `passport`,
            `phone`, `qq` and `wechat`.
        remove: Those of the kinds that are removed, and leave no placeholder.
        regions: Telephone numbers without a country code are found if they are written as in these
            regions, given as codes of ISO 3166.
    """

    name: ClassVar[str] = "privacy"

    kinds: tuple[Kind, ...] = KINDS
    remove: tuple[Kind, ...] = ()
    regions: tuple[str, ...] = _REGIONS

    @field_validator("remove")
    @classmethod
    def _are_looked_for(cls, remove: tuple[Kind, ...], info: ValidationInfo) -> tuple[Kind, ...]:
        missing = sorted(set(remove) - set(info.data.get("kinds", remove)))
        if missing:
            raise ValueError(f"{', '.join(missing)}: not in kinds, so not looked for")
        return remove

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        others = set(self.regions) - set(_REGIONS)
        if others and "phone" in self.kinds and (unknown := others - supported_regions()):
            raise UserError(
                "no such region; regions are such as CN, US, GB", key=f"{self.name}.regions",
                value=", ".join(sorted(unknown)),
            )  # fmt: skip

    def required(self) -> Mapping[str, str]:
        return {"phonenumbers": "phonenumbers"} if "phone" in self.kinds else {}

    def apply(self, document: Document) -> Outcome:
        """Replace or remove what is found."""
        found = Findings()
        spans = sorted(self.spans(document.text))
        parts, at = [], 0
        for start, end, kind in spans:
            found.add(REASONS[kind], masked(document.text[start:end]))
            parts.append(document.text[at:start])
            if kind not in self.remove:
                parts.append(PLACEHOLDERS[kind])
            at = end
        return changed(document, "".join([*parts, document.text[at:]]), found)

    def spans(self, text: str) -> list[tuple[int, int, Kind]]:
        """Where personal data of each kind begins and ends; no two overlap."""
        finders: dict[Kind, Callable[[str], Iterable[Span]]] = {
            "link": links, "email": emails, "ip": ip_addresses, "resident_id": resident_ids,
            "bank_card": bank_cards, "passport": passports,
            "phone": partial(phones, regions=self.regions), "qq": qq_numbers,
            "wechat": wechat_ids,
        }  # fmt: skip
        found: list[tuple[int, int, Kind]] = []
        # One character for one, so that places stay.
        narrow = text.translate(_FULL_WIDTH) if _WIDE.search(text) else text
        for kind in KINDS:
            if kind in self.kinds:
                new = _apart(finders[kind](narrow if kind in _NUMBERS else text))
                found += [(start, end, kind) for start, end in new]
                text, narrow = _covered(text, new), _covered(narrow, new)
        return found


def _apart(spans: Iterable[Span]) -> list[Span]:
    """The spans in order; of two that overlap, the one that begins first, or the longer."""
    kept: list[Span] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def _covered(text: str, spans: list[Span]) -> str:
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at:start], _COVER * (end - start)]
        at = end
    return "".join([*parts, text[at:]])


def masked(text: str) -> str:
    """What was found, with all letters and digits but the first two hidden."""
    return text[:_SHOWN] + re.sub(r"\w", "*", text[_SHOWN:])
