"""What `--json` prints is JSON, whatever a model wrote or measured."""

import json
import math

import pytest

from regrow.cli.output import print_json


def test_it_is_json_with_any_text_and_number(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b\x7f\x96\U0001f600\u2028"
    print_json({"text": text, "losses": [math.inf, -math.inf, math.nan, 0.5], "none": None})

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"text": text, "losses": [None, None, None, 0.5], "none": None}
