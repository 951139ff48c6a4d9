"""Rows on the disk come back sorted."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.instructions import spool
from regrow.instructions.spool import Spool, SpoolRow


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.text()), max_size=30), st.integers(1, 9))
def test_rows_come_back_by_their_draws(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]], buckets: int
) -> None:
    import json

    added = [
        SpoolRow(draw, number, number, 2, 0, json.dumps({"text": text}, ensure_ascii=True))
        for number, (draw, text) in enumerate(rows)
    ]
    place = tmp_path_factory.mktemp("spool") / "s"
    with Spool(place, (buckets - 1) * spool._ROWS_A_BUCKET) as found:
        for row in added:
            found.add(row)
    assert [*found.rows()] == sorted(added, key=lambda row: (row.draw, row.number))
    assert [*place.iterdir()] == []


def test_unicode_line_ends_stay(tmp_path: Path) -> None:
    row = SpoolRow(1, 0, 1, 1, 0, '{"a": "x\u2028y\x85z"}')
    with Spool(tmp_path / "s", 1) as found:
        found.add(row)
    assert [*found.rows()] == [row]
