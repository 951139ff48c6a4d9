"""What was measured is kept."""

from dataclasses import replace
from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.surgery.search.measured_cuts import (
    FILE,
    MeasuredCut,
    MeasuredCuts,
    MeasuredSpeed,
    opened,
)


def test_results_are_read_back(tmp_path: Path) -> None:
    cut = MeasuredCut({"ffn": 8, "layer": 2}, 1.25, 3.0)
    speed = MeasuredSpeed({"ffn": 8}, "this, 1 threads", 0.25, 0.125)
    with opened(tmp_path / "new" / "place", {"model": "sha256:0"}) as known:
        assert known.cut(cut.sizes) is None
        known.add(MeasuredCut({}, 1.0, 9.0))
        known.add(cut)
        known.add(speed)
        assert known.cut(cut.sizes, refit=False) is None
        known.add(replace(cut, bits_per_byte=2.5, seconds=1.0, refit=False))
    again = MeasuredCuts(tmp_path / "new" / "place", {})
    assert again.cut({"layer": 2, "ffn": 8}) == cut
    assert again.cut({"ffn": 8}) is None
    plain = again.cut(cut.sizes, refit=False)
    assert plain is not None
    assert plain.bits_per_byte == 2.5
    assert again.seconds(refit=False) == [1.0]
    assert again.speed({"ffn": 8}, "this, 1 threads") == speed
    assert again.speed({"ffn": 8}, "another") is None
    assert again.seconds() == [3.0]
    assert '"model": "sha256:0"' in (tmp_path / "new" / "place" / FILE).read_text()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        opened(tmp_path, {}),
        pytest.raises(UserError, match=r"another process \(\d+\) measures this model; wait for it"),
        opened(tmp_path, {}),
    ):
        pass
    with opened(tmp_path, {}):
        pass


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "cuts": [1]}'])
def test_a_file_of_something_else_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=FILE):
        MeasuredCuts(tmp_path, {})
