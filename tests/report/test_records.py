import subprocess
import sys

import pytest
from pydantic import ValidationError

from regrow.report.records import KeptAxis, ModelRow, RunSummary


def test_the_summary_survives_json(smollm2: RunSummary) -> None:
    assert RunSummary.model_validate_json(smollm2.model_dump_json()) == smollm2


def test_losses_that_diverged_survive_json(smollm2: RunSummary) -> None:
    stage = smollm2.stages[0].model_copy(update={"curve": ((1, float("inf")), (2, 3.5))})
    summary = smollm2.model_copy(update={"stages": (stage,)})
    assert RunSummary.model_validate_json(summary.model_dump_json()) == summary


def test_original_result_and_texts(smollm2: RunSummary, bare: RunSummary) -> None:
    assert smollm2.original is not None
    assert smollm2.original.parameters == 134_515_008
    assert smollm2.result is not None
    assert smollm2.result.name == "vocabulary"
    assert smollm2.measured_texts == ("stories", "prose")
    assert smollm2.vocabularies == (49152, 16384)
    assert (bare.original, bare.result, bare.measured_texts) == (None, None, ())


@pytest.mark.parametrize(
    ("axis", "told"),
    [
        ({"before": 4, "kept": (0, 4)}, "outside"),
        ({"before": 4, "kept": (1, 1)}, "increase"),
        ({"before": 4, "kept_by_layer": ((0, 1), (3, 2))}, "increase"),
        ({"before": 4}, "one of the two"),
        ({"before": 4, "kept": (0,), "kept_by_layer": ((0,),)}, "one of the two"),
        ({"before": 4, "kept_by_layer": ((0,),), "layers": (0, 1)}, "number the rows"),
    ],
)
def test_kept_indices_are_checked(axis: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        KeptAxis.model_validate({"axis": "decoder.ffn", **axis})


def test_parts_must_add_up() -> None:
    with pytest.raises(ValidationError, match="adds up to 9, not 10"):
        ModelRow(name="m", role="stage", parameters=10, parameters_by_part={"ffn": 9})


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        ModelRow.model_validate({"name": "m", "role": "stage", "parameters": 1, "params": 2})


def test_the_report_is_light() -> None:
    code = (
        "import sys, regrow.report.page, regrow.report.terminal;"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
