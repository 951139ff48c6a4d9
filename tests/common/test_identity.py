"""What a hash of a result's inputs depends on, and what it does not."""

from dataclasses import dataclass, field, make_dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.identity import identity_of
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.steps import TextHashes, plan_steps
from regrow.surgery.cut_spec import CutSpec
from regrow.training.settings import RecoverySettings

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
facts = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), facts, max_size=4))
def test_the_order_of_facts_does_not_count_and_their_content_does(found: dict[str, Any]) -> None:
    found.pop("kind", None)
    backwards = dict(reversed(list(found.items())))
    assert identity_of("rows", **found) == identity_of("rows", **backwards)
    assert identity_of("rows", **found) != identity_of("other", **found)
    assert identity_of("rows", **found) != identity_of("rows", **found, more=1)


@given(
    st.integers(),
    st.lists(st.integers(-(10**9), 10**9)),
    st.from_regex(r"[A-Z][a-z]{1,8}", fullmatch=True),
)
def test_neither_names_of_classes_nor_new_fields_with_a_default_count(
    number: int, values: list[int], name: str
) -> None:
    before = make_dataclass("Before", [("number", int), ("values", list)])
    after = make_dataclass(
        name,
        [
            ("values", list), ("number", int), ("added", int, field(default=3)),
            ("more", list, field(default_factory=list)),
        ],
    )  # fmt: skip
    old, new = before(number, values), after(values, number)
    assert identity_of("x", fact=old) == identity_of("x", fact=new)
    assert identity_of("x", fact=old) == identity_of("x", fact=before(number, np.array(values)))
    assert identity_of("x", fact=old) != identity_of("x", fact=after(values, number, added=4))
    assert identity_of("x", fact=old) != identity_of("x", fact=after(values, number + 1))


def test_what_has_no_content_of_its_own_is_refused() -> None:
    @dataclass
    class Holder:
        inside: object

    with pytest.raises(TypeError, match="object: no fact"):
        identity_of("x", fact=Holder(object()))


def test_settings_and_cuts_that_hold_defaults_decide_as_if_they_were_not_written() -> None:
    settings = RecoverySettings(tokens=5_000)
    written_out = RecoverySettings.model_validate(settings.model_dump())
    assert settings.decisive() == written_out.decisive() == {"tokens": 5_000}

    def steps(cut: CutSpec, recover: RecoverySettings) -> dict[str, str]:
        recipe = Recipe.model_validate(
            {
                "name": "a", "model": "m", "data": {"train": "t.txt", "heldout": {"h": "h.txt"}},
                "stages": [Stage(name="s", cut=cut, recover=recover)],
            }
        )  # fmt: skip
        texts = TextHashes("train", {"h": "hash"})
        planned = plan_steps(recipe, {"weights": "w"}, texts, "text")
        return {name: step.key for name, step in planned.items()}

    cut = CutSpec(ffn=8)
    plain = steps(cut, settings)
    assert plain == steps(CutSpec.model_validate(cut.model_dump()), written_out)
    assert plain != steps(CutSpec(ffn=9), settings)
    assert plain != steps(cut, RecoverySettings(tokens=5_000, clip=2.0))


def test_distillation_decides_by_the_keys_of_a_recipe() -> None:
    settings = RecoverySettings.model_validate({"distill": {"from": "original"}})
    assert settings.decisive() == {"distill": {"from": "original"}}
    settings = RecoverySettings.model_validate({"distill": {"from": "previous", "weight": 1}})
    assert settings.decisive() == {"distill": {"from": "previous", "weight": 1.0}}
    assert RecoverySettings.model_validate(settings.model_dump(by_alias=True)) == settings
