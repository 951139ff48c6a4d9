"""The keyword options of the functions are the keys of the models that check them."""

import inspect
from dataclasses import fields

import pytest

import regrow
from regrow.api import options
from regrow.pipeline.plan_spec import PlanSpec
from regrow.scoring.score_file import ScoreSpec
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.grow_vocabulary import MergeLimits
from regrow.vocabulary.vocabulary_spec import VocabularySpec
from regrow.writing.text_writer import WritingSettings

FUNCTIONS = [name for name in regrow.__all__ if inspect.isfunction(getattr(regrow, name))]


def test_options_are_the_keys_of_the_models() -> None:
    keys = {
        options.PlanOptions: PlanSpec.model_fields.keys(),
        options.CutOptions: CutSpec.model_fields.keys(),
        options.ScoreOptions: ScoreSpec.model_fields.keys(),
        options.VocabularyOptions: VocabularySpec.model_fields.keys()
        - {"counts", "plan", "pad_to"},
        options.MergeOptions: {field.name for field in fields(MergeLimits)},
        options.WritingOptions: {f.name for f in fields(WritingSettings)} - {"tokens", "prompts"},
    }
    for kind, known in keys.items():
        assert set(kind.__annotations__) == set(known), kind


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_is_readable(name: str) -> None:
    function = getattr(regrow, name)
    signature, text = str(inspect.signature(function)), inspect.getdoc(function)
    assert "<" not in signature  # no objects in place of names
    assert text
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD and isinstance(parameter.annotation, str):
            kind = parameter.annotation.removeprefix("Unpack[").removesuffix("]")
            if kind != "Any":
                for option in getattr(options, kind).__annotations__:
                    assert f"`{option}`" in text, f"{name}: {option}"
        elif name != "durable":
            assert f"    {parameter.name}: " in text, f"{name}: {parameter.name}"


def test_help_of_the_package_names_every_function() -> None:
    assert regrow.__doc__
    for name in FUNCTIONS:
        assert f"`{name}`" in regrow.__doc__ or f"regrow.{name}(" in regrow.__doc__, name
