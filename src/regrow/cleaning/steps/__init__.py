"""The steps of cleaning; each keeps, changes or drops one document by itself."""

from collections.abc import Mapping
from types import MappingProxyType

from regrow.cleaning.steps.base import CleaningStep
from regrow.cleaning.steps.html import Html
from regrow.cleaning.steps.language import Language
from regrow.cleaning.steps.repair import Repair
from regrow.cleaning.steps.sentences import Sentences
from regrow.cleaning.steps.squeeze import Squeeze

STEPS: Mapping[str, type[CleaningStep]] = MappingProxyType(
    {step.name: step for step in (Html, Repair, Language, Sentences, Squeeze)}
)
"""Each step by its name in the configuration; the fields of the class are its settings."""

__all__ = ["STEPS", "CleaningStep"]
