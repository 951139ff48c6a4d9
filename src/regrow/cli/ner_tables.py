"""What the commands of `regrow ner` print."""

from typing import TYPE_CHECKING

from regrow.cli.output import OUT, new_table, print_json

if TYPE_CHECKING:
    from regrow.ner.evaluate import EntityResult
    from regrow.ner.train import TrainedTagger


def print_tagger(result: "TrainedTagger", as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for note in result.notes:
        OUT.say(note)
    OUT.print(f"{result.examples:,} examples, {result.tokens:,} tokens in {result.seconds:,.0f} s")
    if result.skipped:
        OUT.print(f"{result.skipped:,} steps skipped")
    if result.heldout is not None:
        OUT.print(f"loss    {result.heldout:.4f} nats per answer token held out")
    OUT.print(f"model   {result.model}", soft_wrap=True)


def print_tagged(result: "EntityResult", as_json: bool) -> None:
    if as_json:
        print_json({**vars(result), "f1": result.f1, "report_f1": result.report_f1})
        return
    for note in result.notes:
        OUT.say(note)
    names = ("sentences", "F1", "precision", "recall", "report F1", "unaligned", "s/sentence")
    table = new_table(("set", "left"), *((name, "right") for name in names))
    for each in result.sets:
        shares = (each.f1, each.precision, each.recall, each.report_f1)
        table.add_row(
            each.name, f"{each.sentences:,}", *(f"{100 * share:.2f}" for share in shares),
            f"{each.unaligned:,}", f"{each.seconds:.3f}",
        )  # fmt: skip
    if len(result.sets) > 1:
        mean, report = (f"{100 * share:.2f}" for share in (result.f1, result.report_f1))
        table.add_row("mean", "", mean, "", "", report, "", "")
    OUT.print(table)
    way = "tags alone are chosen" if result.constrained else "answers are written freely"
    left_out = f"; without {', '.join(result.without)}" if result.without else ""
    OUT.print(f"{way}{left_out}")
    if divided := sum(each.divided for each in result.sets):
        OUT.print(f"{divided:,} sentences were divided, since they are too long for one prompt")
