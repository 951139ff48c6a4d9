"""What `regrow instructions` prints."""

from typing import TYPE_CHECKING

from regrow.cli.output import OUT, new_table, print_json

if TYPE_CHECKING:
    from regrow.instructions.build import Built
    from regrow.instructions.lint import Linted


def print_built(result: "Built", as_json: bool) -> None:
    from regrow.instructions.report import as_json as report_json

    report = result.report
    if as_json:
        print_json(
            {"directory": result.directory, "passes": result.passes, "seconds": result.seconds,
             **report_json(report)}
        )  # fmt: skip
        return
    names = ("samples", "broken", "dropped", "not asked for", "train", "held out")
    table = new_table(("source", "left"), *((name, "right") for name in names))
    for each in report.sources:
        counts = (
            each.samples, sum(each.broken.values()), sum(each.dropped.values()), each.left,
            each.train, each.heldout,
        )  # fmt: skip
        table.add_row(each.name, *(f"{count:,}" for count in counts))
    OUT.print(table)
    OUT.print()
    total = report.train + report.heldout
    table = new_table(("task", "left"), ("instructions", "right"), ("share", "right"))
    for task, count in report.tasks.items():
        table.add_row(task, f"{count:,}", f"{count / total:.1%}")
    OUT.print(table)
    OUT.print()
    for name, spread in report.lengths.items():
        OUT.print(
            f"{name}: {spread.mean:,.1f} {report.unit} on average, 95% at most {spread.p95:,}, "
            f"the longest {spread.longest:,}"
        )
    for note in report.notes:
        OUT.say(note)
    OUT.print(
        f"{report.train:,} instructions, {report.heldout:,} held out, in {result.seconds:,.0f} s"
    )
    OUT.print(f"written {result.directory}", soft_wrap=True)


def print_linted(result: "Linted", as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for finding in result.findings:
        OUT.say(str(finding))
    OUT.print(f"{result.templates:,} templates, {len(result.findings):,} with a mistake")
