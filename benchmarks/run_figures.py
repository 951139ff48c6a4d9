"""The charts of a finished run as SVG files, as docs/figures has them: one for each text.

`python benchmarks/run_figures.py runs/quickstart docs/figures` writes `quickstart-TEXT.svg`.
"""

import argparse
from pathlib import Path

from common import write_figure

from regrow.pipeline.summary import summarise
from regrow.report.charts import Step, journey
from regrow.report.records import Score


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("run", type=Path, help="the directory of a run")
    options.add_argument("out", type=Path, help="the directory of the figures")
    given = options.parse_args()
    summary = summarise(given.run)
    stages = [row for row in summary.models if row.role == "stage"]
    for text in summary.measured_texts:

        def bits(scores: dict[str, Score], text: str = text) -> float | None:
            return scores.get(text, Score()).bits_per_byte

        steps = [Step(row.name, bits(row.after_cut), bits(row.after_recovery)) for row in stages]
        original = None if summary.original is None else bits(summary.original.after_recovery)
        title = f"{text}: bits per byte after each cut and each recovery"
        name = f"{given.run.name}-{text.replace(' ', '-')}.svg"
        write_figure(journey(title, original, steps), given.out / name)


if __name__ == "__main__":
    main()
