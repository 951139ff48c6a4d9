"""The steps under datatrove's local executor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("datatrove")
pytest.importorskip("pyarrow")

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter

from regrow.cleaning.datatrove_steps import NgramSignatures, pipeline_steps
from tests.cleaning.corpora import QUESTION, config


def test_the_steps_of_a_configuration(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "questions.jsonl").write_text(f'{{"q": "{QUESTION}"}}')
    (tmp_path / "in").mkdir()
    texts = ["a text: hahahahahahahaha!", f"Here: {QUESTION}.", "plain"]
    for number in range(2):
        table = pyarrow.table(
            {"text": [f"{text} {number}" for text in texts], "id": ["a", "b", "c"]}
        )
        pyarrow.parquet.write_table(table, tmp_path / f"in/{number}.parquet")
    steps = pipeline_steps(config(tmp_path, tmp_path / "out"))
    assert [str(step) for step in steps] == ["regrow: squeeze", "regrow: benchmark questions"]
    done = LocalPipelineExecutor(
        pipeline=[
            ParquetReader(str(tmp_path / "in")), *steps,
            ParquetWriter(str(tmp_path / "done"), compression=None),
        ],
        logging_dir=str(tmp_path / "logs"), tasks=2, workers=1,
    ).run()  # fmt: skip
    rows = [row for path in sorted((tmp_path / "done").iterdir())
            for row in pyarrow.parquet.read_table(path).to_pylist()]  # fmt: skip
    assert [row["text"] for row in rows] == [
        "a text: hahahaha! 0", "plain 0", "a text: hahahaha! 1", "plain 1",
    ]  # fmt: skip
    counted: Any = {str(stats.name): stats for stats in done.stats}
    assert counted["regrow: squeeze"]["repeated characters"].total == 2
    assert counted["regrow: benchmark questions"]["dropped"].total == 2


def test_signatures_of_chinese_text(tmp_path: Path) -> None:
    made = NgramSignatures(str(tmp_path))
    base = "".join(chr(0x4E00 + 7 * number) for number in range(300))
    one, two, other = (
        np.concatenate(made.get_signature(made.get_shingles(text)))
        for text in (base, base[:150] + "\u4e00" + base[151:], base[::-1])
    )
    assert (one == two).mean() > 0.85
    assert (one == other).mean() < 0.1
